-- hash: the circuit's hash as a table: read, set, save, and the TTLs of all its keys.
--
-- Owns field names, defaults and expiry; knows no transition. Only fields that are not at their
-- default are ever written. Invariants: a key that a script has written has a TTL when it returns;
-- what somebody else wrote into the hash and is not a value of its field reads as the default, and
-- is written over by the next save; fields that are not known are kept.
-- Twin: the fields of `model::Circuit`.

local DAY = 86400000
local FOREVER = 3650 * DAY -- every key has a TTL, and yet an override without an end must not decay

local function is_override(state)
  return state == 'forced_open' or state == 'disabled' or state == 'metrics_only'
end

-- How long the circuit's keys outlive their last use, in ms.
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

-- Counts as they are kept: "calls failures slow undecided", without the last when they are 0. What
-- is not of that form counts nothing.
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

-- What an ordinary report changes is in two fields: reading, writing and finding each costs Redis, and
-- one of more than 64 bytes makes the whole hash take twice the memory.
local COUNTS, RECENT = 'window=%d/%d/%d/%d total=%d/%d/%d/%d/%d/%d', 'run=%d success=%d failure=%d'

-- The numbers of such a field; none where it is not of its form.
local function numbers(text, form)
  local found = { string.match(text, '^' .. string.gsub(form, '%%d', '(%%d+)') .. '$') }
  for i = 1, #found do
    found[i] = tonumber(found[i])
    if found[i] > LARGEST then return {} end
  end
  return found
end

local function parse_kept(c)
  local counts, recent = numbers(c.counts, COUNTS), numbers(c.recent, RECENT)
  c.window_calls, c.window_failures, c.window_slow = counts[1] or 0, counts[2] or 0, counts[3] or 0
  c.window_undecided = counts[4] or 0
  c.successes_total, c.failures_total, c.slow_total = counts[5] or 0, counts[6] or 0, counts[7] or 0
  c.ignored_total, c.not_permitted_total, c.abandoned_total = counts[8] or 0, counts[9] or 0, counts[10] or 0
  c.consecutive_failures, c.last_success_ms, c.last_failure_ms = recent[1] or 0, recent[2] or 0, recent[3] or 0
end

local function write_kept(c)
  local counts = string.format(COUNTS, c.window_calls, c.window_failures, c.window_slow, c.window_undecided,
    c.successes_total, c.failures_total, c.slow_total, c.ignored_total, c.not_permitted_total, c.abandoned_total)
  local recent = string.format(RECENT, c.consecutive_failures, c.last_success_ms, c.last_failure_ms)
  set(c, 'counts', string.find(counts, '[1-9]') and counts or '')
  set(c, 'recent', string.find(recent, '[1-9]') and recent or '')
end

local function forget_window(c, also)
  redis.call('DEL', WINDOW, also or WINDOW)
  set(c, 'window', '')
  set(c, 'window_at', 0)
  set(c, 'window_ended', '')
  c.window_calls, c.window_failures, c.window_slow, c.window_undecided = 0, 0, 0, 0
end

-- Changes settings by a text of `key=integer` pairs; what is not understood, or larger than a
-- policy may have it, is left out.
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

-- Whether somebody wrote more fields into a hash than we would have. Who lacks the right to ask
-- does not know.
local function is_flooded(key, most)
  local length = redis.pcall('HLEN', key)
  return type(length) == 'number' and length > most
end

-- The policies in code that replicas noted: a list of {name, id, seen, replicas} in the order of
-- their ids. A name is the settings that are not at their default, as text.
local function policies_in_use()
  local list, held = {}, is_flooded(CODE, 64) and {} or redis.call('HGETALL', CODE)
  for i = 1, #held, 2 do
    local id, seen, replicas = string.match(held[i + 1], '^(%d+) (%d+) (%d+)$')
    id, seen, replicas = tonumber(id), tonumber(seen), tonumber(replicas)
    if id and id <= LARGEST and seen <= LARGEST and replicas <= LARGEST and #held[i] <= LONGEST_TEXT then
      list[#list + 1] = { name = held[i], id = id, seen = seen, replicas = replicas }
    end
  end
  table.sort(list, function(a, b) return a.id < b.id or a.id == b.id and a.name < b.name end)
  return list
end

-- The policy in code that was last noted: its settings, and the same as text.
local function last_policy()
  local last = { name = 'default', seen = -1 }
  for _, p in ipairs(policies_in_use()) do
    if p.seen >= last.seen then last = p end
  end
  return apply(policy_defaults(), last.name), last.name ~= 'default' and last.name or ''
end

-- The longest wait in open, jitter included.
local function longest_wait()
  local wait = math.max(policy[WAIT_MS], policy[MAX_WAIT_MS])
  return wait + math.floor(wait * policy[JITTER] / 100)
end

-- The times of a state, where the clock was set back, or another server's is behind, or somebody
-- wrote them: it has begun by now, lasts no longer than it was to, nor than the policy has it last.
-- Twin: `model::snapshot::Span`.
local function keep_in_time(c)
  local ahead, state = math.max(0, c.since_ms - now), c.state
  local function bound(field, longest)
    if c[field] > 0 then set(c, field, math.min(math.max(c[field] - ahead, ahead > 0 and now or 0), now + longest)) end
  end
  bound('until_ms', state == 'open' and math.max(longest_wait(), policy[LEASE_MS])
    or state == 'half_open' and policy[HALF_OPEN_MS] or CENTURY_MS)
  bound('ramp_until_ms', policy[RAMP_MS])
  bound('retry_after_until_ms', LARGEST)
  if ahead > 0 then set(c, 'since_ms', now) end
end

-- Times that are later than any can be, as those of a clock that was set back, are read as the
-- latest.
local function keep_scores(key, latest)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', latest), '+inf', 'LIMIT', 0, 100)) do
    redis.call('ZADD', key, latest, member)
  end
end

-- Why a circuit can be in its state. Twin: `model::Reason`.
local REASONS = ' failure_rate failure_count consecutive_failures slow_call_rate tripped wait_elapsed probe_failed'
  .. ' half_open_timeout recovered override override_expired reset adopted '

local function is_reason(word)
  return word == 'created' or string.find(word, '^[%l_]+$') and string.find(REASONS, ' ' .. word .. ' ', 1, true)
end

-- A field whose default is 0 is a number. Asked for by name, so that what somebody else wrote
-- beside them, however much it is, costs nothing and stays.
local function read()
  local c = {
    format = 0, state = 'closed', generation = 0, since_ms = 0, until_ms = 0, reason = 'created', consecutive_opens = 0,
    window = '', window_at = 0, window_ended = '', counts = '', recent = '', probe_successes = 0, probe_failures = 0,
    ramp_until_ms = 0, retry_after_until_ms = 0, override_author = '', override_reason = '', policy = '',
    policy_version = 0, policies_differ = '', history_at = 0, replicas = 0, expires_ms = 0,
  }
  local fields = {
    'state', 'generation', 'since_ms', 'until_ms', 'reason', 'consecutive_opens', 'window', 'window_at', 'window_ended',
    'counts', 'recent', 'probe_successes', 'probe_failures', 'ramp_until_ms', 'retry_after_until_ms', 'override_author',
    'override_reason', 'policy', 'policy_version', 'policies_differ', 'history_at', 'replicas', 'expires_ms', 'format',
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
  parse_kept(c)
  local state, reason = c.state, c.reason
  if state ~= 'closed' and state ~= 'open' and state ~= 'half_open' and not is_override(state) then
    set(c, 'state', 'closed')
  end
  if not is_reason(reason) then set(c, 'reason', 'created') end
  -- No replica could have another adopt it.
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

-- Writes what was set; renews every TTL when the last renewal is long ago or `renew` is true.
local function save(c, renew)
  local left, most = c.expires_ms - now, lifetime(c)
  renew = renew or c.missing or left < most - DAY / 8 or left > most + DAY
  if renew then set(c, 'expires_ms', now + most) end
  if c.format < FORMAT then set(c, 'format', FORMAT) end
  write_kept(c)
  local args = c.missing and { 'state', c.state, 'generation', c.generation } or {}
  for _, field in ipairs(c.changed) do
    local value = c[field]
    args[#args + 1] = field
    -- Redis would write a number just so, but takes twice as long.
    args[#args + 1] = type(value) == 'number' and string.format('%d', value) or value
  end
  c.changed, c.missing = {}, false
  if #args > 0 then redis.call('HSET', CIRCUIT, unpack(args)) end
  if renew then
    for i = 1, #KEYS do keep(c, KEYS[i]) end
  end
end
