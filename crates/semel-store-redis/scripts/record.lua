-- What the script begins with: the time, and where a record stands at it. The layout is told in codec.rs; the
-- transitions are those of semel's record.rs, and the conformance suite compares the two.
-- KEYS: the records. ARGV[1]: the time in microseconds, for tests, or empty. Then four for each record: which step,
-- who asks, on what terms, and the record's identity with what follows it. What each step makes of them is in its own
-- file, and each.lua takes one record after the other.
local ABSENT, IN_FLIGHT, IN_DOUBT, COMPLETED = 0, 1, 2, 3
local DONE, ALREADY, REFUSED, REMOVED, CORRUPT = 1, 2, 3, 4, 5
-- For so long the token of a record that is absent stays, so that it does not repeat when the clock goes back.
local HOLD_US = 600 * 1000000
-- At most so far ahead of the clock is a token believed that came from another store.
local AHEAD_US = 86400 * 1000000

local call, pack, unpack_, sub, byte = redis.call, struct.pack, struct.unpack, string.sub, string.byte

local now
if ARGV[1] == '' then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
else
  now = tonumber(ARGV[1])
end

-- The record in hand: its key, its identity, what is stored up to the end of that, its token, and its state by now.
local key, identity, stored, token, state
-- The keys of those who wait may want to hear of.
local changed = {}
-- The steps, by name.
local steps = {}

-- Takes a record in hand. False when its key holds something else.
local function look(at, rest)
  local bytes = unpack_('>I4', rest)
  key, identity = at, sub(rest, 1, bytes)
  stored = call('GETRANGE', key, 0, 97 + bytes)
  state, token = ABSENT, 0
  if stored == '' then
    return true
  end
  if byte(stored, 1) ~= 1 or sub(stored, 99) ~= identity then
    return false
  end
  state, token = byte(stored, 2), unpack_('>I8', stored, 11)
  local doubt_retention, first, second = unpack_('>I8I8I8', stored, 75)
  if state == IN_FLIGHT then
    local lapse = math.min(first, second)
    if now >= lapse then
      state, second = IN_DOUBT, lapse + doubt_retention
    end
  end
  if state ~= IN_FLIGHT and now >= second then
    state = ABSENT
  end
  return true
end

-- The guard of the record: its token and attempt.
local function held(guard)
  return state ~= ABSENT and sub(stored, 11, 34) == guard
end

local function standing(verdict)
  if state == ABSENT then
    return {verdict, false}
  end
  if verdict == ALREADY and REPLICATED then
    -- So that waiting for replicas means this record, also for a connection that has written nothing.
    call('PEXPIRE', key, call('PTTL', key))
  end
  return {verdict, call('GET', key)}
end

-- Redis's own expiry is only to get rid of what is absent anyway.
local function keep_ms(its_token, until_us)
  local ahead_us = math.min(math.max(its_token - now, 0), AHEAD_US)
  return string.format('%.0f', math.ceil(math.max(until_us - now, ahead_us + HOLD_US) / 1000))
end

local function write(value, its_token, until_us)
  call('SET', key, value, 'PX', keep_ms(its_token, until_us))
end

local function wake()
  changed[#changed + 1] = key
end
