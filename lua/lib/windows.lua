-- windows: the windows of one circuit: one for each shape that its replicas' policies ask for.
--
-- Owns which windows there are, and that each outcome is recorded in all of them, so that replicas
-- with different policies do not lose each other's counts. Nearly always there is one window, which
-- `window` handles. Several are stored in one hash: shape -> "at|sums|parts", where parts are
-- "start=counts,..." or the ring; the field `window_shape` then has all shapes, joined by " + ".
-- Twin: `model::windows`.

local MOST_WINDOWS = 8

local function several(c)
  local function new(shape)
    local n, width = string.match(shape, '^(%d+)x(%d+)ms$')
    n, width = tonumber(n), tonumber(width)
    local calls = tonumber(string.match(shape, '^(%d+) calls$'))
    local w = { shape = shape, at = 0, sums = { 0, 0, 0, 0 } }
    if n and n > 0 and n <= 1000 and width > 0 and width <= YEAR_MS then
      w.n, w.width, w.buckets = n, width, {}
      return w
    elseif calls and calls > 0 and calls <= 10000 then
      w.calls, w.ring = calls, ''
      return w
    end
  end

  local function span(w) return w.width and w.n * w.width or 0 end

  local function plus(sums, counts, sign)
    for i = 1, 4 do sums[i] = math.max(0, sums[i] + sign * counts[i]) end
  end

  local function add(w, start, counts)
    w.buckets[start] = w.buckets[start] or { 0, 0, 0, 0 }
    plus(w.buckets[start], counts, 1)
    plus(w.sums, counts, 1)
  end

  local function starts_of(w)
    local starts = {}
    for start in pairs(w.buckets) do starts[#starts + 1] = start end
    table.sort(starts)
    return starts
  end

  -- Returns the current totals, without what has left the window.
  local function totals_of(w)
    if w.calls then return w.sums end
    local b = math.floor(now / w.width)
    if math.abs(b - math.floor(w.at / w.width)) >= w.n then return { 0, 0, 0, 0 } end
    local sums = { unpack(w.sums) }
    for start, counts in pairs(w.buckets) do
      if start + span(w) <= b * w.width then plus(sums, counts, -1) end
    end
    return sums
  end

  local function half_of(w)
    local since = math.max(0, math.floor(w.at / w.width) + 1 - math.floor(w.n / 2)) * w.width
    local calls, failures = 0, 0
    for start, counts in pairs(w.buckets) do
      if start >= since then calls, failures = calls + counts[1], failures + counts[2] end
    end
    return calls, failures
  end

  local function push(w, written)
    while #written > 0 do
      local at = w.at % w.calls
      local piece = string.sub(written, 1, w.calls - at)
      written = string.sub(written, #piece + 1)
      w.ring = string.sub(w.ring, 1, at) .. piece .. string.sub(w.ring, at + #piece + 1)
      w.at = (at + #piece) % w.calls
    end
    w.sums = { #w.ring, failures_in(w.ring), slow_in(w.ring), w.sums[4] }
  end

  local function file(w, successes, failures, slow_successes, slow_failures, undecided)
    local calls = successes + failures
    if w.calls then
      if calls > 0 then push(w, spread(w.calls, calls, failures, slow_failures, slow_successes)) end
      w.sums[4] = successes > 0 and 0 or w.sums[4] + undecided
      return
    end
    local b, at = math.floor(now / w.width), math.floor(w.at / w.width)
    if math.abs(b - at) >= w.n then
      w.at, w.sums, w.buckets = b * w.width, { 0, 0, 0, 0 }, {}
    elseif b > at then
      w.sums, w.at = totals_of(w), b * w.width
      for start in pairs(w.buckets) do
        if start + span(w) <= w.at then w.buckets[start] = nil end
      end
    end
    if calls + undecided > 0 then
      add(w, w.at, { calls, failures, slow_successes + slow_failures, undecided })
    end
  end

  -- Copies the part of another window that this one covers. An old bucket goes to the bucket of its
  -- last moment, because all its calls may have come then. Between a ring and a time window, the
  -- totals are copied as one batch.
  local function continue(w, from)
    if w.calls and from.calls then
      push(w, string.sub(string.sub(from.ring, from.at + 1) .. string.sub(from.ring, 1, from.at), -w.calls))
      w.sums[4] = from.sums[4]
    elseif w.width and from.width then
      local newest = math.max(math.floor(now / w.width), math.floor(from.at / w.width))
      w.at = newest * w.width
      for start, counts in pairs(from.buckets) do
        local b = math.floor(math.max(start, math.min(now, start + from.width - 1)) / w.width)
        if b + w.n > newest then add(w, b * w.width, counts) end
      end
    else
      local calls, failures, slow, undecided = unpack(totals_of(from))
      local slow_failures = math.min(slow, failures)
      file(w, calls - failures, failures, slow - slow_failures, slow_failures, undecided)
    end
  end

  local function read_parts(w, parts)
    if w.calls then
      w.ring = string.match(string.sub(parts, 1, w.calls), '^[sfSF]*')
      w.at = math.min(w.at, #w.ring) % w.calls
      return
    end
    for start, counts in string.gmatch(parts, '(%d+)=([%d ]+)') do w.buckets[tonumber(start)] = { parse(counts) } end
  end

  local function unpacked(shape, held)
    local w = new(shape)
    local at, sums, parts = string.match(held or '', '^(%d+)|([%d ]+)|(.*)$')
    if w and at and tonumber(at) <= LARGEST then
      w.at, w.sums = tonumber(at), { parse(sums) }
      read_parts(w, parts)
    end
    return w
  end

  local function packed(w)
    local parts = {}
    for i, start in ipairs(w.width and starts_of(w) or {}) do
      parts[i] = string.format('%d=%s', start, write(unpack(w.buckets[start])))
    end
    return string.format('%d|%s|%s', w.at, write(unpack(w.sums)), w.ring or table.concat(parts, ','))
  end

  local function only()
    local w = new(c.window_shape)
    if not w then return {} end
    w.at = w.calls and c.ring_position or c.bucket_at_ms
    w.sums = { c.window_calls, c.window_failures, c.window_slow, c.undecided }
    local flooded = not w.calls and is_flooded(WINDOW, 5000)
    local held = flooded and {} or redis.pcall(w.calls and 'GET' or 'HGETALL', WINDOW)
    if w.calls then
      read_parts(w, type(held) == 'string' and held or '')
    elseif not held.err then
      for i = 1, #held, 2 do
        local start = string.match(held[i], '^%d+$')
        if start then w.buckets[tonumber(start)] = { parse(held[i + 1]) } end
      end
      local x, y, z, u = newest(c)
      if x + u > 0 then w.buckets[w.at] = { x, y, z, u } end
    end
    return { w }
  end

  local function load()
    if not string.find(c.window_shape, '+', 1, true) then return only() end
    local list = {}
    for shape in string.gmatch(c.window_shape, '[^+]+') do
      shape = string.match(shape, '^ ?(.-) ?$')
      local held = redis.pcall('HGET', WINDOW, shape)
      local w = #list < MOST_WINDOWS and unpacked(shape, type(held) == 'string' and held)
      if w then list[#list + 1] = w end
    end
    return list
  end

  local function save_only(w)
    local ended = { 0, 0, 0, 0 }
    if w.calls and w.ring ~= '' then redis.call('SETRANGE', WINDOW, 0, w.ring) end
    for _, start in ipairs(w.width and starts_of(w) or {}) do
      if start ~= w.at then
        redis.call('HSET', WINDOW, string.format('%d', start), write(unpack(w.buckets[start])))
        plus(ended, w.buckets[start], 1)
      end
    end
    set(c, 'window_shape', w.shape)
    set(c, 'bucket_at_ms', w.width and w.at or 0)
    set(c, 'ring_position', w.calls and w.at or 0)
    set_ended(c, unpack(ended))
    set_window(c, unpack(w.sums))
  end

  local function store(list)
    redis.call('DEL', WINDOW)
    if #list == 1 then
      save_only(list[1])
    else
      local shapes = {}
      for i, w in ipairs(list) do
        shapes[i] = w.shape
        redis.call('HSET', WINDOW, w.shape, packed(w))
      end
      set(c, 'window_shape', table.concat(shapes, ' + '))
      set(c, 'bucket_at_ms', 0)
      set(c, 'ring_position', 0)
      set_ended(c, 0, 0, 0, 0)
    end
    keep(c, WINDOW)
  end

  local function own(list)
    local shape = geometry()
    for _, w in ipairs(list) do
      if w.shape == shape then return w end
    end
  end

  -- Adds the caller's own window if it is missing, with the contents of the longest one.
  local function join(list)
    local mine = own(list)
    if mine then return mine end
    mine = new(geometry())
    local longest = list[1]
    for _, w in ipairs(list) do
      if span(w) > span(longest) then longest = w end
    end
    if longest then continue(mine, longest) end
    if #list == MOST_WINDOWS then table.remove(list, 1) end
    list[#list + 1] = mine
    return mine
  end

  local function record(...)
    local list = load()
    local mine = join(list)
    for _, w in ipairs(list) do file(w, ...) end
    store(list)
    set_window(c, unpack(mine.sums))
    c.half = mine.width and { half_of(mine) }
  end

  -- Removes the windows that no policy in use asks for; the caller's own is always in use.
  local function retain(shapes)
    local list, kept = load(), {}
    if #list == 0 then return end
    join(list)
    for _, w in ipairs(list) do
      if shapes[w.shape] then kept[#kept + 1] = w end
    end
    store(kept)
  end

  local function totals()
    local mine = own(load())
    if mine then return unpack(totals_of(mine)) end
    return c.window_calls, c.window_failures, c.window_slow, c.undecided
  end

  return { record = record, retain = retain, totals = totals }
end

-- Returns the current totals without writing: what has left the window does not count.
local function totals(c)
  if c.window_shape ~= geometry() then return several(c).totals() end
  if string.sub(c.window_shape, -2) == 'ms' then
    local width, n = grid()
    local b = math.floor(now / width)
    local gap = b - math.floor(c.bucket_at_ms / width)
    if gap >= n or gap <= -n then return 0, 0, 0, 0 end
    return less(c, select(2, expired(c, width, n, b)))
  end
  return c.window_calls, c.window_failures, c.window_slow, c.undecided
end

-- Records a batch now. A count window has the undecided calls since its last success. A batch has
-- no order: its undecided calls are taken to precede its successes.
local function record(c, successes, failures, slow_successes, slow_failures, undecided)
  local calls = successes + failures
  if c.window_shape ~= geometry() then
    several(c).record(successes, failures, slow_successes, slow_failures, undecided)
  elseif policy[WINDOW_CALLS] == 0 then
    add_time(c, calls, failures, slow_successes + slow_failures, undecided)
  else
    if calls > 0 then add_count(c, calls, failures, slow_failures, slow_successes) end
    set(c, 'undecided', successes > 0 and 0 or c.undecided + undecided)
  end
end
