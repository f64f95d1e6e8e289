-- Moves the lease of a live claim on, never past its longest execution.
-- ARGV[2]: the guard, the lease.
if not held() or state ~= IN_FLIGHT then
  return standing(REFUSED)
end
local doubt_retention, _, execute_until = struct.unpack('>I8I8I8', stored, 75)
local lease_until = math.min(now + struct.unpack('>I8', ARGV[2], 25), execute_until)
local head = string.sub(stored, 1, 82) .. struct.pack('>I8I8', lease_until, execute_until)
write(head .. ARGV[3], lease_until + doubt_retention)
return {DONE, now, head}
