-- quorum: which replicas fail, whose local circuit is open, and whether enough fail to open.
--
-- Owns `failing` and `alone`; knows nothing of states. Replicas are counted by their stable names,
-- so a replica that crashes and restarts repeatedly counts once. Created only when a policy needs
-- more than one replica: with a quorum of 1 none of this costs a command. Expired entries of both
-- keys never count, and are removed when an entry is added. Twin: `model::quorum`.

local REPLICA_LIVE_MS = 15000 -- a replica that reported within this time is live
local REPLICA_SEEN_MS = 5000 -- the precision of that time
local REPLICA_MEMORY_MS = 3600000 -- how long the last number of a silent replica is kept

local function quorum()
  local window = math.max(1, policy[WINDOW_MS])

  -- Returns a name without its random part, which is new at each start.
  local function stable(name)
    return string.match(name, '^(.+)%.%x%x%x%x%x%x%x%x$') or name
  end

  local function note_failing(c)
    -- Another policy may have a longer window.
    local kept = c.policies_differ == '' and window or math.max(window, REPLICA_MEMORY_MS)
    redis.call('ZREMRANGEBYSCORE', FAILING, '-inf', now - kept)
    if redis.call('ZADD', FAILING, now, stable(replica)) == 1 then keep(c, FAILING) end
    keep_scores(FAILING, now)
  end

  local function note_alone(c, alone_ms)
    -- The longest time for which a local circuit can be open or half-open.
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

  -- Returns the number of live replicas, at most `most`. A replica's score in `replicas` can be up
  -- to REPLICA_SEEN_MS older than its last report.
  local function live(most)
    local since = now - math.max(REPLICA_LIVE_MS, window) - REPLICA_SEEN_MS
    local known, count, from = {}, 0, 0
    repeat
      local some = redis.call('ZRANGEBYSCORE', REPLICAS, since, '+inf', 'LIMIT', from, 100)
      for _, name in ipairs(some) do
        name = stable(name)
        if not known[name] then
          known[name] = true
          count = count + 1
        end
      end
      from = from + 100
    until #some < 100 or count >= most
    return math.min(count, most)
  end

  local function agreed()
    return failing() >= math.max(1, live(policy[QUORUM]))
  end

  return { note_failing = note_failing, note_alone = note_alone, failing = failing, alone = alone, agreed = agreed }
end
