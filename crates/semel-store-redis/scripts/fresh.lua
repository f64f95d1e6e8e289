-- The usual claim: nothing is there. Answers with the time, which is the token, and all that the caller does not know.
-- ARGV[4]: for how long the server keeps the record, in milliseconds.
local lease, longest = struct.unpack('>I8I8', ARGV[2], 51)
local stamp = struct.pack('>I8', now)
local fresh = '\1\1\0\0\0\0\0\0\0\1' .. stamp .. string.sub(ARGV[2], 1, 48) .. stamp .. string.sub(ARGV[2], 67, 74)
  .. struct.pack('>I8I8', now + math.min(lease, longest), now + longest) .. ARGV[3]
if redis.call('SET', KEYS[1], fresh, 'NX', 'PX', ARGV[4]) then
  return now
end
