-- What every script begins with: names, and the time. The layout of a record is told in codec.rs; the transitions are
-- those of semel's record.rs, and the conformance suite compares the two.
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
