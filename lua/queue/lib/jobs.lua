-- jobs: the common start of every queue script: keys, request, server time, and a job's moves
-- between its places.
--
-- Owns the records, and that a job is in one place at a time; knows nothing of circuits.
-- Invariants: `ready` has one entry for each job that is ready or running, and each running job has
-- a lease; a running job has the token of its run.
-- Every script takes the same ten KEYS, all of one queue and so of one slot:
--
-- KEYS[1]  ready     stream  group `workers`; one entry per ready or running job: job = its ID
-- KEYS[2]  jobs      hash    ID -> JSON: state, attempts, key, times (Unix ms), error, worker,
--                            token, its entry in `ready`
-- KEYS[3]  payloads  hash    ID -> payload, MessagePack
-- KEYS[4]  delayed   zset    member = ID, score = when it is due (Unix ms)
-- KEYS[5]  leases    zset    member = ID of a running job, score = lease deadline (Unix ms)
-- KEYS[6]  dead      zset    member = ID, score = since when (Unix ms)
-- KEYS[7]  expiring  zset    member = ID, score = when it expires (Unix ms); no dead letters
-- KEYS[8]  names     hash    "key:" + idempotency key, or "id:" + ID -> ID
-- KEYS[9]  kept      zset    member = field of `names` whose job is done, score = until when the
--                            field is kept (Unix ms)
-- KEYS[10] counts    hash    enqueued, done, retried, died, expired, discarded
--
-- ARGV[1] is one MessagePack array. `enqueue` takes the payload as a second argument, because
-- Redis' MessagePack has no type for bytes.
-- Errors: EARITY (counts above do not match), EREQUEST (a part has the wrong type or range).

local READY, JOBS, PAYLOADS, DELAYED, LEASES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local DEAD, EXPIRING, NAMES, KEPT, COUNTS = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]

-- The group and its one consumer. The job's record says which worker runs it.
local GROUP = 'workers'
-- How many jobs one script moves at most besides its main task.
local AT_ONCE = 100
local CENTURY_MS = 3153600000000

local function refuse(code, what)
  error({ err = code .. ' ' .. what })
end

if #KEYS ~= 10 then refuse('EARITY', 'expected 10 keys, got ' .. #KEYS) end
if #ARGV < 1 or #ARGV > 2 then refuse('EARITY', 'expected 1 or 2 arguments, got ' .. #ARGV) end
local decoded, request = pcall(cmsgpack.unpack, ARGV[1])
if not decoded or type(request) ~= 'table' then refuse('EREQUEST', 'the request must be an array') end

local function whole(place, what)
  local n = request[place]
  if type(n) ~= 'number' or n < 0 or n > CENTURY_MS or n % 1 ~= 0 then
    refuse('EREQUEST', what .. ' must be a whole number from 0 to ' .. string.format('%d', CENTURY_MS))
  end
  return n
end

local function text(place, what)
  local value = request[place]
  if type(value) ~= 'string' then refuse('EREQUEST', what .. ' must be a string') end
  return value
end

local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function ms(n)
  return string.format('%d', n)
end

local function count(field)
  redis.call('HINCRBY', COUNTS, field, 1)
end

-- Returns the record of a job; nil when it does not exist or was overwritten.
local function load(id)
  local stored = redis.call('HGET', JOBS, id)
  local fine, job = pcall(cjson.decode, stored or '')
  if not fine or type(job) ~= 'table' or type(job.attempts) ~= 'number' then return nil end
  return job
end

local function save(id, job)
  redis.call('HSET', JOBS, id, cjson.encode(job))
end

local function name_of(id, job)
  return job.key ~= '' and 'key:' .. job.key or 'id:' .. id
end

-- Removes a job from its place.
local function leave(id, job)
  if job.state == 'delayed' then
    redis.call('ZREM', DELAYED, id)
  elseif job.state == 'dead' then
    redis.call('ZREM', DEAD, id)
  else
    if job.state == 'running' then
      redis.call('XACK', READY, GROUP, job.entry)
      redis.call('ZREM', LEASES, id)
    end
    redis.call('XDEL', READY, job.entry)
  end
  job.entry, job.worker, job.token = '', '', ''
end

local function make_ready(id, job)
  job.state, job.at_ms = 'ready', now
  job.entry = redis.call('XADD', READY, '*', 'job', id)
  save(id, job)
end

local function delay(id, job, for_ms)
  if for_ms == 0 then return make_ready(id, job) end
  job.state, job.at_ms = 'delayed', now + for_ms
  redis.call('ZADD', DELAYED, ms(job.at_ms), id)
  save(id, job)
end

-- Deletes a job that is no longer in any place.
local function forget(id)
  redis.call('HDEL', JOBS, id)
  redis.call('HDEL', PAYLOADS, id)
  redis.call('ZREM', EXPIRING, id)
end

-- Makes a dead letter of a job that is no longer in any place. If there are too many, the oldest
-- are discarded.
local function bury(id, job, reason, words, most_dead)
  job.state, job.at_ms, job.reason, job.error = 'dead', now, reason, words
  redis.call('ZREM', EXPIRING, id)
  redis.call('HDEL', NAMES, name_of(id, job))
  redis.call('ZADD', DEAD, ms(now), id)
  save(id, job)
  count(reason == 'expired' and 'expired' or 'died')
  local surplus = redis.call('ZCARD', DEAD) - most_dead
  if surplus > 0 then
    for _, oldest in ipairs(redis.call('ZRANGE', DEAD, 0, math.min(surplus, AT_ONCE) - 1)) do
      redis.call('ZREM', DEAD, oldest)
      forget(oldest)
      count('discarded')
    end
  end
end

-- Buries the jobs that have expired. A running job may still succeed, so it is left alone.
local function expire(most_dead)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', EXPIRING, '-inf', ms(now), 'LIMIT', 0, AT_ONCE)) do
    local job = load(id)
    redis.call('ZREM', EXPIRING, id)
    if job and job.state ~= 'running' then
      leave(id, job)
      bury(id, job, 'expired', job.error, most_dead)
    end
  end
end
