-- report: record what a replica has seen since its last report, settle its probes, trip or close.
-- Mode: write. Idempotent: yes (a number seen before changes nothing).
-- Twin: model::Circuit::report.
--
-- KEYS[1..12]  circuit, window, probes, replicas, seq, events, failing, alone, latency, history,
--              code, kinds (lib/prelude)
-- ARGV[1]     request  msgpack {head of 5, seq, generation, counts, late, run, retry_after_ms,
--                      trips, settled, alone_ms, latencies, kinds}
--               counts, late  {successes, failures, slow successes, slow failures, ignored,
--                             rejected, abandoned, abandoned calls that are also failures};
--                             counts belong to `generation`, late ones to older generations
--               run           {first, longest, last} runs of failures in counts, in calls
--               trips         outcomes in counts that open the circuit whatever the thresholds
--               settled       array of {token, generation, kind, retry_after_ms}; kind: 0 ignored,
--                             1 success, 2 failure, 3 trip, 4 abandoned: a failure, unless another
--                             probe of this half-open period has succeeded
--               alone_ms      how much longer the replica's local circuit is open (0 = it is not)
--               latencies     {bucket, count, bucket, count, ...} of calls of any generation,
--                             buckets ascending
--               kinds         array of {kind, count, detail}: kinds of failures of any generation
-- Returns     msgpack snapshot
-- Errors      "EARITY ..." "EREQUEST ..."

local REPORTS_PER_SECOND = 200 -- the live replicas share this budget

array(request, 16, 'request')
local seq = whole(request[6], 'seq')
local generation = whole(request[7], 'generation')
local counts = wholes(request[8], 8, MOST_CALLS, 'counts')
local late = wholes(request[9], 8, MOST_CALLS, 'late')
local run = wholes(request[10], 3, MOST_CALLS, 'run')
local retry_after_ms = whole(request[11], 'retry_after_ms')
local trips = whole(request[12], 'trips')
local settled = array(request[13], nil, 'settled')
if #settled > 10000 then refuse('EREQUEST', 'settled has at most 10000 entries') end
for i = 1, #settled do
  local s = array(settled[i], 4, 'settled')
  text(s[1], 'token')
  whole(s[2], 'generation')
  if whole(s[3], 'kind') > 4 then refuse('EREQUEST', 'kind must be from 0 to 4') end
  whole(s[4], 'retry_after_ms')
end
local alone_ms = whole(request[14], 'alone_ms')
local latencies = array(request[15], nil, 'latencies')
local measured = #latencies > 0 and latency()
if measured then measured.check(latencies) end
local notes = array(request[16], nil, 'kinds')
local failed = #notes > 0 and kinds()
if failed then failed.check(notes) end
local successes, failures, slow_successes, slow_failures = counts[1], counts[2], counts[3], counts[4]
if slow_successes > successes or slow_failures > failures then
  refuse('EREQUEST', 'more slow calls than calls')
end
local undecided = counts[7] - counts[8] -- dropped, and not among the failures
if undecided < 0 or counts[8] > failures then refuse('EREQUEST', 'more abandoned failures than abandoned calls or failures') end

-- Updates the set of replicas, and removes those that have not reported for a long time.
local function note_replicas(c)
  if redis.call('ZADD', REPLICAS, now, replica) == 1 then keep(c, REPLICAS) end
  keep_scores(REPLICAS, now)
  local gone = redis.call('ZRANGEBYSCORE', REPLICAS, '-inf', now - REPLICA_MEMORY_MS, 'LIMIT', 0, 100)
  if #gone > 0 then
    redis.call('ZREM', REPLICAS, unpack(gone))
    redis.call('HDEL', SEQ, unpack(gone))
  end
  -- A replica that reports rarely because its pace is slow is live too.
  local live_ms = math.max(REPLICA_LIVE_MS, math.floor(3 * c.replicas * 1000 / REPORTS_PER_SECOND))
  set(c, 'replicas', redis.call('ZCOUNT', REPLICAS, now - live_ms, '+inf'))
  return in_use(c).note(live_ms)
end

-- A token settles once, and only within its lease. It affects the circuit only in its own
-- generation.
local function settle(c, token, given_under, kind, wait_ms)
  local moves = transitions()
  local deadline = redis.call('ZSCORE', PROBES, token)
  if not deadline then return end
  redis.call('ZREM', PROBES, token)
  if tonumber(deadline) <= now or given_under ~= c.generation or c.state ~= 'half_open' then return end
  if kind == 1 then
    add(c, 'probe_successes', 1)
    if c.probe_successes >= policy[SUCCESS_THRESHOLD] then moves.to(c, 'closed', 'recovered', 0, replica) end
  elseif kind == 2 or kind == 3 or kind == 4 and c.probe_successes == 0 then
    add(c, 'probe_failures', 1)
    moves.honor(c, wait_ms)
    if kind == 3 or c.probe_failures >= policy[PROBE_FAILURES] then moves.open(c, 'probe_failed') end
  end
end

local c = load()

-- A number seen before changes nothing. The code below runs for each report, so it is inline:
-- functions would be created for each report.
local last, seen, mark = string.match(redis.call('HGET', SEQ, replica) or '', '^(%d+) (%d+)( ?%d*)$')
if not last or seq > tonumber(last) then
  local moment = math.floor(now / REPLICA_SEEN_MS) % 1000 -- short, because it is stored for every replica
  if tonumber(seen) ~= moment then
    local id = note_replicas(c)
    mark = id > 1 and string.format(' %d', id) or ''
  end
  if policy[HISTORY_KEPT] == 0 then
    if c.history_at_ms > 0 then
      redis.call('DEL', HISTORY)
      set(c, 'history_at_ms', 0)
    end
  else
    -- Each bucket of the window begins with a report on this full path, so short buckets make short
    -- slices exact.
    local slice_ms = policy[WINDOW_CALLS] == 0 and grid() <= 1000 and 1000 or 10000
    local is_due = now >= c.history_at_ms + slice_ms or now < c.history_at_ms
    if is_due and now >= slice_ms then history().begin(c, slice_ms) end -- 0 means no slice
  end
  if redis.call('HSET', SEQ, replica, string.format('%.0f %.0f', seq, moment) .. mark) == 1 then
    keep(c, SEQ)
  end

  c.successes_total = c.successes_total + successes + late[1]
  c.failures_total = c.failures_total + failures + late[2]
  c.slow_total = c.slow_total + slow_successes + slow_failures + late[3] + late[4]
  add(c, 'ignored_total', counts[5] + late[5])
  add(c, 'rejected_total', counts[6] + late[6])
  add(c, 'abandoned_total', counts[7] + late[7])
  if successes + late[1] > 0 then set(c, 'last_success_ms', now) end
  if failures + late[2] > 0 then set(c, 'last_failure_ms', now) end
  if measured then measured.add(c, latencies) end
  if failed then failed.note(c, notes) end

  if policy[QUORUM] > 1 then quorum().note_alone(c, alone_ms) end
  for _, s in ipairs(settled) do settle(c, s[1], s[2], s[3], s[4]) end

  if generation == c.generation and (c.state == 'closed' or c.state == 'metrics_only') then
    -- Joins the batch's runs of failures to the circuit's current run.
    local first, longest, final = run[1], run[2], run[3]
    local joined = c.consecutive_failures
    if successes == 0 then first, final = failures, joined + failures end
    set(c, 'consecutive_failures', final)
    longest = math.max(first > 0 and joined + first or 0, longest)

    record(c, successes, failures, slow_successes, slow_failures, undecided)
    if is_silent(c) then
      -- A run has no time limit: undecided calls stay in it after they have left the window.
      add(c, 'consecutive_failures', undecided)
      longest = math.max(longest, c.consecutive_failures)
    end
    if policy[QUORUM] > 1
      and (failures > 0 or policy[SLOW_MS] > 0 and slow_successes > 0 or undecided > 0 and is_silent(c))
    then
      quorum().note_failing(c)
    end
    if retry_after_ms > 0 then transitions().honor(c, retry_after_ms) end
    if c.state == 'closed' then
      local some = successes + failures + undecided > 0
      local reason = trips > 0 and 'tripped' or some and breach(c, longest)
      local by_half = some and not reason and breaches_in_half(c)
      if (reason or by_half) and (policy[QUORUM] <= 1 or quorum().agreed()) then
        if by_half then show_half(c) elseif is_silent(c) then count_undecided(c) end
        transitions().open(c, reason or 'failure_rate')
      end
    end
  end
end

c.pace_ms = math.max(policy[REPORT_MS], math.floor(c.replicas * 1000 / REPORTS_PER_SECOND))
save(c)
return cmsgpack.pack(current(c))
