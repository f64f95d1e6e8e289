-- What the script ends with: a step for each record, and a word to those who wait. The answer has the time, and
-- then for each record its verdict, alone or with what is stored.
local answers = {now}
for n = 1, #KEYS do
  answers[n + 1] = steps[ARGV[4 * n - 2]](KEYS[n], ARGV[4 * n - 1], ARGV[4 * n], ARGV[4 * n + 1])
end
-- Failing to wake is no failure of the steps: who waits also polls.
if changed[1] then
  local watchers = redis.pcall('PUBSUB', NUMSUB, unpack(changed))
  for n = 2, #watchers, 2 do
    if watchers[n] > 0 then
      redis.pcall(PUBLISH, watchers[n - 1], '')
    end
  end
end
return answers
