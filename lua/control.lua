-- control: an operator's command: an override, a reset, or a policy stored with the circuit.
-- Mode: write. Idempotent: no (each override and reset is a transition). Twin: model::Circuit::control.
--
-- KEYS[1..9]  circuit, window, probes, replicas, seq, events, failing, alone, latency (lib/prelude)
-- ARGV[1]     request  msgpack {head of 5, command, for_ms (0 = no end), author, reason, policy}
--               command  "force_open" "disable" "metrics_only" "reset" "policy"
--               policy   "key=integer key=integer ..." ("" takes the stored policy away)
-- Returns     msgpack snapshot
-- Errors      "EARITY ..." "EREQUEST ..."

local TARGETS = { force_open = 'forced_open', disable = 'disabled', metrics_only = 'metrics_only' }

array(request, 10, 'request')
local command = text(request[6], 'command')
local for_ms = whole(request[7], 'for_ms')
local author, reason = text(request[8], 'author'), text(request[9], 'reason')
local stored_policy = text(request[10], 'policy')
if not TARGETS[command] and command ~= 'reset' and command ~= 'policy' then
  refuse('EREQUEST', 'command must be force_open, disable, metrics_only, reset or policy')
end

local c = load()
if command == 'policy' then
  set(c, 'policy', stored_policy)
  transitions().publish(c)
else
  set(c, 'consecutive_opens', 0)
  if TARGETS[command] then
    set(c, 'override_author', author)
    set(c, 'override_reason', reason)
  end
  transitions().to(c, TARGETS[command] or 'closed', command == 'reset' and 'reset' or 'override',
    TARGETS[command] and for_ms > 0 and now + math.min(for_ms, CENTURY_MS) or 0, author, reason)
end
return cmsgpack.pack(current(c))
