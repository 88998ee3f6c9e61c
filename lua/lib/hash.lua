-- hash: the circuit's hash as a table: read, set, save, and the TTLs of all its keys.
--
-- Owns field names, defaults and expiry; knows no transition. A field is written only once it
-- differs from its default. Invariants: every key that a script has written has a TTL when the
-- script returns; a foreign value that is not valid for its field reads as the default, and the
-- next save overwrites it; unknown fields are kept. Twin: the fields of `model::Circuit`.

local DAY = 86400000
local FOREVER = 3650 * DAY -- every key has a TTL, but an override without an end must not expire

local function is_override(state)
  return state == 'forced_open' or state == 'disabled' or state == 'metrics_only'
end

-- Returns how long the circuit's keys outlive their last use, in ms.
local function lifetime(c)
  if is_override(c.state) and c.until_ms == 0 then return FOREVER end
  return DAY + policy[WINDOW_MS] + policy[HALF_OPEN_MS] + policy[LEASE_MS] + policy[BACKOFF_RESET_MS]
    + math.max(0, c.until_ms - now)
end

local function keep(c, key)
  redis.call('PEXPIRE', key, lifetime(c))
end

local function set(c, field, value)
  if c[field] == value then return end
  c[field] = value
  c.changed[#c.changed + 1] = field
end

local function add(c, field, n)
  if n > 0 then set(c, field, c[field] + n) end
end

-- Reads stored counts: "calls failures slow undecided", where zeros at the end (slow, undecided)
-- are omitted. A text in any other form counts nothing.
local function parse(counts)
  local calls, failures, slow, undecided = string.match(counts or '', '^(%d+) (%d+) ?(%d*) ?(%d*)$')
  local x, y, z, w = tonumber(calls) or 0, tonumber(failures) or 0, tonumber(slow) or 0, tonumber(undecided) or 0
  if x > LARGEST or y > LARGEST or z > LARGEST or w > LARGEST then return 0, 0, 0, 0 end
  return x, y, z, w
end

local function write(calls, failures, slow, undecided)
  local form = undecided > 0 and '%d %d %d %d' or slow > 0 and '%d %d %d' or '%d %d'
  return string.format(form, calls, failures, slow, undecided)
end

-- Counts that change together share a field, because reading and writing each field costs Redis
-- time. But at most three of them: with a value of more than 64 bytes the whole hash takes twice
-- the memory.
local CALLS, TOTAL = 'calls=%d failures=%d slow=%d', 'successes=%d failures=%d slow=%d'

local CALLS_READ, TOTAL_READ = '^calls=(%d+) failures=(%d+) slow=(%d+)$', '^successes=(%d+) failures=(%d+) slow=(%d+)$'

-- Returns the numbers of such a field; zeros if it has another form.
local function parse_words(text, pattern)
  if text == '' then return 0, 0, 0 end
  local x, y, z = string.match(text, pattern)
  x, y, z = tonumber(x) or 0, tonumber(y) or 0, tonumber(z) or 0
  if x > LARGEST or y > LARGEST or z > LARGEST then return 0, 0, 0 end
  return x, y, z
end

local function parse_counts(c)
  c.window_calls, c.window_failures, c.window_slow = parse_words(c.window, CALLS_READ)
  c.ended_calls, c.ended_failures, c.ended_slow = parse_words(c.ended_buckets, CALLS_READ)
  c.successes_total, c.failures_total, c.slow_total = parse_words(c.total, TOTAL_READ)
end

local function set_words(c, field, form, x, y, z)
  set(c, field, x + y + z > 0 and string.format(form, x, y, z) or '')
end

local function write_counts(c)
  set_words(c, 'window', CALLS, c.window_calls, c.window_failures, c.window_slow)
  set_words(c, 'ended_buckets', CALLS, c.ended_calls, c.ended_failures, c.ended_slow)
  set_words(c, 'total', TOTAL, c.successes_total, c.failures_total, c.slow_total)
end

local function set_window(c, calls, failures, slow, undecided)
  c.window_calls, c.window_failures, c.window_slow = calls, failures, slow
  set(c, 'undecided', undecided)
end

local function set_ended(c, calls, failures, slow, undecided)
  c.ended_calls, c.ended_failures, c.ended_slow = calls, failures, slow
  set(c, 'ended_undecided', undecided)
end

local function forget_window(c, also)
  redis.call('DEL', WINDOW, also or WINDOW)
  set(c, 'window_shape', '')
  set(c, 'bucket_at_ms', 0)
  set(c, 'ring_position', 0)
  set_window(c, 0, 0, 0, 0)
  set_ended(c, 0, 0, 0, 0)
end

-- Applies a text of `key=integer` pairs to settings. Pairs that are unknown, or above the largest
-- value of a setting, are ignored.
local function apply(values, pairs_of_text)
  local at = {}
  for i, key in ipairs(policy_keys()) do at[key] = i end
  for pair in string.gmatch(pairs_of_text, '%S+') do
    local key, value = string.match(pair, '^([%w_]+)=(%d+)$')
    local i, n = key and at[key], tonumber(value)
    if i and n <= most_of(i) then values[i] = n end
  end
  return values
end

-- Returns whether a hash has more fields than this crate would write. Without the right to use
-- HLEN, the answer is no.
local function is_flooded(key, most)
  local length = redis.pcall('HLEN', key)
  return type(length) == 'number' and length > most
end

-- Returns the policies in code that replicas have recorded: a list of {name, id, seen, replicas},
-- in the order of their ids. The name is the text of the settings that are not at their default.
local function policies_in_use()
  local list, held = {}, is_flooded(CODE, 64) and {} or redis.call('HGETALL', CODE)
  for i = 1, #held, 2 do
    local id, seen, counted = string.match(held[i + 1], '^id=(%d+) seen_ms=(%d+)(.*)$')
    local replicas = counted == '' and 0 or tonumber(string.match(counted or '', '^ replicas=(%d+)$'))
    id, seen = tonumber(id), tonumber(seen)
    if id and replicas and id <= LARGEST and seen <= LARGEST and replicas <= LARGEST and #held[i] <= LONGEST_TEXT then
      list[#list + 1] = { name = held[i], id = id, seen = seen, replicas = replicas }
    end
  end
  table.sort(list, function(a, b) return a.id < b.id or a.id == b.id and a.name < b.name end)
  return list
end

-- Returns the policy in code that was recorded last: its settings, and the same as text.
local function last_policy()
  local last = { name = 'default', seen = -1 }
  for _, p in ipairs(policies_in_use()) do
    if p.seen >= last.seen then last = p end
  end
  return apply(policy_defaults(), last.name), last.name ~= 'default' and last.name or ''
end

-- Returns the longest wait in open, jitter included.
local function longest_wait()
  local wait = math.max(policy[WAIT_MS], policy[MAX_WAIT_MS])
  return wait + math.floor(wait * policy[JITTER] / 100)
end

-- Corrects the times of a state if the clock was set back, another server's clock is behind, or
-- there are foreign values: the state has begun by now, and lasts no longer than intended, nor than
-- the policy allows. Twin: `model::snapshot::Span`.
local function keep_in_time(c)
  local ahead, state = math.max(0, c.since_ms - now), c.state
  local function bound(field, longest)
    if c[field] > 0 then set(c, field, math.min(math.max(c[field] - ahead, ahead > 0 and now or 0), now + longest)) end
  end
  bound('until_ms', state == 'open' and math.max(longest_wait(), policy[LEASE_MS])
    or state == 'half_open' and policy[HALF_OPEN_MS] or CENTURY_MS)
  bound('ramp_until_ms', policy[RAMP_MS])
  bound('retry_after_until_ms', LARGEST)
  if ahead > 0 then
    set(c, 'since_ms', now)
    set(c, 'opened_ms', math.max(0, c.opened_ms - ahead))
  end
end

-- Returns when the circuit opened (failed probes do not change it); 0 if it is neither open nor
-- half-open. If the field is missing, this is when the state began.
local function opened_at(c)
  if c.state ~= 'open' and c.state ~= 'half_open' then return 0 end
  return c.opened_ms > 0 and math.min(c.opened_ms, c.since_ms) or c.since_ms
end

-- Lowers scores that are later than `latest`, such as those from before the clock was set back.
local function keep_scores(key, latest)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', latest), '+inf', 'LIMIT', 0, 100)) do
    redis.call('ZADD', key, latest, member)
  end
end

-- The reasons for which a circuit can be in its state. Twin: `model::Reason`.
local REASONS = ' failure_rate failure_count consecutive_failures slow_call_rate tripped wait_elapsed probe_failed'
  .. ' half_open_timeout recovered override override_expired reset adopted '

local function is_reason(word)
  return word == 'created' or string.find(word, '^[%l_]+$') and string.find(REASONS, ' ' .. word .. ' ', 1, true)
end

-- A field whose default is 0 is a number. Fields are read by name, so that foreign fields cost
-- nothing, however many there are, and are kept.
local function read()
  local c = {
    format = 0, state = 'closed', generation = 0, since_ms = 0, until_ms = 0, reason = 'created', consecutive_opens = 0,
    window = '', undecided = 0, total = '', ignored_total = 0, rejected_total = 0, abandoned_total = 0,
    consecutive_failures = 0, last_success_ms = 0, last_failure_ms = 0, window_shape = '', bucket_at_ms = 0,
    ring_position = 0, ended_buckets = '', ended_undecided = 0, probe_successes = 0, probe_failures = 0, ramp_until_ms = 0,
    retry_after_until_ms = 0, override_author = '', override_reason = '', policy = '', policy_version = 0,
    policies_differ = '', history_at_ms = 0, replicas = 0, expires_ms = 0, opened_ms = 0, open_total_ms = 0,
  }
  local fields = {
    'state', 'generation', 'since_ms', 'until_ms', 'reason', 'consecutive_opens', 'window', 'undecided', 'total',
    'ignored_total', 'rejected_total', 'abandoned_total', 'consecutive_failures', 'last_success_ms', 'last_failure_ms',
    'window_shape', 'bucket_at_ms', 'ring_position', 'ended_buckets', 'ended_undecided', 'probe_successes',
    'probe_failures', 'ramp_until_ms', 'retry_after_until_ms', 'override_author', 'override_reason', 'policy',
    'policy_version', 'policies_differ', 'history_at_ms', 'replicas', 'expires_ms', 'opened_ms', 'open_total_ms', 'format',
  }
  local changed, stored, missing = {}, redis.call('HMGET', CIRCUIT, unpack(fields)), true
  for i = 1, #fields do
    local field, value = fields[i], stored[i]
    if value then
      local default = c[field]
      missing = false
      if default == 0 then
        value = tonumber(value)
        if value and value >= 0 and value <= LARGEST and value % 1 == 0 then
          c[field] = value
        else
          changed[#changed + 1] = field
        end
      elseif #value <= LONGEST_TEXT then
        c[field] = value
      else
        changed[#changed + 1] = field
      end
    end
  end
  if c.format > NEWEST_FORMAT then
    refuse('EFORMAT', string.format('the circuit has format %d, and this release can work with formats up to %d', c.format, NEWEST_FORMAT))
  end
  c.changed, c.missing, c.pace_ms = changed, missing, 0
  parse_counts(c)
  local state, reason = c.state, c.reason
  if state ~= 'closed' and state ~= 'open' and state ~= 'half_open' and not is_override(state) then
    set(c, 'state', 'closed')
  end
  if not is_reason(reason) then set(c, 'reason', 'created') end
  -- No store would adopt a larger generation from a replica.
  if c.generation > MOST_GENERATIONS then set(c, 'generation', 0) end
  if is_operator then
    policy, c.code_policy = last_policy()
  end
  c.policy_in_code = policy
  if c.policy ~= '' then
    c.policy_in_code = { unpack(policy) }
    apply(policy, c.policy)
  end
  if c.since_ms > now or c.until_ms > now or c.ramp_until_ms > now then keep_in_time(c) end
  return c
end

-- Writes the changed fields. Renews every TTL if the last renewal was long ago, or if `renew` is
-- true.
local function save(c, renew)
  write_counts(c)
  local left, most = c.expires_ms - now, lifetime(c)
  renew = renew or c.missing or left < most - DAY / 8 or left > most + DAY
  if renew then set(c, 'expires_ms', now + most) end
  if c.format < FORMAT then set(c, 'format', FORMAT) end
  local args = c.missing and { 'state', c.state, 'generation', c.generation } or {}
  for _, field in ipairs(c.changed) do
    local value = c[field]
    args[#args + 1] = field
    -- Redis would format a number in the same way, but take twice as long.
    args[#args + 1] = type(value) == 'number' and string.format('%d', value) or value
  end
  c.changed, c.missing = {}, false
  if #args > 0 then redis.call('HSET', CIRCUIT, unpack(args)) end
  if renew then
    for i = 1, #KEYS do keep(c, KEYS[i]) end
  end
end
