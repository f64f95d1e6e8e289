-- absent -> finished or in doubt, just as the record stood in another store.
-- Who: what precedes the identity. Terms: nothing.
local function step(at, head, _, rest)
  if not look(at, rest) then
    return CORRUPT
  end
  if state ~= ABSENT then
    local same = sub(stored, 11, 34) == sub(head, 11, 34)
    return standing(same and ALREADY or REFUSED)
  end
  local expires_at = unpack_('>I8', head, 91)
  if now >= expires_at then
    return {REMOVED, false}
  end
  write(head .. rest, unpack_('>I8', head, 11), expires_at)
  wake()
  return {DONE, head}
end
