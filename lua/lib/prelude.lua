-- prelude: the common start of every script: keys, request, checks, server time.
--
-- Owns the shape of KEYS and of the request's head; knows nothing of states.
-- Every script takes the same twelve KEYS, all of one circuit and so of one slot:
--
-- KEYS[1]  circuit   hash    what a person reads with HGETALL; its name is also the channel
-- KEYS[2]  window    hash (time) or string (count)
-- KEYS[3]  probes    zset    member = token, score = lease deadline (Unix ms)
-- KEYS[4]  replicas  zset    member = replica, score = last report (Unix ms)
-- KEYS[5]  seq       hash    replica -> number of its last report, when recorded, its policy's id
-- KEYS[6]  events    stream  the newest 256 transitions and changes of the stored policy
-- KEYS[7]  failing   zset    member = replica, score = when it last reported a failure (Unix ms)
-- KEYS[8]  alone     zset    member = replica, score = end of its open local circuit (Unix ms)
-- KEYS[9]  latency   hash    slice start (Unix ms) -> "bucket:count ..." of how long calls took
-- KEYS[10] history   hash    what was reported in the past hour, and in the two weeks before it
-- KEYS[11] code      hash    policies in code of the replicas: settings -> "id=.. seen_ms=..
--                            replicas=.."; replicas only if there are several policies
-- KEYS[12] kinds     hash    kind of failure -> "count=.. last=(Unix ms) minute=.. before=..
--                            detail"
--
-- ARGV[1] is one MessagePack array. Its head is the same everywhere:
--   {now_ms (0 = server time), entropy (0..999), replica,
--    policy {31 integers; none from an operator, who has no policy: the policy that replicas last
--            reported is used},
--    memory {generation, state, left_ms (-1 = no end), age_ms, opens, author and reason of the
--            override, reason of the state, probes that were in flight}}
-- Errors: EARITY (counts above do not match), EREQUEST (a field has the wrong type or range),
-- EFORMAT (a newer release has written the circuit).

local CIRCUIT, WINDOW, PROBES, REPLICAS, SEQ, EVENTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local FAILING, ALONE, LATENCY, HISTORY = KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local CODE, KINDS = KEYS[11], KEYS[12]

local FORMAT = 1 -- the format of a circuit's keys, as this release writes them
local NEWEST_FORMAT = 1 -- the newest format that this release can work with

local MAX_INT = 9007199254740991
local LARGEST = 4503599627370495 -- 2^52-1: stored numbers, and their sums, stay exact
local MOST_GENERATIONS = 1099511627776 -- 2^40: one transition per millisecond for 34 years
local MOST_CALLS = 1000000000000 -- the largest count in a report
local YEAR_MS = 31536000000 -- the largest value of a setting
local CENTURY_MS = 100 * YEAR_MS -- the longest time in a request
local LONGEST_TEXT = 4096

-- Positions in the policy, and its keys in that order. Twin: `model::policy::rules`.
local WINDOW_MS, WINDOW_BUCKETS, WINDOW_CALLS, MINIMUM_CALLS, FAILURE_RATE = 1, 2, 3, 4, 5
local FAILURE_COUNT, CONSECUTIVE, SLOW_RATE = 6, 7, 8
local WAIT_MS, BACKOFF_PERCENT, MAX_WAIT_MS, JITTER = 9, 10, 11, 12
local BACKOFF_RESET_MS, PERMITTED, SUCCESS_THRESHOLD = 13, 14, 15
local PROBE_FAILURES, HALF_OPEN_MS, LEASE_MS, RAMP_MS = 16, 17, 18, 19
local REPORT_MS, SLOW_MS, QUORUM, LATENCIES_KEPT, ABANDONED = 20, 21, 25, 26, 27
local HISTORY_KEPT, MINIMUM_FOR_ALL, TIMED_OUT = 29, 30, 31
local POLICY_SIZE = 31
local function policy_keys()
  return {
    'window_ms', 'window_buckets', 'window_calls', 'minimum_number_of_calls', 'failure_rate_threshold',
    'failure_count_threshold', 'consecutive_failures_threshold', 'slow_call_rate_threshold',
    'wait_duration_in_open_state_ms', 'backoff_multiplier_percent', 'max_wait_duration_in_open_state_ms', 'jitter',
    'backoff_reset_after_ms', 'permitted_number_of_calls_in_half_open_state', 'success_threshold',
    'half_open_failure_threshold', 'max_wait_duration_in_half_open_state_ms', 'probe_lease_ms', 'ramp_duration_ms',
    'report_interval_ms', 'slow_call_duration_threshold_ms', 'ramp_initial', 'call_timeout_ms', 'decision_ttl_ms',
    'quorum', 'latency_recording', 'abandoned_calls', 'abandoned_after_ms', 'history',
    'minimum_applies_to', 'timed_out_calls',
  }
end
local function policy_defaults()
  return {
    10000, 10, 0, 20, 50, 0, 20, 100, 30000, 100, 600000, 0, 60000, 3, 2, 1, 60000, 30000, 0, 100, 0, 10, 0, 250, 1, 1, 1, 0, 1, 0, 1,
  }
end

local function refuse(code, what)
  error({ err = code .. ' ' .. what })
end

local function whole(value, what)
  if type(value) ~= 'number' or value < 0 or value > MAX_INT or value % 1 ~= 0 then
    refuse('EREQUEST', what .. ' must be a whole number from 0 to 2^53-1')
  end
  return value
end

-- Comparing any other type with a number raises a Lua error, which has the same meaning.
local function all_whole(values, length, most)
  for i = 1, length do
    local n = values[i]
    if n < 0 or n > most or n % 1 ~= 0 then return false end
  end
  return #values == length
end

local function wholes(values, length, most, what)
  local compared, fine = pcall(all_whole, values, length, most)
  if not compared or not fine then
    refuse('EREQUEST', string.format('%s must be an array of %d whole numbers from 0 to %d', what, length, most))
  end
  return values
end

local function text(value, what)
  if type(value) ~= 'string' or #value > LONGEST_TEXT then
    refuse('EREQUEST', what .. ' must be a string of at most ' .. LONGEST_TEXT .. ' bytes')
  end
  return value
end

local function array(value, length, what)
  if type(value) ~= 'table' or (length and #value ~= length) then
    refuse('EREQUEST', what .. ' must be an array' .. (length and ' of ' .. length or ''))
  end
  return value
end

if #KEYS ~= 12 then refuse('EARITY', 'expected 12 keys, got ' .. #KEYS) end
if #ARGV ~= 1 then refuse('EARITY', 'expected 1 argument, got ' .. #ARGV) end

local decoded, request = pcall(cmsgpack.unpack, ARGV[1])
if not decoded then refuse('EREQUEST', 'the argument is not MessagePack') end
array(request, nil, 'request')

local now = whole(request[1], 'now_ms')
if now > LARGEST / 2 then refuse('EREQUEST', 'now_ms is too large') end
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local entropy = whole(request[2], 'entropy')
local replica = text(request[3], 'replica')
local policy = array(request[4], nil, 'policy')
local is_operator = next(policy) == nil
if not is_operator then wholes(policy, POLICY_SIZE, YEAR_MS, 'policy') end

-- These limits bound the loops of a script, and how large numbers can grow.
local function most_of(key)
  if key == WINDOW_BUCKETS or key == QUORUM then return 1000 end
  if key == WINDOW_CALLS then return 10000 end
  if key == LATENCIES_KEPT then return 2 end
  if key == ABANDONED or key == HISTORY_KEPT or key == MINIMUM_FOR_ALL or key == TIMED_OUT then return 1 end
  return key == JITTER and 100 or YEAR_MS
end
if not is_operator
  and (policy[WINDOW_BUCKETS] > 1000 or policy[WINDOW_CALLS] > 10000 or policy[JITTER] > 100 or policy[QUORUM] > 1000)
then
  refuse('EREQUEST', 'a policy has at most 1000 buckets, 10000 calls in its window, 100 percent of jitter and a quorum of 1000')
end
