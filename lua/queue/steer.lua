-- steer: carry out an operator's command on one job.
-- Mode: write. Idempotent: yes.
--
-- KEYS[1..10]  see lua/queue/lib/jobs.lua
-- ARGV[1]  request  msgpack {id, how}
--            how  retry  make a dead or delayed job ready now; a dead one gets all its attempts and
--                        its full time to live again
--                 drop   remove a job that is not running
-- Returns  text: done, unknown, running (the job is running and unchanged), known (another job has
--          its idempotency key by now)
-- Errors   "EARITY ..." "EREQUEST ..."

local id, how = text(1, 'id'), text(2, 'how')
if how ~= 'retry' and how ~= 'drop' then refuse('EREQUEST', 'how must be retry or drop') end

local job = load(id)
if not job then return 'unknown' end
if job.state == 'running' then return 'running' end
local name = name_of(id, job)
if how == 'drop' then
  if redis.call('HGET', NAMES, name) == id then redis.call('HDEL', NAMES, name) end
  leave(id, job)
  forget(id)
  return 'done'
end
if job.state == 'ready' then return 'done' end
if job.state == 'dead' then
  local known = redis.call('HGET', NAMES, name)
  if known and known ~= id then return 'known' end
  redis.call('HSET', NAMES, name, id)
  job.attempts, job.reason = 0, ''
  if job.ttl_ms > 0 then
    job.expires_ms = now + job.ttl_ms
    redis.call('ZADD', EXPIRING, ms(job.expires_ms), id)
  end
end
leave(id, job)
make_ready(id, job)
return 'done'
