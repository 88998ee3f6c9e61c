-- key_value/keep: store bytes under a key, if the caller still holds the key's lease.
-- Mode: write. Idempotent: yes. Twin: store::key_value::KeyValues::keep_leased.
--
-- Shares nothing with the other scripts. A key and its lease have the same hash tag, so both are in
-- one slot of a Cluster.
--
-- KEYS[1]  lease  string  owner; ends with the key's expiry
-- KEYS[2]  kept   string  the bytes
-- ARGV[1]  request  msgpack {owner, for_ms}
-- ARGV[2]  value    bytes
-- Returns  integer: 1 = stored; 0 = the caller no longer holds the lease, and nothing was written
-- Errors   "EARITY ..." "EREQUEST ..."

local function refuse(code, what)
  error({ err = code .. ' ' .. what })
end

if #KEYS ~= 2 then refuse('EARITY', 'expected 2 keys, got ' .. #KEYS) end
if #ARGV ~= 2 then refuse('EARITY', 'expected 2 arguments, got ' .. #ARGV) end
local decoded, request = pcall(cmsgpack.unpack, ARGV[1])
if not decoded or type(request) ~= 'table' or #request ~= 2 then refuse('EREQUEST', 'the request must be an array of 2') end
local owner, for_ms = request[1], request[2]
if type(owner) ~= 'string' or #owner < 1 or #owner > 300 then refuse('EREQUEST', 'owner must be a text of 1 to 300 bytes') end
if type(for_ms) ~= 'number' or for_ms < 1 or for_ms > 31536000000 or for_ms % 1 ~= 0 then
  refuse('EREQUEST', 'for_ms must be a whole number from 1 to 31536000000')
end

if redis.call('GET', KEYS[1]) ~= owner then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', string.format('%d', for_ms))
return 1
