-- stats: how many jobs are where, and when the next is due.
-- Mode: read. Idempotent: yes.
--
-- KEYS[1..10]  see lua/queue/lib/jobs.lua
-- ARGV[1]  request  msgpack {}
-- Returns  msgpack {now_ms, next_ms (when a job can be taken: 0 = now, -1 = none is there), ready, delayed, running, dead,
--            enqueued, done, retried, died, expired, discarded}
-- Errors   "EARITY ..." "EREQUEST ..."

local running = redis.call('ZCARD', LEASES)
local ready = redis.call('XLEN', READY) - running
local next_ms = ready > 0 and 0 or -1
for _, places in ipairs({ redis.call('ZRANGE', DELAYED, 0, 0, 'WITHSCORES'), redis.call('ZRANGE', LEASES, 0, 0, 'WITHSCORES') }) do
  local at = tonumber(places[2])
  if at and (next_ms == -1 or at < next_ms) then next_ms = at end
end
local answer = { now, next_ms, ready, redis.call('ZCARD', DELAYED), running, redis.call('ZCARD', DEAD) }
for _, n in ipairs(redis.call('HMGET', COUNTS, 'enqueued', 'done', 'retried', 'died', 'expired', 'discarded')) do
  answer[#answer + 1] = tonumber(n or 0) or 0
end
return cmsgpack.pack(answer)
