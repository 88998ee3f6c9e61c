-- control: an operator's command: an override, a reset, or a policy stored with the circuit.
-- Mode: write. Idempotent: no (each override and reset is a transition). Twin: model::Circuit::control.
--
-- KEYS[1..11]  circuit, window, probes, replicas, seq, events, failing, alone, latency, history, code (lib/prelude)
-- ARGV[1]     request  msgpack {head of 5, command, for_ms (0 = no end), author, reason, policy, expects}
--               command  "force_open" "disable" "metrics_only" "reset" "policy"
--               policy   "key=integer key=integer ..." ("" takes the stored policy away)
--               expects  0, or one more than the version of the stored policy must be for it to be replaced
-- Returns     msgpack snapshot
-- Errors      "EARITY ..." "EREQUEST ..."

local TARGETS = { force_open = 'forced_open', disable = 'disabled', metrics_only = 'metrics_only' }

array(request, 11, 'request')
local command = text(request[6], 'command')
local for_ms = whole(request[7], 'for_ms')
local author, reason = text(request[8], 'author'), text(request[9], 'reason')
local stored_policy = text(request[10], 'policy')
local expects = whole(request[11], 'expects')
if not TARGETS[command] and command ~= 'reset' and command ~= 'policy' then
  refuse('EREQUEST', 'command must be force_open, disable, metrics_only, reset or policy')
end

local c = load()
if command == 'policy' then
  if expects == 0 or expects == c.policy_version + 1 then
    transitions().store_policy(c, stored_policy, author, reason)
  else
    save(c)
  end
else
  set(c, 'consecutive_opens', 0)
  if TARGETS[command] then
    set(c, 'override_author', author)
    set(c, 'override_reason', reason)
  end
  transitions().to(c, TARGETS[command] or 'closed', command == 'reset' and 'reset' or 'override',
    TARGETS[command] and for_ms > 0 and now + math.min(for_ms, CENTURY_MS) or 0, author, reason, replica)
end
return cmsgpack.pack(current(c))
