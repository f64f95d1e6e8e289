-- in flight -> in doubt, said by the holder of the claim.
-- Who: the guard. Terms: the cause (a byte).
local function step(at, guard, cause, rest)
  if not look(at, rest) then
    return CORRUPT
  end
  if not held(guard) or state >= COMPLETED then
    return standing(REFUSED)
  end
  if state == IN_DOUBT then
    return standing(ALREADY)
  end
  local expires_at = now + unpack_('>I8', stored, 75)
  local head = pack('>BBBBI2', 1, IN_DOUBT, byte(cause), 0, 0)
    .. sub(stored, 7, 82)
    .. pack('>I8I8', now, expires_at)
  write(head .. rest, token, expires_at)
  wake()
  return {DONE, head}
end
