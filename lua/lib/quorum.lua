-- quorum: which replicas fail, which are open for themselves, and whether enough fail to open.
--
-- Owns `failing` and `alone`; knows nothing of states. Made only where a policy asks for more than
-- one replica: with a quorum of 1 none of this costs a command. Both keys are cleared of what is
-- over when something is noted, and what is over never counts. Twin: `model::quorum`.

local REPLICA_LIVE_MS = 15000 -- who reported within this time is there
local REPLICA_SEEN_MS = 5000 -- how exactly that is known
local REPLICA_MEMORY_MS = 3600000 -- how long an unheard replica's last number is kept

local function quorum()
  local window = math.max(1, policy[WINDOW_MS])

  local function note_failing(c)
    -- Another policy's window may be longer.
    local kept = c.policies_differ == '' and window or math.max(window, REPLICA_MEMORY_MS)
    redis.call('ZREMRANGEBYSCORE', FAILING, '-inf', now - kept)
    if redis.call('ZADD', FAILING, now, replica) == 1 then keep(c, FAILING) end
    keep_scores(FAILING, now)
  end

  local function note_alone(c, alone_ms)
    -- As long as its circuit can be open, or half-open.
    local latest = now + math.max(longest_wait(), policy[LEASE_MS], policy[HALF_OPEN_MS])
    keep_scores(ALONE, latest)
    if alone_ms == 0 then
      redis.call('ZREM', ALONE, replica)
      return
    end
    redis.call('ZREMRANGEBYSCORE', ALONE, '-inf', now)
    if redis.call('ZADD', ALONE, math.min(now + alone_ms, latest), replica) == 1 then keep(c, ALONE) end
  end

  local function failing()
    return redis.call('ZCOUNT', FAILING, string.format('(%.0f', now - window), '+inf')
  end

  local function alone()
    return redis.call('ZCOUNT', ALONE, string.format('(%.0f', now), '+inf')
  end

  -- A replica's place in `replicas` can be older than its last report by what it is known to.
  local function agreed()
    local since = now - math.max(REPLICA_LIVE_MS, window) - REPLICA_SEEN_MS
    local live = redis.call('ZCOUNT', REPLICAS, since, '+inf')
    return failing() >= math.min(policy[QUORUM], math.max(1, live))
  end

  return { note_failing = note_failing, note_alone = note_alone, failing = failing, alone = alone, agreed = agreed }
end
