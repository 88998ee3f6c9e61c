-- renew: extend the lease of a running job.
-- Mode: write. Idempotent: yes.
--
-- KEYS[1..10]  see lua/queue/lib/jobs.lua
-- ARGV[1]  request  msgpack {id, token, lease_ms}
-- Returns  integer: 1, or 0 when the job no longer belongs to this run
-- Errors   "EARITY ..." "EREQUEST ..."

local id, token, lease_ms = text(1, 'id'), text(2, 'token'), whole(3, 'lease_ms')

local job = load(id)
if not job or job.state ~= 'running' or job.token ~= token then return 0 end
redis.call('ZADD', LEASES, ms(now + lease_ms), id)
return 1
