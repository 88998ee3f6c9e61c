-- key_value/group: store bytes in a group of bounded size; evicts the entries that expire soonest.
-- Mode: write. Idempotent: yes. Twin: store::group::Group::keep.
--
-- Shares nothing with the other scripts: groups are not part of a circuit's state. Redis may evict
-- either key without the other. The group is then cleared, so that its size is always known.
--
-- KEYS[1]  values  hash  'v' + key = bytes, 's' + key = size, '' = total size
-- KEYS[2]  order   zset  member = key, score = expiry (Unix ms)
-- ARGV[1]  request  msgpack {key, for_ms (0 = remove it), most (limit of the total size)}
-- ARGV[2]  bytes
-- Returns  integer: 1 = done; 0 = too many entries had to be removed at once: run it again
-- Errors   "EARITY ..." "EREQUEST ..."

local function refuse(code, what)
  error({ err = code .. ' ' .. what })
end

if #KEYS ~= 2 then refuse('EARITY', 'expected 2 keys, got ' .. #KEYS) end
if #ARGV ~= 2 then refuse('EARITY', 'expected 2 arguments, got ' .. #ARGV) end
local decoded, request = pcall(cmsgpack.unpack, ARGV[1])
if not decoded or type(request) ~= 'table' or #request ~= 3 then refuse('EREQUEST', 'the request must be an array of 3') end
local member, for_ms, most = request[1], request[2], request[3]
if type(member) ~= 'string' or #member < 1 or #member > 300 then refuse('EREQUEST', 'key must be a text of 1 to 300 bytes') end
if type(for_ms) ~= 'number' or for_ms < 0 or for_ms > 31536000000 or for_ms % 1 ~= 0 then
  refuse('EREQUEST', 'for_ms must be a whole number from 0 to 31536000000')
end
if type(most) ~= 'number' or most < 0 or most > 1125899906842624 or most % 1 ~= 0 then
  refuse('EREQUEST', 'most must be a whole number from 0 to 2^50')
end
-- An estimate of what the key and the structures around it take.
local size = #ARGV[2] + #member + 128
if for_ms > 0 and size > most then refuse('EREQUEST', 'the value is larger than its group may be') end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = redis.call('ZCARD', KEYS[2])
local all = tonumber(redis.call('HGET', KEYS[1], '') or 0)
-- A total that is not a valid size, such as `nan`, was not written by this script.
if not (all and all >= 0 and all <= 1125899906842624) or redis.call('HLEN', KEYS[1]) ~= (count > 0 and 2 * count + 1 or 0) then
  redis.call('DEL', KEYS[1], KEYS[2])
  count, all = 0, 0
end

local function forget(which)
  local its = redis.call('HGET', KEYS[1], 's' .. which)
  if not its then return end
  redis.call('HDEL', KEYS[1], 'v' .. which, 's' .. which)
  redis.call('ZREM', KEYS[2], which)
  count = count - 1
  all = count > 0 and all - (tonumber(its) or 0) or 0
end

forget(member)
for _, over in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', now), 'LIMIT', 0, 100)) do
  forget(over)
end
-- A limit, so that Redis serves other clients in between.
local steps = 1000
if for_ms > 0 then
  while count > 0 and all + size > most do
    if steps == 0 then
      redis.call('HSET', KEYS[1], '', string.format('%d', all))
      return 0
    end
    steps = steps - 1
    local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
    local before = count
    forget(first)
    -- The entry has no size, so it was not written by this script.
    if count == before then
      redis.call('DEL', KEYS[1], KEYS[2])
      count, all = 0, 0
    end
  end
  all, count = all + size, count + 1
  redis.call('HSET', KEYS[1], 'v' .. member, ARGV[2], 's' .. member, size)
  redis.call('ZADD', KEYS[2], string.format('%d', now + for_ms), member)
end
if count == 0 then
  redis.call('DEL', KEYS[1], KEYS[2])
  return 1
end
redis.call('HSET', KEYS[1], '', string.format('%d', all))
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')[2]
-- An expiry is more than a year away only if the clock was set back.
local left = string.format('%d', math.max(1, math.min(last - now, 31536000000)))
redis.call('PEXPIRE', KEYS[1], left)
redis.call('PEXPIRE', KEYS[2], left)
return 1
