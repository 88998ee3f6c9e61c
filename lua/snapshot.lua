-- snapshot: the circuit as it is, with what has left the window taken off; of one that is open, what opened it.
-- Mode: read. Idempotent: yes. Twin: model::Circuit::snapshot.
--
-- KEYS[1..11]  circuit, window, probes, replicas, seq, events, failing, alone, latency, history, code (lib/prelude)
-- ARGV[1]     request  msgpack {head of 5}
-- Returns     msgpack {snapshot, slices of latencies as they are stored, the policy in code}
-- Errors      "EARITY ..." "EREQUEST ..."

array(request, 5, 'request')
local c = read()
local is_open = c.state == 'open' or c.state == 'half_open'
return cmsgpack.pack({ is_open and current(c) or picture(c, totals(c)), latency().seen(), c.code_policy or select(2, last_policy()) })
