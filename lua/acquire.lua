-- acquire: permit or reject one call; make the transitions that are due.
-- Mode: write. Idempotent: yes (the same token asks for the same permit).
-- Twin: model::Circuit::acquire.
--
-- KEYS[1..12]  circuit, window, probes, replicas, seq, events, failing, alone, latency, history,
--              code, kinds (lib/prelude)
-- ARGV[1]     request  msgpack {head of 5, token}
-- Returns     msgpack {permitted (0 no, 1 yes, 2 yes as a probe), snapshot}
-- Errors      "EARITY ..." "EREQUEST ..."

array(request, 6, 'request')
local token = text(request[6], 'token')
local c = load()

if c.state == 'open' and now >= c.until_ms then
  transitions().to(c, 'half_open', 'wait_elapsed', now + policy[HALF_OPEN_MS], replica)
elseif c.state == 'half_open' and now >= c.until_ms then
  -- Probes in flight or lost mean that the service hangs. Without any, the circuit only lacked
  -- calls.
  if redis.call('ZCARD', PROBES) > 0 then
    transitions().open(c, 'half_open_timeout')
  else
    set(c, 'until_ms', now + policy[HALF_OPEN_MS])
  end
end

local permitted = 0
if c.state == 'half_open' then
  local latest = now + policy[LEASE_MS]
  redis.call('ZREMRANGEBYSCORE', PROBES, '-inf', now)
  keep_scores(PROBES, latest)
  redis.call('ZREMRANGEBYSCORE', PROBES, string.format('(%.0f', latest), '+inf')
  if redis.call('ZSCORE', PROBES, token) then
    permitted = 2
  elseif redis.call('ZCARD', PROBES) < in_use(c).permitted() then
    redis.call('ZADD', PROBES, latest, token)
    keep(c, PROBES)
    permitted = 2
  end
elseif c.state ~= 'open' and c.state ~= 'forced_open' then
  permitted = 1
end

-- The caller asked again because the first answer was lost, and the circuit has moved on since.
if permitted ~= 2 then redis.call('ZREM', PROBES, token) end

save(c)
return cmsgpack.pack({ permitted, current(c) })
