-- The record, and the time at which it was read.
return standing(DONE)
