-- The record as it stands.
local function step(at, _, _, rest)
  if not look(at, rest) then
    return CORRUPT
  end
  return standing(DONE)
end
