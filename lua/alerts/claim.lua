-- alerts/claim: decide which replica sends an alert, so that only one does, and record the result.
-- Mode: write. Idempotent: no (reporting a result ends the claim). Twin: model::Claims::claim.
--
-- Shares nothing with the other scripts: alerts are not part of a circuit's state.
--
-- KEYS[1]  alerts  hash  rule -> "episode phase until_ms quiet_ms token" of the rule's last alert
--                        phase: 1 = sending its trigger, 2 = trigger delivered,
--                               3 = sending its resolve message, 4 = over
-- ARGV[1]  request  msgpack {now_ms (0 = server time), rule, episode, step, for_ms, token, again}
--            step   0 look
--                   1 trigger, 2 resolve: asks for a claim of for_ms to send it; the same token
--                     extends its claim
--                   3 triggered, 5 gave up: no other trigger of the rule for for_ms
--                   4 resolved
--            again  whether an episode may be triggered more than once
-- Returns  {verdict, wait_ms, episode, phase}
--            verdict         0 granted, 1 another replica is sending, 2 in the cooldown,
--                            3 nothing to send, or the claim is no longer the caller's
--            wait_ms         when to ask again
--            episode, phase  before this claim (0 0 = nothing was known)
-- Errors   "EARITY ..." "EREQUEST ..."

local function refuse(code, what)
  error({ err = code .. ' ' .. what })
end

if #KEYS ~= 1 then refuse('EARITY', 'expected 1 key, got ' .. #KEYS) end
if #ARGV ~= 1 then refuse('EARITY', 'expected 1 argument, got ' .. #ARGV) end
local decoded, request = pcall(cmsgpack.unpack, ARGV[1])
if not decoded or type(request) ~= 'table' or #request ~= 7 then refuse('EREQUEST', 'the request must be an array of 7') end
local now, rule, episode, step, for_ms = request[1], request[2], request[3], request[4], request[5]
local token, again = request[6], request[7]
for _, n in ipairs({ now, episode, for_ms }) do
  if type(n) ~= 'number' or n < 0 or n > 4503599627370495 or n % 1 ~= 0 then
    refuse('EREQUEST', 'now_ms, episode and for_ms must be whole numbers from 0 to 2^52-1')
  end
end
if type(rule) ~= 'string' or #rule < 1 or #rule > 200 then refuse('EREQUEST', 'rule must be a text of 1 to 200 bytes') end
if type(step) ~= 'number' or step < 0 or step > 5 or step % 1 ~= 0 then refuse('EREQUEST', 'step must be from 0 to 5') end
if type(token) ~= 'string' or #token > 64 or not string.match(token, '^%w*$') then
  refuse('EREQUEST', 'token must be up to 64 letters and digits')
end
if type(again) ~= 'boolean' then refuse('EREQUEST', 'again must be true or false') end
if now == 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end

local GRANTED, TAKEN, COOLING, SETTLED = 0, 1, 2, 3
local MONTH_MS = 2592000000
local form = '^(%d+) ([1-4]) (%d+) (%d+) (%w*)$'
local of, phase, until_ms, quiet_ms, holder = string.match(redis.call('HGET', KEYS[1], rule) or '', form)
of, phase = tonumber(of or 0), tonumber(phase or 0)
until_ms, quiet_ms = tonumber(until_ms or 0), tonumber(quiet_ms or 0)

local is_sending = phase == 1 or phase == 3
local taken = is_sending and holder ~= token and math.max(0, until_ms - now) or 0
local same = of == episode

-- The verdict, and when to ask again.
local function judge()
  if step == 0 then return SETTLED, 0 end
  if phase == 0 then return GRANTED, 0 end
  if step > 2 then
    if is_sending and same and holder == token then return GRANTED, 0 end
    return SETTLED, 0
  end
  if step == 2 then
    if not same or phase == 4 then return SETTLED, 0 end
  elseif episode < of or same and not again and phase ~= 1 then
    return SETTLED, 0
  end
  if taken > 0 then return TAKEN, taken end
  -- A sender that continues a trigger has already waited.
  if step == 1 and quiet_ms > now and not (same and phase == 1) then return COOLING, quiet_ms - now end
  return GRANTED, 0
end

local verdict, wait_ms = judge()
if verdict == GRANTED then
  local ends, after = 0, step == 3 and 2 or 4
  if step < 3 then
    ends, after = now + for_ms, step == 1 and 1 or 3
  else
    token = ''
  end
  if step == 3 or step == 5 then quiet_ms = math.max(quiet_ms, now + for_ms) end
  redis.call('HSET', KEYS[1], rule, string.format('%d %d %d %d %s', episode, after, ends, quiet_ms, token))
  redis.call('PEXPIRE', KEYS[1], string.format('%d', MONTH_MS + for_ms))
end
return { verdict, wait_ms, of, phase }
