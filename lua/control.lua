-- control: carry out an operator's command: an override, a reset, or a change of the stored policy.
-- Mode: write. Idempotent: no (each override and reset is a transition).
-- Twin: model::Circuit::control.
--
-- KEYS[1..12]  circuit, window, probes, replicas, seq, events, failing, alone, latency, history,
--              code, kinds (lib/prelude)
-- ARGV[1]     request  msgpack {head of 5, command, for_ms (0 = no end), author, reason, policy,
--                      expects}
--               command  "force_open" "disable" "metrics_only" "reset" "policy"
--               policy   "key=integer key=integer ..." ("" removes the stored policy)
--               expects  0 = anything; otherwise the expected value plus one, and nothing changes
--                        if it does not match: for "policy" the version of the stored policy,
--                        for the others the generation of the override in force (0 = none)
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
elseif expects > 0 and expects ~= (is_override(c.state) and c.generation or 0) + 1 then
  save(c)
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
