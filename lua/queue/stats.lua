-- stats: count the jobs in each state, and say when the next one is due.
-- Mode: read. Idempotent: yes.
--
-- KEYS[1..10]  see lua/queue/lib/jobs.lua
-- ARGV[1]  request  msgpack {}
-- Returns  msgpack {now_ms, next_ms, ready, delayed, running, dead, enqueued, done, retried, died,
--                   expired, discarded, oldest_ms}
--            next_ms    when a job can be taken: 0 = now, -1 = no job
--            oldest_ms  since when the oldest due job has waited; 0 = none is due
-- Errors   "EARITY ..." "EREQUEST ..."

local running = redis.call('ZCARD', LEASES)
local ready = redis.call('XLEN', READY) - running
local next_ms, oldest_ms = ready > 0 and 0 or -1, 0
local function is_due(since)
  if oldest_ms == 0 or since < oldest_ms then oldest_ms = since end
end
for _, places in ipairs({ redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES'), redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES') }) do
  local at = tonumber(places[2])
  if at and (next_ms == -1 or at < next_ms) then next_ms = at end
  if at and at <= now then is_due(at) end
end
-- Running jobs are in the same stream.
for _, entry in ipairs(ready > 0 and redis.call('XRANGE', READY, '-', '+', 'COUNT', running + 1) or {}) do
  if not redis.call('ZSCORE', LEASES, entry[2][2]) then
    is_due(math.min(now, tonumber(string.match(entry[1], '^%d+'))))
    break
  end
end
local answer = { now, next_ms, ready, redis.call('ZCARD', DELAYED), running, redis.call('ZCARD', DEAD) }
for _, n in ipairs(redis.call('HMGET', COUNTS, 'enqueued', 'done', 'retried', 'died', 'expired', 'discarded')) do
  answer[#answer + 1] = tonumber(n or 0) or 0
end
answer[#answer + 1] = oldest_ms
return cmsgpack.pack(answer)
