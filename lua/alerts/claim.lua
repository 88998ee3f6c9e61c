-- alerts/claim: whether the caller is to send an alert, so that one replica of the fleet does.
-- Mode: write. Idempotent: no (who asks again while its claim lasts is refused). Twin: model::Claims::claim.
--
-- Shares nothing with the other scripts: alerts are no part of a circuit's state.
--
-- KEYS[1]  alerts  hash  rule -> "episode until_ms sent" (sent: 1 = it was sent, 0 = somebody sends it)
-- ARGV[1]  request  msgpack {now_ms (0 = server time), rule, episode, for_ms, sent}
--            sent  false: may I send it? the claim lasts for_ms, for the sender may die;
--                  true: I have; no other alert of the rule for for_ms, and of the episode never again
-- Returns  integer: 0 = yes, else how many ms to wait before asking again
-- Errors   "EARITY ..." "EREQUEST ..."

local function refuse(code, what)
  error({ err = code .. ' ' .. what })
end

if #KEYS ~= 1 then refuse('EARITY', 'expected 1 key, got ' .. #KEYS) end
if #ARGV ~= 1 then refuse('EARITY', 'expected 1 argument, got ' .. #ARGV) end
local decoded, request = pcall(cmsgpack.unpack, ARGV[1])
if not decoded or type(request) ~= 'table' or #request ~= 5 then refuse('EREQUEST', 'the request must be an array of 5') end
local now, rule, episode, for_ms, sent = request[1], request[2], request[3], request[4], request[5]
for _, n in ipairs({ now, episode, for_ms }) do
  if type(n) ~= 'number' or n < 0 or n > 4503599627370495 or n % 1 ~= 0 then
    refuse('EREQUEST', 'now_ms, episode and for_ms must be whole numbers from 0 to 2^52-1')
  end
end
if type(rule) ~= 'string' or #rule < 1 or #rule > 200 then refuse('EREQUEST', 'rule must be a text of 1 to 200 bytes') end
if type(sent) ~= 'boolean' then refuse('EREQUEST', 'sent must be true or false') end
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local MONTH_MS = 2592000000
local of, until_ms, was_sent = string.match(redis.call('HGET', KEYS[1], rule) or '', '^(%d+) (%d+) ([01])$')
if of and not sent then
  local left = tonumber(until_ms) - now
  if left > 0 then return left end
  if was_sent == '1' and tonumber(of) == episode then return math.max(1, for_ms) end
end
redis.call('HSET', KEYS[1], rule, string.format('%d %d %d', episode, now + for_ms, sent and 1 or 0))
redis.call('PEXPIRE', KEYS[1], MONTH_MS + for_ms)
return 0
