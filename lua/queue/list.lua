-- list: read the jobs of a state, the next ones first, or one job by its ID, with its payload.
-- Mode: read. Idempotent: yes.
--
-- KEYS[1..10]  see lua/queue/lib/jobs.lua
-- ARGV[1]  request  msgpack {state, id ('' = all jobs of the state), most}
-- Returns  msgpack {{id, record, payload ('' unless listed by ID)}, ...}
-- Errors   "EARITY ..." "EREQUEST ..."

local state, wanted, most = text(1, 'state'), text(2, 'id'), whole(3, 'most')

local found = {}
local function add(id, payload)
  local job = load(id)
  if job then found[#found + 1] = { id, job, payload } end
end

local function members(key)
  for _, id in ipairs(redis.call('ZRANGE', key, 0, most - 1)) do add(id, '') end
end

if wanted ~= '' then
  add(wanted, redis.call('HGET', PAYLOADS, wanted) or '')
elseif most == 0 then
  return cmsgpack.pack(found)
elseif state == 'ready' then
  -- Running jobs are in the same stream.
  local entries = redis.call('XRANGE', READY, '-', '+', 'COUNT', most + redis.call('ZCARD', LEASES))
  for _, entry in ipairs(entries) do
    local id = entry[2][2]
    if #found < most and not redis.call('ZSCORE', LEASES, id) then add(id, '') end
  end
elseif state == 'delayed' then
  members(DELAYED)
elseif state == 'running' then
  members(LEASES)
elseif state == 'dead' then
  members(DEAD)
else
  refuse('EREQUEST', 'state must be ready, delayed, running or dead')
end
return cmsgpack.pack(found)
