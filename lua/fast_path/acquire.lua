-- fast_path/acquire: permit a call of a closed circuit when there is nothing to write.
-- Mode: read. Idempotent: yes. Twin: model::Circuit::acquire.
--
-- Owns no rule: it permits what `acquire` would permit, which a test compares, and leaves every
-- other case to `acquire`. Counts are left to reports. See also fast_path/report.
--
-- KEYS[1]  circuit  hash
-- KEYS[2]  probes   zset
-- ARGV[1]  brief    4 numbers of fixed width (`model::fast_path`)
-- Returns  array {"fast", server time}, as fast_path/report does: the call is permitted;
--          nil: ask `acquire`

local now, generation, since, keeps_ms = struct.unpack('>I6I6I6I6', ARGV[1])
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local c = redis.call('HMGET', KEYS[1], 'generation', 'expires_ms', 'policy', 'format')
local expires = tonumber(c[2])
if tonumber(c[1]) ~= generation or c[4] ~= '1' or now < since or (c[3] or '') ~= '' or not expires or expires % 1 ~= 0
  or expires - now < keeps_ms or redis.call('ZCARD', KEYS[2]) > 0
then
  return false
end
return { 'fast', string.format('%d', now) }
