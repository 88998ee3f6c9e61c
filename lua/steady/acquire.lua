-- steady/acquire: a permit of a closed circuit with nothing to write.
-- Mode: read. Idempotent: yes. Twin: model::Circuit::acquire.
--
-- Owns no rule: it answers what `acquire` would, which a test compares, and leaves to that what is
-- not plainly steady. More is said in steady/report.
--
-- KEYS[1]  circuit  hash
-- KEYS[2]  probes   zset
-- ARGV[1]  brief    4 numbers of fixed width (`model::brief`)
-- Returns  text, as steady/report does; it is a permit; nil: ask `acquire`

local now, generation, since, keeps_ms = struct.unpack('>I6I6I6I6', ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local c = redis.call('HMGET', KEYS[1], 'generation', 'counts', 'recent', 'expires_ms', 'policy', 'format')
local expires = tonumber(c[4])
if tonumber(c[1]) ~= generation or now < since or (c[5] or '') ~= '' or c[6] ~= '1' or not expires or expires % 1 ~= 0
  or expires - now < keeps_ms or string.find(c[2] or '', '|', 1, true) or redis.call('ZCARD', KEYS[2]) > 0
then
  return false
end
return string.format('steady|%d|', now) .. (c[2] or '') .. '|' .. (c[3] or '')
