-- snapshot: read the circuit, without calls that have left the window; an open or half-open circuit
-- keeps the counts that opened it.
-- Mode: read. Idempotent: yes. Twin: model::Circuit::snapshot.
--
-- KEYS[1..12]  circuit, window, probes, replicas, seq, events, failing, alone, latency, history,
--              code, kinds (lib/prelude)
-- ARGV[1]     request  msgpack {head of 5}
-- Returns     msgpack {snapshot, slices of latencies as stored, the policy in code,
--                      {kind of failure, its stored text, ...}}
-- Errors      "EARITY ..." "EREQUEST ..."

array(request, 5, 'request')
local c = read()
local is_open = c.state == 'open' or c.state == 'half_open'
local shown = is_open and current(c) or picture(c, totals(c))
return cmsgpack.pack({ shown, latency().seen(), c.code_policy or select(2, last_policy()), kinds().seen() })
