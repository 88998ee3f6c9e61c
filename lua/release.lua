-- release: give back one half-open permit whose call produced no outcome.
-- Mode: write. Idempotent: yes. Twin: model::Circuit::release.
--
-- KEYS[1..12]  circuit, window, probes, replicas, seq, events, failing, alone, latency, history,
--              code, kinds (lib/prelude)
-- ARGV[1]     request  msgpack {head of 5, token}
-- Returns     msgpack snapshot
-- Errors      "EARITY ..." "EREQUEST ..."

array(request, 6, 'request')
local token = text(request[6], 'token')
local c = load()
redis.call('ZREM', PROBES, token)
save(c)
return cmsgpack.pack(current(c))
