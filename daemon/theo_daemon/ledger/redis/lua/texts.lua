-- A large text that a verdict named. ARGV: 1 kind   2 name   3 bytes of a piece. Returns its pieces, none where it is not
-- there any more. What stands before the text (see memory.lua) is in the first one, too.
refuse_while_moving()
local key, step, pieces = L .. ':' .. ARGV[1] .. ':' .. ARGV[2], tonumber(ARGV[3]), {}
repeat
    local piece = redis.call('GETRANGE', key, #pieces * step, (#pieces + 1) * step - 1)
    if piece ~= '' then pieces[#pieces + 1] = piece end
until #piece < step
return pieces
