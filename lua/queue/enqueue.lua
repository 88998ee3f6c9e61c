-- enqueue: add one job, unless the queue already has it or is full.
-- Mode: write. Idempotent: yes (by the idempotency key, or by the ID, which the caller chooses).
--
-- KEYS[1..10]  see lua/queue/lib/jobs.lua
-- ARGV[1]  request  msgpack {id, key ('' = none), delay_ms, ttl_ms (0 = none), most, most_dead}
-- ARGV[2]  payload  MessagePack
-- Returns  msgpack {id, size, now_ms}
--            id    the ID of the stored job ('' = the queue is full)
--            size  how many jobs there were before, without dead letters
-- Errors   "EARITY ..." "EREQUEST ..."

local id, key = text(1, 'id'), text(2, 'key')
local delay_ms, ttl_ms = whole(3, 'delay_ms'), whole(4, 'ttl_ms')
local most, most_dead = whole(5, 'most'), whole(6, 'most_dead')
local payload = ARGV[2] or refuse('EARITY', 'expected 2 arguments, got 1')

expire(most_dead)
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEPT, '-inf', ms(now), 'LIMIT', 0, AT_ONCE)) do
  redis.call('ZREM', KEPT, name)
  redis.call('HDEL', NAMES, name)
end

local job = {
  state = 'ready', attempts = 0, key = key, enqueued_ms = now, at_ms = now, ttl_ms = ttl_ms, expires_ms = 0,
  entry = '', worker = '', token = '', reason = '', error = '',
}
local name = name_of(id, job)
local size = redis.call('HLEN', JOBS) - redis.call('ZCARD', DEAD)
local known = redis.call('HGET', NAMES, name)
local kept_until = known and redis.call('ZSCORE', KEPT, name)
if known and (kept_until and tonumber(kept_until) > now or load(known)) then return cmsgpack.pack({ known, size, now }) end
if size >= most then return cmsgpack.pack({ '', size, now }) end

redis.call('ZREM', KEPT, name)
redis.call('HSET', NAMES, name, id)
redis.call('HSET', PAYLOADS, id, payload)
if ttl_ms > 0 then
  job.expires_ms = now + ttl_ms
  redis.call('ZADD', EXPIRING, ms(job.expires_ms), id)
end
delay(id, job, delay_ms)
count('enqueued')
return cmsgpack.pack({ id, size, now })
