-- in flight | in doubt -> completed | failed. The late completion of a claim that still holds the token ends a doubt.
-- ARGV[2]: the guard, the new state, whether the body is kept (a byte each), the code, the retention.
if not held() then
  return standing(REFUSED)
end
if state >= COMPLETED then
  return standing(ALREADY)
end
local ended, kept, code, retention = struct.unpack('>BBI2I8', ARGV[2], 25)
local head = struct.pack('>BBBBI2', 1, ended, 0, kept, code)
  .. string.sub(stored, 7, 82)
  .. struct.pack('>I8I8', now, now + retention)
write(head .. ARGV[3], now + retention)
wake()
return {DONE, now, head}
