-- Moves the lease of a live claim on, never past its longest execution.
-- Who: the guard. Terms: the lease.
local function step(at, guard, lease, rest)
  if not look(at, rest) then
    return CORRUPT
  end
  if not held(guard) or state ~= IN_FLIGHT then
    return standing(REFUSED)
  end
  local doubt_retention, _, execute_until = unpack_('>I8I8I8', stored, 75)
  local lease_until = math.min(now + unpack_('>I8', lease), execute_until)
  local head = sub(stored, 1, 82) .. pack('>I8I8', lease_until, execute_until)
  write(head .. rest, token, lease_until + doubt_retention)
  return {DONE, head}
end
