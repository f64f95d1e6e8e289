-- in flight | in doubt -> completed | failed. The late completion of a claim that still holds the token ends a doubt.
-- Who: the guard. Terms: the new state, whether the body is kept (a byte each), the code, the retention.

-- What completions on the same terms have in common: what stands before and after what is kept of the claim's head.
local ended = {}

local function finish(terms)
  local new_state, kept, code, retention = unpack_('>BBI2I8', terms)
  local common = {
    front = pack('>BBBBI2', 1, new_state, 0, kept, code),
    times = pack('>I8I8', now, now + retention),
    until_us = now + retention,
  }
  ended[terms] = common
  return common
end

local function step(at, guard, terms, rest)
  if not look(at, rest) then
    return CORRUPT
  end
  if not held(guard) then
    return standing(REFUSED)
  end
  if state >= COMPLETED then
    return standing(ALREADY)
  end
  local common = ended[terms] or finish(terms)
  local head = common.front .. sub(stored, 7, 82) .. common.times
  write(head .. rest, token, common.until_us)
  wake()
  return {DONE, head}
end
