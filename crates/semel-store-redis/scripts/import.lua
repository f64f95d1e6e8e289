-- absent -> finished or in doubt, just as the record stood in another store.
-- ARGV[2]: what precedes the identity.
if state ~= ABSENT then
  local same = string.sub(stored, 11, 34) == string.sub(ARGV[2], 11, 34)
  return standing(same and ALREADY or REFUSED)
end
local expires_at = struct.unpack('>I8', ARGV[2], 91)
if now >= expires_at then
  return {REMOVED, now, false}
end
write(ARGV[2] .. ARGV[3], expires_at)
wake()
return {DONE, now, ARGV[2]}
