-- in flight -> in doubt, said by the holder of the claim.
-- ARGV[2]: the guard, the cause (a byte).
if not held() or state >= COMPLETED then
  return standing(REFUSED)
end
if state == IN_DOUBT then
  return standing(ALREADY)
end
local expires_at = now + struct.unpack('>I8', stored, 75)
local head = struct.pack('>BBBBI2', 1, IN_DOUBT, string.byte(ARGV[2], 25), 0, 0)
  .. string.sub(stored, 7, 82)
  .. struct.pack('>I8I8', now, expires_at)
write(head .. ARGV[3], expires_at)
wake()
return {DONE, now, head}
