-- absent -> in flight; in doubt -> in flight where that is allowed. Anything else stands.
-- ARGV[2]: attempt, target, payload (16 bytes each), whether it may take over, whether the payload must be the same
-- (a byte each), lease, longest execution, doubt retention.
local takeover, compare, lease, longest, doubt_retention = struct.unpack('>BBI8I8I8', ARGV[2], 49)
local last, generation = 0, 1
if stored ~= '' then
  last = struct.unpack('>I8', stored, 11)
end
if state ~= ABSENT then
  if string.sub(stored, 19, 34) == string.sub(ARGV[2], 1, 16) then
    return standing(ALREADY)
  end
  local same = string.sub(stored, 35, 50) == string.sub(ARGV[2], 17, 32)
    and (compare == 0 or string.sub(stored, 51, 66) == string.sub(ARGV[2], 33, 48))
  if state ~= IN_DOUBT or takeover == 0 or not same then
    return standing(REFUSED)
  end
  generation = math.min(struct.unpack('>I4', stored, 7) + 1, 4294967295)
end
local execute_until = now + longest
local lease_until = math.min(now + lease, execute_until)
local head = struct.pack('>BBBBI2I4I8', 1, IN_FLIGHT, 0, 0, 0, generation, math.max(now, last + 1))
  .. string.sub(ARGV[2], 1, 48)
  .. struct.pack('>I8I8I8I8', now, doubt_retention, lease_until, execute_until)
write(head .. ARGV[3], lease_until + doubt_retention)
if generation > 1 then
  wake()
end
return {DONE, now, head}
