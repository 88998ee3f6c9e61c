-- key_value/lease: take, renew or give back a lease; one replica of the fleet holds it at a time.
-- Mode: write. Idempotent: yes. Twin: store::key_value::KeyValues::lease.
--
-- Shares nothing with the other scripts: leases are not part of a circuit's state.
--
-- KEYS[1]  lease  string  owner; ends with the key's expiry
-- ARGV[1]  request  msgpack {owner, for_ms (0 = give it back)}
-- Returns  integer: 1 = done, because the caller or nobody held the lease; 0 = it has another owner
-- Errors   "EARITY ..." "EREQUEST ..."

local function refuse(code, what)
  error({ err = code .. ' ' .. what })
end

if #KEYS ~= 1 then refuse('EARITY', 'expected 1 key, got ' .. #KEYS) end
if #ARGV ~= 1 then refuse('EARITY', 'expected 1 argument, got ' .. #ARGV) end
local decoded, request = pcall(cmsgpack.unpack, ARGV[1])
if not decoded or type(request) ~= 'table' or #request ~= 2 then refuse('EREQUEST', 'the request must be an array of 2') end
local owner, for_ms = request[1], request[2]
if type(owner) ~= 'string' or #owner < 1 or #owner > 300 then refuse('EREQUEST', 'owner must be a text of 1 to 300 bytes') end
if type(for_ms) ~= 'number' or for_ms < 0 or for_ms > 31536000000 or for_ms % 1 ~= 0 then
  refuse('EREQUEST', 'for_ms must be a whole number from 0 to 31536000000')
end

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= owner then
  -- If the lease of another owner ends later than one of `for_ms` would, the clock was set back.
  if for_ms > 0 then redis.call('PEXPIRE', KEYS[1], string.format('%d', for_ms), 'LT') end
  return 0
end
if for_ms == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], owner, 'PX', string.format('%d', for_ms))
end
return 1
