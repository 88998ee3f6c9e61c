-- circuit: the one writer of state and generation: adopt, transition, announce, picture.
--
-- Owns what each transition sets, the circuit's events and its publications.
-- Invariants: every transition increments the generation, appends one event and publishes once;
-- the generation never decreases while a caller remembers it. Twin: `model::circuit`.
--
-- Each run of a script creates every Lua function again, and each variable that a function captures
-- has a cost. So `transitions` creates the functions that only a transition needs.

-- A larger time difference between Redis and a caller is not the delay of an answer, ms.
local STEP_MS = 1000

-- Returns the snapshot of the circuit. Order: `model::Snapshot`.
local function picture(c, calls, failures, slow, undecided)
  local probes, opened, open_total = 0, 0, c.open_total_ms
  if c.state == 'open' or c.state == 'half_open' then
    opened = opened_at(c)
    open_total = open_total + now - opened
    probes = redis.call('ZCOUNT', PROBES, string.format('(%.0f', now), '+inf')
  end
  local failing, alone = 0, 0
  if policy[QUORUM] > 1 then
    local of = quorum()
    failing, alone = of.failing(), of.alone()
  end
  return {
    c.state, c.generation, now, c.since_ms, c.until_ms, c.reason, c.consecutive_opens, calls, failures, slow,
    c.consecutive_failures, probes, c.probe_successes, c.probe_failures, c.ramp_until_ms, c.override_author,
    c.override_reason, c.policy, c.successes_total, c.failures_total, c.slow_total, c.ignored_total,
    c.rejected_total, c.last_success_ms, c.last_failure_ms, c.pace_ms,
    c.replicas, failing, alone, c.policy_version, undecided, c.abandoned_total, opened, open_total,
    c.policies_differ,
  }
end

local function current(c)
  return picture(c, c.window_calls, c.window_failures, c.window_slow, c.undecided)
end

local function transitions()
  local function publish(c)
    save(c, true)
    redis.call('PUBLISH', CIRCUIT, cmsgpack.pack({ 2, current(c) }))
  end

  -- `origin`: where an operator's command came from; `stored`: the policy that it stored.
  local function announce(c, from, reason, by, note, origin, stored)
    local leading = c.state == 'open' and reason ~= 'policy' and kinds().leading() or ''
    redis.call('XADD', EVENTS, 'MAXLEN', 256, '*', 'generation', c.generation, 'from', from, 'to', c.state,
      'reason', reason, 'at_ms', now, 'until_ms', c.until_ms, 'consecutive_opens', c.consecutive_opens,
      'calls', c.window_calls, 'failures', c.window_failures, 'slow', c.window_slow,
      'by', by, 'note', note or '', 'origin', origin or '', 'policy', stored or '',
      'leading_failure', leading)
  end

  -- The last generation is followed by the first. No fleet gets there, but a foreign write can.
  local function next_generation(c)
    set(c, 'generation', c.generation < MOST_GENERATIONS and c.generation + 1 or 1)
  end

  -- `why`: the reason in the event, if it differs from the reason of the state.
  local function transition(c, to, reason, until_ms, by, note, origin, why)
    local from = c.state
    local ramp = reason == 'recovered' and not why and policy[RAMP_MS] or 0
    local opened = opened_at(c)
    if to == 'open' or to == 'half_open' then
      set(c, 'opened_ms', opened > 0 and opened or now)
    else
      if from == 'open' or from == 'half_open' then
        set(c, 'open_total_ms', math.min(LARGEST, c.open_total_ms + now - opened))
      end
      set(c, 'opened_ms', 0)
    end
    set(c, 'state', to)
    next_generation(c)
    set(c, 'since_ms', now)
    set(c, 'until_ms', until_ms)
    set(c, 'reason', reason)
    set(c, 'ramp_until_ms', ramp > 0 and now + ramp or 0)
    set(c, 'probe_successes', 0)
    set(c, 'probe_failures', 0)
    if not is_override(to) then
      set(c, 'override_author', '')
      set(c, 'override_reason', '')
    end
    announce(c, from, why or reason, by, note, origin)
    if to == 'closed' or to == 'metrics_only' then
      forget_window(c, FAILING)
      set(c, 'consecutive_failures', 0)
      set(c, 'retry_after_until_ms', 0)
    end
    publish(c)
  end

  -- Returns the wait of the n-th consecutive open.
  local function open_wait(opens)
    local wait, top = policy[WAIT_MS], math.max(policy[WAIT_MS], policy[MAX_WAIT_MS])
    if policy[BACKOFF_PERCENT] > 100 then
      for _ = 2, math.min(opens, 1000) do
        wait = math.floor(wait * policy[BACKOFF_PERCENT] / 100)
        if wait >= top then break end
      end
    end
    wait = math.min(wait, top)
    return wait + math.floor(wait * policy[JITTER] * (entropy % 1000) / 100000)
  end

  local function open(c, reason)
    local calm = c.state == 'closed' and now >= c.ramp_until_ms and math.max(0, now - c.since_ms) >= policy[BACKOFF_RESET_MS]
    set(c, 'consecutive_opens', calm and 1 or c.consecutive_opens + 1)
    local asked = math.min(c.retry_after_until_ms, now + longest_wait())
    transition(c, 'open', reason, math.max(now + open_wait(c.consecutive_opens), asked), replica)
  end

  -- Remembers how long the upstream asked to be left alone.
  local function honor(c, retry_after_ms)
    if retry_after_ms > 0 then
      set(c, 'retry_after_until_ms', math.max(c.retry_after_until_ms, now + math.min(retry_after_ms, longest_wait())))
    end
  end

  local function is_state(state)
    return state == 'closed' or state == 'open' or state == 'half_open' or is_override(state)
  end

  -- Adopts the caller's memory of a circuit that Redis has lost, or has in an older state.
  local function adopt(c, memory)
    local generation, state, left, age, opens = memory[1], memory[2], memory[3], memory[4], memory[5]
    local author, note, why, probes = text(memory[6], 'memory.author'), text(memory[7], 'memory.reason'), memory[8], memory[9]
    if not is_state(state) then refuse('EREQUEST', 'memory.state is not a state') end
    if left ~= -1 then left = math.min(whole(left, 'memory.left_ms'), CENTURY_MS) end
    whole(age, 'memory.age_ms')
    whole(opens, 'memory.opens')
    whole(probes, 'memory.probes')
    if not is_reason(text(why, 'memory.why')) then refuse('EREQUEST', 'memory.why is not a reason') end
    set(c, 'generation', generation)
    if (state == 'open' or state == 'half_open') and age <= longest_wait() + policy[LEASE_MS] then
      -- While a probe may be in flight, or about to start, the wait is at least its lease.
      local lease = (state == 'half_open' or left <= STEP_MS or probes > 0 or age >= policy[WAIT_MS]) and policy[LEASE_MS] or 0
      set(c, 'consecutive_opens', opens)
      transition(c, 'open', state == 'open' and why or 'adopted', now + math.max(math.min(left, longest_wait()), lease), replica,
        nil, nil, 'adopted')
    elseif is_override(state) and left ~= 0 then
      set(c, 'override_author', author)
      set(c, 'override_reason', note)
      transition(c, state, why, left < 0 and 0 or now + left, replica, note, nil, 'adopted')
    elseif state ~= 'closed' or not c.missing then
      next_generation(c)
      set(c, 'reason', 'adopted')
      announce(c, c.state, 'adopted', replica)
      publish(c)
    end
  end

  -- Stores a policy with the circuit. This is not a transition: the counts continue.
  local function store_policy(c, stored, by, note)
    set(c, 'policy', stored)
    add(c, 'policy_version', 1)
    announce(c, c.state, 'policy', by, note, replica, stored)
    publish(c)
  end

  return { to = transition, open = open, honor = honor, adopt = adopt, store_policy = store_policy }
end

-- Reads the circuit for writing: adopts the caller's memory, ends an override that has expired.
local function load()
  local c = read()
  if c.missing then set(c, 'since_ms', now) end
  local memory = array(request[5], 9, 'memory')
  local generation, left = whole(memory[1], 'memory.generation'), memory[3]
  if generation > c.generation then
    -- The largest generation would be adopted again and again, because the next one is 1.
    if generation < MOST_GENERATIONS then transitions().adopt(c, memory) end
  elseif c.until_ms > now + STEP_MS and generation == c.generation and memory[2] == c.state and c.state ~= 'half_open'
    and left ~= -1 and c.until_ms > now + whole(left, 'memory.left_ms') + STEP_MS
  then
    -- The caller's monotonic clock says that less time is left: Redis' clock was set back.
    set(c, 'until_ms', now + left)
  end
  if c.until_ms > 0 and now >= c.until_ms and is_override(c.state) then
    set(c, 'consecutive_opens', 0)
    transitions().to(c, 'closed', 'override_expired', 0, replica)
  end
  return c
end
