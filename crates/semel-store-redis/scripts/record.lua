-- What every script begins with: the time, and where the record stands at it. The layout is told in codec.rs; the
-- transitions are those of semel's record.rs, and the conformance suite compares the two.
-- KEYS[1] the record; ARGV[1] the time in microseconds, for tests, or empty; ARGV[2] what the step needs;
-- ARGV[3] the record's identity, and what follows it.
local ABSENT, IN_FLIGHT, IN_DOUBT, COMPLETED = 0, 1, 2, 3
local DONE, ALREADY, REFUSED, REMOVED = 1, 2, 3, 4
-- For so long the token of a record that is absent stays, so that it does not repeat when the clock goes back.
local HOLD_US = 600 * 1000000
-- At most so far ahead of the clock is a token believed that came from another store.
local AHEAD_US = 86400 * 1000000

local now
if ARGV[1] == '' then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

local identity_end = 98 + struct.unpack('>I4', ARGV[3], 1)
local stored = redis.call('GETRANGE', KEYS[1], 0, identity_end - 1)
local state = ABSENT
if stored ~= '' then
  if string.byte(stored, 1) ~= 1 or string.sub(stored, 99) ~= string.sub(ARGV[3], 1, identity_end - 98) then
    return redis.error_reply('SEMELCORRUPT the key holds something else than this record')
  end
  state = string.byte(stored, 2)
  local doubt_retention, first, second = struct.unpack('>I8I8I8', stored, 75)
  if state == IN_FLIGHT then
    local lapse = math.min(first, second)
    if now >= lapse then
      state, second = IN_DOUBT, lapse + doubt_retention
    end
  end
  if state ~= IN_FLIGHT and now >= second then
    state = ABSENT
  end
end

-- The guard of the record: its token and attempt.
local function held()
  return state ~= ABSENT and string.sub(stored, 11, 34) == string.sub(ARGV[2], 1, 24)
end

local function standing(verdict)
  if state == ABSENT then
    return {verdict, now, false}
  end
  if verdict == ALREADY and REPLICATED then
    -- So that waiting for replicas means this record, also for a connection that has written nothing.
    redis.call('PEXPIRE', KEYS[1], redis.call('PTTL', KEYS[1]))
  end
  return {verdict, now, redis.call('GET', KEYS[1])}
end

-- Redis's own expiry is only to get rid of what is absent anyway.
local function write(value, until_us)
  local ahead_us = math.min(math.max(struct.unpack('>I8', value, 11) - now, 0), AHEAD_US)
  local keep_ms = math.ceil(math.max(until_us - now, ahead_us + HOLD_US) / 1000)
  redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', keep_ms))
end

-- Failing to wake is no failure of the step: who waits also polls.
local function wake()
  local watchers = redis.pcall('PUBSUB', NUMSUB, KEYS[1])
  if watchers[2] and watchers[2] > 0 then
    redis.pcall(PUBLISH, KEYS[1], '')
  end
end
