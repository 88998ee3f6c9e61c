-- latency: how long calls took: counts by bucket, in slices of time that expire one by one.
--
-- Owns which slices are in the window, and the form of latencies in a report; knows no states:
-- transitions do not change latencies. A hash: slice start (Unix ms) -> "bucket:count bucket:count
-- ...", buckets ascending, as in "16:5 17:12". A time window has as many slices as buckets, a count
-- window 10 slices of 6 s. Only Rust knows which latency a bucket stands for. A foreign slice that
-- cannot be read counts as empty. Created only when there are latencies. Twin: `model::slices`.

local function latency()
  local BUCKETS = 368
  local LONGEST_SLICE = 8192 -- more than all buckets with their largest counts
  local MOST_SLICES = 1000

  -- Comparing any other type with a number raises a Lua error, which has the same meaning.
  local function are_pairs(values)
    local before = -1
    for i = 1, #values, 2 do
      local bucket, count = values[i], values[i + 1]
      if bucket <= before or bucket >= BUCKETS or bucket % 1 ~= 0 then return false end
      if count < 1 or count > MOST_CALLS or count % 1 ~= 0 then return false end
      before = bucket
    end
    return true
  end

  local function check(values)
    local compared, fine = pcall(are_pairs, values)
    if not compared or not fine then
      refuse('EREQUEST', string.format('latencies must be pairs of a bucket, ascending from 0 to %d, and a count from 1 to %d',
        BUCKETS - 1, MOST_CALLS))
    end
  end

  -- Returns the slice width in ms and the number of slices.
  local function slices()
    if policy[WINDOW_CALLS] > 0 then return 6000, 10 end
    return grid()
  end

  local function is_in_window(start, width, n)
    start = string.match(start, '^%d+$')
    return start and math.abs(math.floor(tonumber(start) / width) - math.floor(now / width)) < n
  end

  -- Returns a slice with pairs added. Pairs between them are copied unchanged.
  local function merged(slice, values)
    slice = slice == '' and '' or slice .. ' '
    local parts, copied, at, i, before = {}, 1, 1, 1, -1
    for from, bucket, count, to in string.gmatch(slice, '()(%d+):(%d+) ()') do
      bucket, count = bucket + 0, count + 0 -- faster than `tonumber`
      if from ~= at or bucket <= before or bucket >= BUCKETS or count < 1 or count > LARGEST then break end
      if values[i] and values[i] <= bucket then
        parts[#parts + 1] = string.sub(slice, copied, from - 1)
        copied = from
        while values[i] and values[i] < bucket do
          parts[#parts + 1] = string.format('%d:%d ', values[i], values[i + 1])
          i = i + 2
        end
        if values[i] == bucket then
          parts[#parts + 1] = string.format('%d:%d ', bucket, math.min(LARGEST, count + values[i + 1]))
          copied, i = to, i + 2
        end
      end
      at, before = to, bucket
    end
    if at ~= #slice + 1 then return merged('', values) end
    parts[#parts + 1] = string.sub(slice, copied)
    for rest = i, #values, 2 do parts[#parts + 1] = string.format('%d:%d ', values[rest], values[rest + 1]) end
    return string.sub(table.concat(parts), 1, -2)
  end

  -- Adds pairs to the current slice. When a slice begins, those that have left the window are
  -- removed, and also those as far in the future: they are from before the clock was set back.
  local function add(c, values)
    local width, n = slices()
    local start = string.format('%d', math.floor(now / width) * width)
    local slice = redis.call('HGET', LATENCY, start) or ''
    slice = merged(#slice <= LONGEST_SLICE and slice or '', values)
    if redis.call('HSET', LATENCY, start, slice) == 0 then return end
    if is_flooded(LATENCY, 5000) then
      redis.call('DEL', LATENCY)
      redis.call('HSET', LATENCY, start, slice)
    end
    keep(c, LATENCY)
    local held = redis.call('HGETALL', LATENCY)
    for i = 1, #held, 2 do
      if not is_in_window(held[i], width, n) or #held[i + 1] > LONGEST_SLICE then redis.call('HDEL', LATENCY, held[i]) end
    end
  end

  -- Returns the slices of the window as stored: Rust adds them up at less cost.
  local function seen()
    local width, n = slices()
    local found, held = {}, is_flooded(LATENCY, 5000) and {} or redis.call('HGETALL', LATENCY)
    for i = 1, #held, 2 do
      if #held[i + 1] <= LONGEST_SLICE and #found < MOST_SLICES and is_in_window(held[i], width, n) then
        found[#found + 1] = held[i + 1]
      end
    end
    return found
  end

  return { check = check, add = add, seen = seen }
end
