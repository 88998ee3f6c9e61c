-- settle: record the result of one run of a job.
-- Mode: write. Idempotent: yes (a run settles only once).
--
-- KEYS[1..10]  see lua/queue/lib/jobs.lua
-- ARGV[1]  request  msgpack {id, token, how, delay_ms, error, keep_ms, most_dead}
--            how  done     remove the job, and remember its idempotency key for keep_ms
--                 retry    run it again, delay_ms from now
--                 bury     make it a dead letter: it never runs again by itself
--                 release  make it ready again, as if it had not been taken
-- Returns  integer: 1, or 0 when the job no longer belongs to this run, and nothing was done
-- Errors   "EARITY ..." "EREQUEST ..."

local id, token, how = text(1, 'id'), text(2, 'token'), text(3, 'how')
local delay_ms, words = whole(4, 'delay_ms'), text(5, 'error')
local keep_ms, most_dead = whole(6, 'keep_ms'), whole(7, 'most_dead')
if how ~= 'done' and how ~= 'retry' and how ~= 'bury' and how ~= 'release' then
  refuse('EREQUEST', 'how must be done, retry, bury or release')
end

local job = load(id)
if not job or job.state ~= 'running' or job.token ~= token then return 0 end
leave(id, job)
if how == 'done' then
  redis.call('ZADD', KEPT, ms(now + keep_ms), name_of(id, job))
  forget(id)
  count('done')
elseif how == 'retry' and (job.expires_ms == 0 or now + delay_ms < job.expires_ms) then
  job.error = words
  delay(id, job, delay_ms)
  count('retried')
elseif how == 'release' then
  job.attempts = job.attempts - 1
  make_ready(id, job)
  -- The job may have expired meanwhile.
  if job.expires_ms > 0 then redis.call('ZADD', EXPIRING, ms(job.expires_ms), id) end
else
  bury(id, job, how == 'retry' and 'expired' or 'failed', words, most_dead)
end
return 1
