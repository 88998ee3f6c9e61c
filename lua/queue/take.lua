-- take: give one job to a worker, under a lease.
-- Mode: write. Idempotent: no (each call takes another job; if the answer is lost, the job is taken
-- again after its lease).
--
-- KEYS[1..10]  see lua/queue/lib/jobs.lua
-- ARGV[1]  request  msgpack {worker, token (unique per run), lease_ms, most_attempts, most_dead}
-- Returns  msgpack {{id, record, payload}, how many more are ready}; nil when none is due
-- Errors   "EARITY ..." "EREQUEST ..."

local worker, token, lease_ms = text(1, 'worker'), text(2, 'token'), whole(3, 'lease_ms')
local most_attempts, most_dead = whole(4, 'most_attempts'), whole(5, 'most_dead')

local function next_entry()
  local read = redis.pcall('XREADGROUP', 'GROUP', GROUP, GROUP, 'COUNT', 1, 'STREAMS', READY, '>')
  if read and read.err then
    if not string.find(read.err, 'NOGROUP', 1, true) then error(read) end
    redis.call('XGROUP', 'CREATE', READY, GROUP, '0', 'MKSTREAM')
    read = redis.call('XREADGROUP', 'GROUP', GROUP, GROUP, 'COUNT', 1, 'STREAMS', READY, '>')
  end
  if not read then return nil end
  local entry = read[1][2][1]
  return entry[1], entry[2][2]
end

local function run(id, job)
  job.state, job.attempts, job.at_ms, job.worker, job.token = 'running', job.attempts + 1, now, worker, token
  redis.call('ZADD', LEASES, ms(now + lease_ms), id)
  save(id, job)
  local more = redis.call('XLEN', READY) - redis.call('ZCARD', LEASES)
  return cmsgpack.pack({ { id, job, redis.call('HGET', PAYLOADS, id) or '' }, more })
end

expire(most_dead)
for _, id in ipairs(redis.call('ZRANGEBYSCORE', DELAYED, '-inf', ms(now), 'LIMIT', 0, AT_ONCE)) do
  local job = load(id)
  redis.call('ZREM', DELAYED, id)
  if job then make_ready(id, job) end
end

-- If the clock was set back, a job can have been taken in the future. Its lease then counts from
-- now. Each call checks the job whose lease ends last.
local last = redis.call('ZRANGE', LEASES, -1, -1, 'WITHSCORES')
local latest = last[1] and tonumber(last[2]) > now + lease_ms and load(last[1])
local taken = latest and tonumber(latest.at_ms)
if taken and taken > now then
  redis.call('ZADD', LEASES, ms(now + math.min(math.max(0, tonumber(last[2]) - taken), CENTURY_MS)), last[1])
  latest.at_ms = now
  save(last[1], latest)
end

-- Jobs whose workers are lost come first.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', ms(now), 'LIMIT', 0, AT_ONCE)) do
  local job = load(id)
  if not job then
    redis.call('ZREM', LEASES, id)
  elseif job.attempts < most_attempts and (job.expires_ms == 0 or job.expires_ms > now) then
    return run(id, job)
  else
    local reason = job.attempts < most_attempts and 'expired' or 'failed'
    local words = 'its worker ' .. job.worker .. ' was lost'
    leave(id, job)
    bury(id, job, reason, words, most_dead)
  end
end

for _ = 1, AT_ONCE do
  local entry, id = next_entry()
  if not entry then return nil end
  local job = load(id)
  if job and job.entry == entry then return run(id, job) end
  redis.call('XACK', READY, GROUP, entry)
  redis.call('XDEL', READY, entry)
end
return nil
