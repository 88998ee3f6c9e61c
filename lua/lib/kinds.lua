-- kinds: the kinds of failures: how often and when each last occurred, and the classifier's detail.
--
-- Owns how long a kind is kept, and which one is dropped when there are too many; knows no states:
-- transitions do not change kinds. A hash: kind -> "count=20 last=UNIX_MS minute=12 before=3
-- detail". `minute` counts the failures in the minute of `last`, and `before` those in the minute
-- before it. Foreign fields that cannot be read are ignored, and removed when kinds are recorded.
-- Created only when a report has kinds, a circuit opens, or a snapshot is read.
-- Twin: `model::kinds`.

local function kinds()
  local MOST_KINDS, LONGEST_KIND, LONGEST_DETAIL = 16, 32, 120
  local KEPT_MS, MINUTE_MS = DAY, 60000

  local function is_kind(word)
    return type(word) == 'string' and #word <= LONGEST_KIND and string.match(word, '^[a-z0-9_. -]+$')
  end

  local function is_note(n)
    return type(n) == 'table' and #n == 3 and is_kind(n[1]) and type(n[2]) == 'number' and n[2] >= 1 and n[2] <= MOST_CALLS
      and n[2] % 1 == 0 and type(n[3]) == 'string' and #n[3] <= LONGEST_DETAIL
  end

  local function check(notes)
    local fine = #notes <= MOST_KINDS
    for i = 1, #notes do fine = fine and is_note(notes[i]) end
    if not fine then
      refuse('EREQUEST', string.format('kinds must be at most %d of a kind, a count from 1 to %d and a detail of at most %d bytes',
        MOST_KINDS, MOST_CALLS, LONGEST_DETAIL))
    end
  end

  -- Returns the stored kinds: kind -> {count, last, minute, before, detail}; the names of
  -- unreadable fields; and whether there are too many fields to read any.
  local function read_kept()
    local held, foreign, flooded = {}, {}, is_flooded(KINDS, 64)
    local pairs_held = flooded and {} or redis.call('HGETALL', KINDS)
    for i = 1, #pairs_held, 2 do
      local kind, text_held = pairs_held[i], pairs_held[i + 1]
      local form = '^count=(%d+) last=(%d+) minute=(%d+) before=(%d+) ?(.*)$'
      local count, last, minute, before, detail = string.match(text_held, form)
      count, last, minute, before = tonumber(count), tonumber(last), tonumber(minute), tonumber(before)
      if is_kind(kind) and count and math.max(count, last, minute, before) <= LARGEST and #detail <= LONGEST_DETAIL then
        held[kind] = { count = count, last = math.min(last, now), minute = minute, before = before, detail = detail }
      else
        foreign[#foreign + 1] = kind
      end
    end
    return held, foreign, flooded
  end

  -- Returns the failures in the current minute, and in the one before.
  local function minutes(e)
    local age = math.floor(now / MINUTE_MS) - math.floor(e.last / MINUTE_MS)
    return age == 0 and e.minute or 0, age == 0 and e.before or age == 1 and e.minute or 0
  end

  -- Returns the kind that was last seen longest ago (the first by name of several), and the number
  -- of kinds.
  local function oldest(held)
    local found, n = nil, 0
    for kind, e in pairs(held) do
      n = n + 1
      local first = not found or e.last < held[found].last
      if first or e.last == held[found].last and kind < found then found = kind end
    end
    return found, n
  end

  local function note(c, notes)
    local held, gone, flooded = read_kept()
    if flooded then redis.call('DEL', KINDS) end
    local is_new = next(held) == nil
    for kind, e in pairs(held) do
      if now - e.last >= KEPT_MS then gone[#gone + 1] = kind end
    end
    for _, kind in ipairs(gone) do held[kind] = nil end
    for _, n in ipairs(notes) do
      local e = held[n[1]] or { count = 0, last = 0, minute = 0, before = 0, detail = '' }
      local minute, before = minutes(e)
      held[n[1]] = {
        count = math.min(LARGEST, e.count + n[2]), last = now, minute = math.min(LARGEST, minute + n[2]), before = before,
        detail = n[3] ~= '' and n[3] or e.detail,
      }
    end
    local first, n = oldest(held)
    while n > MOST_KINDS do
      gone[#gone + 1], held[first] = first, nil
      first, n = oldest(held)
    end
    if #gone > 0 then redis.call('HDEL', KINDS, unpack(gone)) end
    for _, noted in ipairs(notes) do
      local kind, e = noted[1], held[noted[1]]
      if e then
        local numbers_kept = string.format('count=%d last=%d minute=%d before=%d', e.count, e.last, e.minute, e.before)
        redis.call('HSET', KINDS, kind, e.detail == '' and numbers_kept or numbers_kept .. ' ' .. e.detail)
      end
    end
    -- If all fields were removed, the key and its TTL went with them.
    if is_new or #gone > 0 then keep(c, KINDS) end
  end

  -- Returns the most frequent recent kind, and its share: "timeout 12 of 20"; "" without recent failures.
  local function leading()
    local most, all, found = 0, 0, ''
    for kind, e in pairs((read_kept())) do
      local minute, before = minutes(e)
      local recent = minute + before
      all = all + recent
      if recent > most or recent == most and recent > 0 and kind < found then most, found = recent, kind end
    end
    return most > 0 and string.format('%s %d of %d', found, most, all) or ''
  end

  -- Returns pairs of a kind and its stored text.
  local function seen()
    return is_flooded(KINDS, 64) and {} or redis.call('HGETALL', KINDS)
  end

  return { check = check, note = note, leading = leading, seen = seen }
end

