-- in_use: the policies in code that a fleet uses for one circuit: nearly always one.
--
-- Owns the list of these policies, how many replicas use each, and in which settings they differ.
-- `seq` marks each replica with the id of its policy, except for id 1, the usual one. Created only
-- when a replica is recorded, or acquires in half-open. Twin: `model::in_use`.

local function in_use(c)
  local MOST, LONGEST_KEPT_MS, LONGEST_WORDS = 8, 3600000, 2000

  local function name_of(values)
    local keys, words = policy_keys(), {}
    for i, default in ipairs(policy_defaults()) do
      if values[i] ~= default then words[#words + 1] = string.format('%s=%d', keys[i], values[i]) end
    end
    return #words > 0 and table.concat(words, ' ') or 'default'
  end

  -- Returns the settings in effect for a policy in code: those stored with the circuit win.
  local function effective(p)
    return apply(apply(policy_defaults(), p.name), c.policy)
  end

  local function write_all(list)
    redis.call('DEL', CODE)
    for _, p in ipairs(list) do
      local counted = p.replicas > 0 and string.format(' replicas=%d', p.replicas) or ''
      redis.call('HSET', CODE, p.name, string.format('id=%d seen_ms=%d', p.id, p.seen) .. counted)
    end
    keep(c, CODE)
  end

  local function find(list, name)
    for _, p in ipairs(list) do
      if p.name == name then return p end
    end
  end

  local function add_policy(list, name)
    local mine = find(list, name)
    if mine then
      mine.seen = now
      return mine
    end
    if #list >= MOST then
      local oldest = 1
      for i, p in ipairs(list) do
        if p.seen < list[oldest].seen then oldest = i end
      end
      table.remove(list, oldest)
    end
    local id = 1
    for _, p in ipairs(list) do
      if p.id == id then id = id + 1 end
    end
    mine = { name = name, id = id, seen = now, replicas = 0 }
    table.insert(list, id, mine)
    return mine
  end

  -- Counts the replicas of each policy that were recorded at `since` or later.
  local function count(list, mine, since)
    local counted = {}
    local live = #list > 1 and redis.call('ZRANGEBYSCORE', REPLICAS, since, '+inf') or {}
    for from = 1, #live, 1000 do
      local marks = redis.call('HMGET', SEQ, unpack(live, from, math.min(#live, from + 999)))
      for i, mark in ipairs(marks) do
        local id = tonumber(string.match(mark or '', '^%d+ %d+ (%d+)$')) or 1
        if live[from + i - 1] == replica then id = mine.id end
        counted[id] = (counted[id] or 0) + 1
      end
    end
    for _, p in ipairs(list) do p.replicas = counted[p.id] or 0 end
  end

  -- Returns the settings that differ, each with its values and their number of replicas:
  -- "window_ms=60000 (3), 5000 (1); quorum=1 (3), 2 (1)".
  local function differences(list)
    local words, length, settings = {}, 0, {}
    for i, p in ipairs(list) do settings[i] = p.replicas > 0 and effective(p) end
    for i, key in ipairs(policy_keys()) do
      local values, counted = {}, {}
      for j, p in ipairs(list) do
        local value = settings[j] and settings[j][i]
        if value and not counted[value] then values[#values + 1] = value end
        if value then counted[value] = (counted[value] or 0) + p.replicas end
      end
      if #values > 1 then
        for j, value in ipairs(values) do values[j] = string.format('%d (%d)', value, counted[value]) end
        local setting = key .. '=' .. table.concat(values, ', ')
        if length + #setting > LONGEST_WORDS then break end
        words[#words + 1] = setting
        length = length + #setting + (#words > 1 and 2 or 0)
      end
    end
    return table.concat(words, '; ')
  end

  -- Records the replica's policy, and from time to time counts the replicas of each policy. Returns
  -- the id with which to mark the replica.
  local function note(live_ms)
    local name, list, kept = name_of(c.policy_in_code), policies_in_use(), {}
    local known = find(list, name)
    if known and math.floor(known.seen / REPLICA_SEEN_MS) == math.floor(now / REPLICA_SEEN_MS) then return known.id end
    for _, p in ipairs(list) do
      p.seen = math.min(p.seen, now)
      local span = math.min(effective(p)[WINDOW_MS], LONGEST_KEPT_MS)
      if p == known or now - p.seen <= math.max(live_ms, span) + REPLICA_SEEN_MS then kept[#kept + 1] = p end
    end
    local mine = add_policy(kept, name)
    count(kept, mine, now - live_ms)
    write_all(kept)
    set(c, 'policies_differ', differences(kept))
    if c.window_shape ~= '' and (c.state == 'closed' or c.state == 'metrics_only') then
      local shapes, others = {}, c.window_shape ~= geometry()
      for _, p in ipairs(kept) do
        local shape = geometry(effective(p))
        shapes[shape] = true
        others = others or shape ~= c.window_shape
      end
      if others then several(c).retain(shapes) end
    end
    return mine.id
  end

  -- Returns how many probes may be in flight: the lowest limit of the policies in use.
  local function permitted()
    local list, name, fewest = policies_in_use(), name_of(c.policy_in_code), nil
    if not find(list, name) then
      add_policy(list, name)
      write_all(list)
    end
    for _, p in ipairs(list) do
      fewest = math.min(fewest or MAX_INT, effective(p)[PERMITTED])
    end
    return fewest
  end

  return { note = note, permitted = permitted }
end
