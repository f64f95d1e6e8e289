-- The record becomes absent, when it is in one of the states that are named. Its token stays for a while.
-- Who: the guard. Terms: whether from in flight, from in doubt, from finished (a byte each).
local function step(at, guard, from, rest)
  if not look(at, rest) then
    return CORRUPT
  end
  local allowed = held(guard) and byte(from, math.min(state, COMPLETED)) == 1
  if not allowed then
    return standing(REFUSED)
  end
  local head = pack('>BB', 1, ABSENT) .. sub(stored, 3, 82) .. pack('>I8I8', 0, 0)
  write(head .. identity, token, now)
  wake()
  return {REMOVED, false}
end
