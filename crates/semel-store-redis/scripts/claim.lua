-- absent -> in flight; in doubt -> in flight where that is allowed. Anything else stands.
-- Who: attempt, target, payload (16 bytes each). Terms: whether it may take over, whether the payload must be the same
-- (a byte each), lease, longest execution, doubt retention.

-- What claims on the same terms have in common: times, until when they are kept; head and expiry of those that find
-- nothing.
local begun = {}

local function begin(terms)
  local _, _, lease, longest, doubt_retention = unpack_('>BBI8I8I8', terms)
  local execute_until = now + longest
  local lease_until = math.min(now + lease, execute_until)
  local common = {
    times = pack('>I8I8I8I8', now, doubt_retention, lease_until, execute_until),
    until_us = lease_until + doubt_retention,
    head = pack('>BBBBI2I4I8', 1, IN_FLIGHT, 0, 0, 0, 1, now),
  }
  common.keep = keep_ms(now, common.until_us)
  begun[terms] = common
  return common
end

local function step(at, who, terms, rest)
  local common = begun[terms] or begin(terms)
  -- The server decides whether there is anything, so that a fresh claim reads nothing. One that is full refuses
  -- before it looks, and what stands is answered all the same.
  local made = redis.pcall('SET', at, common.head .. who .. common.times .. rest, 'NX', 'PX', common.keep)
  if made and made.ok then
    return DONE
  end
  if not look(at, rest) then
    return CORRUPT
  end
  local last, generation = 0, 1
  if stored ~= '' then
    last = token
  end
  if state ~= ABSENT then
    if sub(stored, 19, 34) == sub(who, 1, 16) then
      return standing(ALREADY)
    end
    local takeover, compare = byte(terms, 1, 2)
    local same = sub(stored, 35, 50) == sub(who, 17, 32)
      and (compare == 0 or sub(stored, 51, 66) == sub(who, 33, 48))
    if state ~= IN_DOUBT or takeover == 0 or not same then
      return standing(REFUSED)
    end
    generation = math.min(unpack_('>I4', stored, 7) + 1, 4294967295)
  end
  local its_token = math.max(now, last + 1)
  local head = pack('>BBBBI2I4I8', 1, IN_FLIGHT, 0, 0, 0, generation, its_token) .. who .. common.times
  write(head .. rest, its_token, common.until_us)
  if generation > 1 then
    wake()
  end
  return {DONE, head}
end
