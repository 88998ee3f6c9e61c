-- window: the one sliding window that nearly every circuit has: running totals and their parts.
--
-- Owns bucket rotation, the ring and rate comparison; knows nothing of states.
-- A time window is a hash of the buckets that have ended: bucket start (Unix ms) -> counts. The
-- newest bucket, which begins at bucket_at_ms, is `window` minus `ended_buckets`, so a report does
-- not write it. A count window is a string with one character per outcome: s success, f failure, S
-- and F the same but slow; the next outcome goes to ring_position.
-- Invariants: ended_buckets is the sum of the ended buckets, and `window` the sum of a ring, unless
-- there were foreign writes: then they are wrong, but never negative, until a reset.
-- Twin: `model::window`.

-- The newest half of a window is judged alone only with this many times the minimum number of
-- calls: with few calls, half of them fail by chance more often.
local HALF_MINIMUM = 10

local function shift(c, calls, failures, slow, undecided)
  c.window_calls = math.max(0, c.window_calls + calls)
  c.window_failures = math.max(0, c.window_failures + failures)
  c.window_slow = math.max(0, c.window_slow + slow)
  set(c, 'undecided', math.max(0, c.undecided + undecided))
end

-- Returns the window minus these counts.
local function less(c, calls, failures, slow, undecided)
  return math.max(0, c.window_calls - calls), math.max(0, c.window_failures - failures),
    math.max(0, c.window_slow - slow), math.max(0, c.undecided - undecided)
end

-- Returns the counts of the newest bucket: the window minus the ended buckets.
local function newest(c)
  return less(c, c.ended_calls, c.ended_failures, c.ended_slow, c.ended_undecided)
end

-- Makes the newest bucket empty: every call in the window counts as ended.
local function end_newest(c)
  c.ended_calls, c.ended_failures, c.ended_slow = c.window_calls, c.window_failures, c.window_slow
  set(c, 'ended_undecided', c.undecided)
end

-- Returns the bucket width in ms and the number of buckets.
local function grid(of)
  of = of or policy
  local n = math.max(1, of[WINDOW_BUCKETS])
  return math.max(1, math.floor(of[WINDOW_MS] / n)), n
end

-- Returns the shape of a policy's window; by default, the caller's.
local function geometry(of)
  of = of or policy
  if of[WINDOW_CALLS] > 0 then return of[WINDOW_CALLS] .. ' calls' end
  local width, n = grid(of)
  return n .. 'x' .. width .. 'ms'
end

-- Returns the names of the buckets that have left the window at bucket `b`, and their counts.
local function expired(c, width, n, b)
  local names = {}
  local first = math.floor(c.bucket_at_ms / width) + 1
  for k = first, b do names[#names + 1] = string.format('%d', (k - n) * width) end
  if #names == 0 then return names, 0, 0, 0, 0 end
  local calls, failures, slow, undecided = 0, 0, 0, 0
  for _, bucket in ipairs(redis.call('HMGET', WINDOW, unpack(names))) do
    if bucket then
      local x, y, z, w = parse(bucket)
      calls, failures, slow, undecided = calls + x, failures + y, slow + z, undecided + w
    end
  end
  return names, calls, failures, slow, undecided
end

local function add_time(c, calls, failures, slow, undecided)
  local width, n = grid()
  local b = math.floor(now / width)
  local gap = b - math.floor(c.bucket_at_ms / width)
  if gap >= n or gap <= -n then
    forget_window(c)
    set(c, 'window_shape', geometry())
    set(c, 'bucket_at_ms', b * width)
  elseif gap > 0 then
    local ended, f, s, u = newest(c)
    if ended + u > 0 then
      redis.call('HSET', WINDOW, string.format('%d', c.bucket_at_ms), write(ended, f, s, u))
      keep(c, WINDOW)
    end
    local names, x, y, z, w = expired(c, width, n, b)
    redis.call('HDEL', WINDOW, unpack(names))
    shift(c, -x, -y, -z, -w)
    end_newest(c)
    set(c, 'bucket_at_ms', b * width)
  end
  shift(c, calls, failures, slow, undecided)
end

-- Returns the calls and failures in the newest half of the buckets of a time window.
local function newest_half(c)
  local width, n = grid()
  if policy[WINDOW_CALLS] > 0 or n < 2 then return nil end
  if c.half then return unpack(c.half) end
  local names, b = {}, math.floor(c.bucket_at_ms / width)
  for k = math.max(0, b + 1 - math.floor(n / 2)), b - 1 do names[#names + 1] = string.format('%d', k * width) end
  local calls, failures = newest(c)
  for _, bucket in ipairs(#names > 0 and redis.call('HMGET', WINDOW, unpack(names)) or {}) do
    local x, y = parse(bucket or '')
    calls, failures = calls + x, failures + y
  end
  return calls, failures
end

-- Returns a batch as characters of a ring of n. Its outcomes are spread evenly, because a batch has
-- counts but no order.
local function spread(n, calls, failures, slow_failures, slow_successes)
  -- Returns how many of `part` in `total` come before position i.
  local function before(i, part, total)
    return math.floor(i * part / total)
  end

  local successes, chars = calls - failures, {}
  for i = math.max(0, calls - n), calls - 1 do
    local f = before(i, failures, calls)
    if before(i + 1, failures, calls) > f then
      local slow = before(f + 1, slow_failures, failures) > before(f, slow_failures, failures)
      chars[#chars + 1] = slow and 'F' or 'f'
    else
      local s = i - f
      local slow = before(s + 1, slow_successes, successes) > before(s, slow_successes, successes)
      chars[#chars + 1] = slow and 'S' or 's'
    end
  end
  return table.concat(chars)
end

local function failures_in(ring) return select(2, string.gsub(ring, '[fF]', '')) end
local function slow_in(ring) return select(2, string.gsub(ring, '[SF]', '')) end

local function add_count(c, calls, failures, slow_failures, slow_successes)
  local n = policy[WINDOW_CALLS]
  local written, at = spread(n, calls, failures, slow_failures, slow_successes), c.ring_position % n
  while #written > 0 do
    local piece = string.sub(written, 1, n - at)
    written = string.sub(written, #piece + 1)
    local old = redis.call('GETRANGE', WINDOW, at, at + #piece - 1)
    redis.call('SETRANGE', WINDOW, at, piece)
    shift(c, #piece - #old, failures_in(piece) - failures_in(old), slow_in(piece) - slow_in(old), 0)
    at = (at + #piece) % n
  end
  set(c, 'ring_position', at)
  keep(c, WINDOW)
end

-- Returns whether nothing in the window shows that the service works. Then undecided calls are
-- evidence too, because there is no other.
local function is_silent(c)
  local undecided, length = c.undecided, policy[WINDOW_CALLS]
  return undecided > 0 and policy[ABANDONED] > 0
    and (c.window_calls == c.window_failures or length > 0 and undecided >= length)
end

-- Returns whether the newest half of the window opens the circuit, so that a healthy past does not
-- hide failures until it has left the window. The whole window must have half the threshold
-- already.
local function breaches_in_half(c)
  local rate, least, calls = policy[FAILURE_RATE], policy[MINIMUM_CALLS] * HALF_MINIMUM, c.window_calls
  if rate == 0 or calls < least or c.window_failures * 200 < rate * calls then return false end
  local x, y = newest_half(c)
  return x and x >= least and y * 100 >= rate * x
end

-- Makes the newest half of the window the whole: it is what opened the circuit.
local function show_half(c)
  c.window_calls, c.window_failures = newest_half(c)
  c.window_slow = math.min(c.window_slow, c.window_calls)
  set(c, 'undecided', 0)
end

-- Counts the undecided calls as failures, because they opened the circuit.
local function count_undecided(c)
  local failed = c.window_failures + c.undecided
  c.window_calls, c.window_failures, c.window_slow = failed, failed, math.min(c.window_slow, failed)
  set(c, 'undecided', 0)
end

-- Returns the first trip condition that the window and the longest run of failures meet, or nil.
local function breach(c, run)
  local calls, failures = c.window_calls, c.window_failures
  if is_silent(c) then
    -- Without a success between them, all of them are consecutive.
    run = math.max(run, (calls == failures and failures or 0) + c.undecided)
    failures = failures + c.undecided
    calls = failures
  end
  local minimum = policy[MINIMUM_CALLS]
  if policy[WINDOW_CALLS] > 0 then minimum = math.min(minimum, policy[WINDOW_CALLS]) end
  local enough = calls > 0 and calls >= minimum
  if not enough and policy[MINIMUM_FOR_ALL] > 0 then return nil end
  local most_run, most_failures = policy[CONSECUTIVE], policy[FAILURE_COUNT]
  if most_run > 0 and run >= most_run then return 'consecutive_failures' end
  if most_failures > 0 and failures >= most_failures then return 'failure_count' end
  if not enough then return nil end
  local rate, slow_rate = policy[FAILURE_RATE], policy[SLOW_RATE]
  if rate > 0 and failures * 100 >= rate * calls then return 'failure_rate' end
  if policy[SLOW_MS] > 0 and slow_rate > 0 and c.window_slow * 100 >= slow_rate * calls then return 'slow_call_rate' end
end
