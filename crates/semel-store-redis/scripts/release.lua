-- The record becomes absent, when it is in one of the states that are named. Its token stays for a while.
-- ARGV[2]: the guard, whether from in flight, from in doubt, from finished (a byte each).
local allowed = held() and string.byte(ARGV[2], 24 + math.min(state, COMPLETED)) == 1
if not allowed then
  return standing(REFUSED)
end
local head = struct.pack('>BB', 1, ABSENT) .. string.sub(stored, 3, 82) .. struct.pack('>I8I8', 0, 0)
write(head .. string.sub(ARGV[3], 1, identity_end - 98), now)
wake()
return {REMOVED, now, false}
