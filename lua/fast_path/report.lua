-- fast_path/report: process a report that changes only counts, as nearly all reports do.
-- Mode: write. Idempotent: yes (a number seen before is left to `report`).
-- Twin: model::Circuit::report.
--
-- Owns no rule: it does what `report` would do and returns the fields that changed, which a test
-- compares. It shares no code with the other scripts, so that Lua creates only what it needs. Every
-- other case is left to `report`, with nothing written: another generation or window, a bucket that
-- is due, a breach, a field that is not a number, a replica that is due to be recorded (which also
-- renews TTLs). State, since and reason are fixed within a generation: the caller knows the
-- generation, so it knows them too. What other replicas report besides calls (ignored, rejected and
-- dropped calls), and the time of their last failure, reach the caller with the next answer of
-- `report`.
--
-- KEYS[1]  circuit   hash
-- KEYS[2]  seq       hash
-- ARGV[1]  brief     20 numbers of fixed width (`model::fast_path`)
-- ARGV[2]  geometry  of the window
-- ARGV[3]  replica
-- Returns  array: "fast", server time, then names and values of fields; all other fields are as the
--          replica last saw them; nil: ask `report`

local now, seq, generation, since, successes, failures, slow, ignored, rejected, abandoned, undecided, first, longest, final, width,
  minimum, rate, most_failures, most_run, slow_rate =
  struct.unpack('>I6I6I6I6I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4', ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local c = redis.call('HMGET', KEYS[1], 'generation', 'format', 'window', 'total', 'consecutive_failures', 'window_shape',
  'bucket_at_ms', 'policy')
local run, at = tonumber(c[5] or 0), tonumber(c[7])
local x, y, z = string.match(c[3] or '', '^calls=(%d+) failures=(%d+) slow=(%d+)$')
local t1, t2, t3 = string.match(c[4] or '', '^successes=(%d+) failures=(%d+) slow=(%d+)$')
if not x or not t1 or not run or run < 0 or run % 1 ~= 0 or tonumber(c[1]) ~= generation or c[2] ~= '1' or c[6] ~= ARGV[2]
  or (c[8] or '') ~= '' or not at or at % width ~= 0 or now < at or now < since or now >= at + width
then
  return false
end

-- The batch has a success, which shows that the service works: undecided calls are no evidence.
x, y, z = x + successes + failures, y + failures, z + slow
t1, t2, t3 = t1 + successes, t2 + failures, t3 + slow
if first > 0 then first = run + first end
local breached = first >= most_run or longest >= most_run or y >= most_failures
  or x >= minimum and (y * 100 >= rate * x or z * 100 >= slow_rate * x)
  or x >= minimum * 10 and y * 200 >= rate * x -- `report` looks at the newest half
if breached or x + y + z + t1 + t2 + t3 + run > 4503599627370495 then return false end

local t4, t5, t6, w = 0, 0, 0, 0
if ignored + rejected + abandoned > 0 then
  c = redis.call('HMGET', KEYS[1], 'ignored_total', 'rejected_total', 'abandoned_total', 'undecided')
  t4, t5, t6, w = c[1] or 0, c[2] or 0, c[3] or 0, c[4] or 0
  if not string.find(t4 .. ' ' .. t5 .. ' ' .. t6 .. ' ' .. w, '^%d+ %d+ %d+ %d+$') then return false end
  t4, t5, t6, w = t4 + ignored, t5 + rejected, t6 + abandoned, w + undecided
  if t4 + t5 + t6 + w > 4503599627370495 then return false end
end

local last, seen, mark = string.match(redis.call('HGET', KEYS[2], ARGV[3]) or '', '^(%d+) (%d+)( ?%d*)$')
if not last or seq <= tonumber(last) or tonumber(seen) ~= math.floor(now / 5000) % 1000 then return false end
redis.call('HSET', KEYS[2], ARGV[3], string.format('%d ', seq) .. seen .. mark)

-- Unchanged fields are not written: each field costs Redis time.
local moment = string.format('%d', now)
local fields = { 'fast', moment, 'window', string.format('calls=%d failures=%d slow=%d', x, y, z),
  'total', string.format('successes=%d failures=%d slow=%d', t1, t2, t3), 'last_success_ms', moment }
local n = 8
if failures > 0 then fields[9], fields[10], n = 'last_failure_ms', moment, 10 end
if ignored > 0 then fields[n + 1], fields[n + 2], n = 'ignored_total', string.format('%d', t4), n + 2 end
if rejected > 0 then fields[n + 1], fields[n + 2], n = 'rejected_total', string.format('%d', t5), n + 2 end
if abandoned > 0 then fields[n + 1], fields[n + 2], n = 'abandoned_total', string.format('%d', t6), n + 2 end
if undecided > 0 then fields[n + 1], fields[n + 2], n = 'undecided', string.format('%d', w), n + 2 end
fields[n + 1], fields[n + 2] = 'consecutive_failures', string.format('%d', final)
redis.call('HSET', KEYS[1], unpack(fields, 3, final ~= run and n + 2 or n))
return fields
