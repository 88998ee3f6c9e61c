-- history: a circuit's past: one hour in fine slices, the two weeks before it in slices of 10 min.
--
-- Owns the key `history`; knows no states. A hash. Fields 0 (the newest) to 6 are blocks of 10 min:
-- "start width first last entries". `first` and `last` are the totals when the block and its newest
-- slice began. Each slice that has ended is an entry: "250/3,249,,251," are four, the third without
-- calls. A block that is more than an hour old becomes one entry of the field `weeks`: "start end
-- entries". Numbers are successes/failures/slow/ignored/rejected/abandoned; entries omit trailing
-- zeros. A block in any other form is foreign and is discarded. Beginning a slice costs the same
-- few commands however much history there is, and beginning a block costs as many again. Loaded
-- when a slice begins, and in a block that became coarse also by reports that find that its slice
-- has not ended. Twin: `model::history`.

local function history()
  local BLOCK_MS, BLOCKS = 600000, 6 -- the number kept besides the newest block
  local WEEKS = 2016 -- slices of 10 min
  local FINE_MS, COARSE_MS = 1000, 10000 -- the widths of slices in blocks
  local LONGEST_BLOCK, LONGEST_WEEKS = 4800, 28000 -- of the entries, bytes
  local MOST_AHEAD_MS = 60000 -- a newest slice further ahead than this clears the history
  local MOST = 999999999999 -- the largest number in an entry

  local function totals(text)
    local found = { string.match(text or '', '^(%d+)/(%d+)/(%d+)/(%d+)/(%d+)/(%d+)$') }
    for i = 1, #found do
      found[i] = tonumber(found[i])
      if found[i] > LARGEST then return nil end
    end
    return #found == 6 and found or nil
  end

  local function entry(counts)
    local digits, length = {}, 0
    for i = 1, 6 do
      local n = math.min(MOST, math.max(0, counts[i]))
      digits[i] = string.format('%d', n)
      if n > 0 then length = i end
    end
    return table.concat(digits, '/', 1, length) .. ','
  end

  local function between(before, after)
    local counts = {}
    for i = 1, 6 do counts[i] = after[i] - before[i] end
    return entry(counts)
  end

  local function is_start(time)
    return time and time <= LARGEST and time % BLOCK_MS == 0
  end

  local function parse_block(text)
    -- Only readers parse the entries: here that would cost more than everything else.
    local start, width, first, last, at = string.match(text or '', '^(%d+) (%d+) ([%d/]+) ([%d/]+) ()')
    start, width, first, last = tonumber(start), tonumber(width), totals(first), totals(last)
    if not is_start(start) or width ~= FINE_MS and width ~= COARSE_MS or not first or not last or #text > 2 * LONGEST_BLOCK then
      return nil
    end
    return { start = start, width = width, first = first, last = last, entries = string.sub(text, at) }
  end

  local function write_block(b)
    return string.format('%d %d %d/%d/%d/%d/%d/%d %d/%d/%d/%d/%d/%d ', b.start, b.width, b.first[1], b.first[2], b.first[3],
      b.first[4], b.first[5], b.first[6], b.last[1], b.last[2], b.last[3], b.last[4], b.last[5], b.last[6]) .. b.entries
  end

  -- Merges every ten slices into one. The remaining ones (fewer than ten) become part of the newest
  -- slice again, whose start is returned.
  local function coarsen(b)
    local groups, sums, n, last = {}, { 0, 0, 0, 0, 0, 0 }, 0, { unpack(b.first) }
    for text in string.gmatch(b.entries, '([^,]*),') do
      local counts = { string.match(text, '^(%d*)/?(%d*)/?(%d*)/?(%d*)/?(%d*)/?(%d*)$') }
      for i = 1, 6 do sums[i] = sums[i] + math.min(MOST, tonumber(counts[i]) or 0) end
      n = n + 1
      if n % (COARSE_MS / FINE_MS) == 0 then
        groups[#groups + 1] = entry(sums)
        for i = 1, 6 do last[i] = math.min(LARGEST, last[i] + sums[i]) end
        sums = { 0, 0, 0, 0, 0, 0 }
      end
    end
    b.width, b.last, b.entries = COARSE_MS, last, table.concat(groups)
    return b.start + #groups * COARSE_MS
  end

  -- Adds blocks, oldest first, to the weeks. Removes the oldest slices if there are more than two
  -- weeks or too many bytes.
  local function fold(blocks)
    local held = redis.call('HGET', HISTORY, 'weeks') or ''
    local from, till, at = string.match(held, '^(%d+) (%d+) ()')
    local entries = string.sub(held, at or 1)
    from, till = tonumber(from), tonumber(till)
    local is_ours = is_start(from) and is_start(till) and till <= now and till - from <= WEEKS * BLOCK_MS
      and #entries <= 2 * LONGEST_WEEKS
    if not is_ours then till = nil end
    for _, b in ipairs(blocks) do
      if not till or b.start - till > WEEKS * BLOCK_MS then from, till, entries = b.start, b.start, '' end
      if b.start >= till then
        entries = entries .. string.rep(',', (b.start - till) / BLOCK_MS) .. between(b.first, b.last)
        till = b.start + BLOCK_MS
      end
    end
    local cut = 0
    while till - from > WEEKS * BLOCK_MS or #entries - cut > LONGEST_WEEKS do
      cut, from = string.find(entries, ',', cut + 1, true) or #entries, from + BLOCK_MS
    end
    redis.call('HSET', HISTORY, 'weeks', string.format('%d %d ', from, till) .. string.sub(entries, cut + 1))
  end

  -- Moves every block back by one, for a block that begins.
  local function move_on(ended, start)
    local held = redis.call('HMGET', HISTORY, '0', '1', '2', '3', '4', '5', '6')
    held[1] = write_block(ended)
    local kept, old = {}, {}
    for _, text in ipairs(held) do
      local b = parse_block(text or '')
      if b and b.start < start and b.start >= start - BLOCKS * BLOCK_MS and #kept < 2 * BLOCKS then
        kept[#kept + 1] = string.format('%d', #kept / 2 + 1)
        kept[#kept + 1] = text
      elseif b and b.start < start then
        table.insert(old, 1, b)
      end
    end
    redis.call('HDEL', HISTORY, '1', '2', '3', '4', '5', '6')
    if #kept > 0 then redis.call('HSET', HISTORY, unpack(kept)) end
    if #old > 0 then fold(old) end
  end

  -- Begins a slice. A new block gets slices of `width`. If the last slice lies far ahead, the clock
  -- was set back, and the history is cleared.
  local function begin(c, width)
    local is_back = now < c.history_at_ms
    if is_back and c.history_at_ms - now <= MOST_AHEAD_MS then return end
    local held = redis.pcall('HGET', HISTORY, '0')
    if is_back or type(held) == 'table' then
      redis.call('DEL', HISTORY)
      held = ''
    end
    local total = { c.successes_total, c.failures_total, c.slow_total, c.ignored_total, c.rejected_total, c.abandoned_total }
    local start, b = now - now % BLOCK_MS, parse_block(held or '')
    if b and b.start < start then
      b.entries, b.last = b.entries .. between(b.last, total), total
      move_on(b, start)
    end
    local slice
    if b and b.start == start then
      slice = now - now % b.width
      local n = math.floor((slice - math.max(start, c.history_at_ms)) / b.width)
      if n < 1 then return end
      b.entries, b.last = b.entries .. between(b.last, total) .. string.rep(',', n - 1), total
    else
      slice = now - now % width
      b = { start = start, width = width, first = total, last = total, entries = string.rep(',', (slice - start) / width) }
    end
    if b.width == FINE_MS and #b.entries > LONGEST_BLOCK then slice = coarsen(b) end
    set(c, 'history_at_ms', slice)
    if redis.call('HSET', HISTORY, '0', write_block(b)) == 1 then keep(c, HISTORY) end
  end

  return { begin = begin }
end
