-- hash: the circuit's hash as a table: read, set, save, and the TTLs of all its keys.
--
-- Owns field names, defaults and expiry; knows no transition. Only fields that are not at their
-- default are ever written. Invariant: a key that a script has written has a TTL when it returns.
-- Twin: the fields of `model::Circuit`.

local DAY = 86400000
local FOREVER = 3650 * DAY -- every key has a TTL, and yet an override without an end must not decay

local FIELDS = {
  'state', 'generation', 'since_ms', 'until_ms', 'reason', 'consecutive_opens', 'window', 'window_at', 'window_calls',
  'window_failures', 'window_slow', 'consecutive_failures', 'probe_successes', 'probe_failures', 'ramp_until_ms',
  'retry_after_until_ms', 'successes_total', 'failures_total', 'slow_total', 'ignored_total', 'not_permitted_total',
  'last_success_ms', 'last_failure_ms', 'override_author', 'override_reason', 'policy', 'expires_ms',
}
local TEXTS = { state = 'closed', reason = 'created', window = '', override_author = '', override_reason = '', policy = '' }
local STATES = {
  closed = true, open = true, half_open = true, forced_open = true, disabled = true, metrics_only = true,
}
local OVERRIDES = { forced_open = true, disabled = true, metrics_only = true }

local function number(n)
  return string.format('%.0f', n)
end

-- How long the circuit's keys outlive their last use, in ms.
local function lifetime(c)
  if OVERRIDES[c.state] and c.until_ms == 0 then return FOREVER end
  return DAY + policy[WINDOW_MS] + policy[HALF_OPEN_MS] + policy[LEASE_MS] + policy[BACKOFF_RESET_MS]
    + math.max(0, c.until_ms - now)
end

local function keep(c, key)
  redis.call('PEXPIRE', key, number(lifetime(c)))
end

local function set(c, field, value)
  if c[field] == value then return end
  c[field] = value
  c.changed[#c.changed + 1] = field
end

local function add(c, field, n)
  if n > 0 then set(c, field, c[field] + n) end
end

local function read()
  local c = { changed = {} }
  local values = redis.call('HMGET', CIRCUIT, unpack(FIELDS))
  for i = 1, #FIELDS do
    local field = FIELDS[i]
    local default = TEXTS[field]
    if default then
      c[field] = values[i] or default
    else
      c[field] = values[i] and tonumber(values[i]) or 0
    end
  end
  c.missing = not values[1]
  if c.policy ~= '' then
    local at = {}
    for i, key in ipairs(POLICY_KEYS) do at[key] = i end
    for key, value in string.gmatch(c.policy, '([%w_]+)=(%d+)') do
      if at[key] and #value < 16 then policy[at[key]] = tonumber(value) end
    end
    check_policy()
  end
  return c
end

-- Writes what was set; renews every TTL when the last renewal is long ago or `renew` is true.
local function save(c, renew)
  renew = renew or c.missing or c.expires_ms - now < lifetime(c) - DAY / 8
  if renew then set(c, 'expires_ms', now + lifetime(c)) end
  local args, written = {}, {}
  if c.missing then
    args = { 'state', c.state, 'generation', number(c.generation) }
    written = { state = true, generation = true }
  end
  for _, field in ipairs(c.changed) do
    if not written[field] then
      local value = c[field]
      written[field] = true
      args[#args + 1] = field
      args[#args + 1] = type(value) == 'number' and number(value) or value
    end
  end
  c.changed, c.missing = {}, false
  if #args > 0 then redis.call('HSET', CIRCUIT, unpack(args)) end
  if renew then
    for i = 1, #KEYS do keep(c, KEYS[i]) end
  end
end
