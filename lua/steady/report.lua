-- steady/report: the whole of a report that moves nothing but counts, as nearly all do.
-- Mode: write. Idempotent: yes (a number seen before is left to `report`). Twin: model::Circuit::report.
--
-- Owns no rule: it does and answers what `report` would, which a test compares. It shares nothing with
-- the other scripts, so that Lua makes nothing that it does not need. Whatever is not plainly steady
-- (another generation or window, a bucket that is due, a breach, a field that is not a number, a replica
-- that is to be noted, with which TTLs are looked after) is left to `report`, with nothing written. What a generation has for good (its state, since when,
-- why) the caller has seen, or it would not know the generation: that is neither read nor answered.
--
-- KEYS[1]  circuit   hash
-- KEYS[2]  seq       hash
-- ARGV[1]  brief     20 numbers of fixed width (`model::brief`)
-- ARGV[2]  geometry  of the window
-- ARGV[3]  replica
-- Returns  text: "steady|", server time, "|", the fields `counts` and `recent` with a bar between; nil: ask
--          `report`

local now, seq, generation, since, successes, failures, slow, ignored, not_permitted, abandoned, undecided, first, longest, final, width,
  minimum, rate, most_failures, most_run, slow_rate =
  struct.unpack('>I6I6I6I6I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4', ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local c = redis.call('HMGET', KEYS[1], 'generation', 'counts', 'recent', 'window', 'window_at', 'policy', 'format')
local at = tonumber(c[5])
local x, y, z, w, t1, t2, t3, t4, t5, t6 = string.match(c[2] or '',
  '^window=(%d+)/(%d+)/(%d+)/(%d+) total=(%d+)/(%d+)/(%d+)/(%d+)/(%d+)/(%d+)$')
local run, success, failure = string.match(c[3] or '', '^run=(%d+) success=(%d+) failure=(%d+)$')
if not x or not run or tonumber(c[1]) ~= generation or c[4] ~= ARGV[2] or (c[6] or '') ~= '' or c[7] ~= '1' or not at
  or at % width ~= 0 or now < at or now < since or now >= at + width
then
  return false
end

-- Its successes say that the service works, so undecided calls are no evidence.
x, y, z, w = x + successes + failures, y + failures, z + slow, w + undecided
t1, t2, t3, t4, t5, t6 = t1 + successes, t2 + failures, t3 + slow, t4 + ignored, t5 + not_permitted, t6 + abandoned
if first > 0 then first = run + first end
local breached = first >= most_run or longest >= most_run or y >= most_failures
  or x >= minimum and (y * 100 >= rate * x or z * 100 >= slow_rate * x)
  or x >= minimum * 10 and y * 200 >= rate * x -- `report` looks at the newest half
if breached or x + y + z + w + t1 + t2 + t3 + t4 + t5 + t6 + run + success + failure > 4503599627370495 then return false end

local last, seen, mark = string.match(redis.call('HGET', KEYS[2], ARGV[3]) or '', '^(%d+) (%d+)( ?%d*)$')
if not last or seq <= tonumber(last) or tonumber(seen) ~= math.floor(now / 5000) % 1000 then return false end
redis.call('HSET', KEYS[2], ARGV[3], string.format('%d ', seq) .. seen .. mark)
local counts = string.format('window=%d/%d/%d/%d total=%d/%d/%d/%d/%d/%d', x, y, z, w, t1, t2, t3, t4, t5, t6)
local recent = string.format('run=%d success=%d failure=%d', final, now, failures > 0 and now or failure)
redis.call('HSET', KEYS[1], 'counts', counts, 'recent', recent)
return string.format('steady|%d|', now) .. counts .. '|' .. recent
