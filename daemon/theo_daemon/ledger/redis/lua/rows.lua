-- Rows as Redis has them, and as this batch leaves them. Everything is decided on these; what changed is written at
-- the very end, so that a batch which cannot be decided leaves no trace.
local CHUNK = 1000 -- Lua hands at most 8,000 values to one command

local function in_chunks(list, act)
    for first = 1, #list, CHUNK do
        act(first, math.min(first + CHUNK - 1, #list))
    end
end

-- `command` for all words of a list; those of a pair stay together.
local function with_all(command, key, words)
    in_chunks(words, function(first, last)
        redis.call(command, key, unpack(words, first, last))
    end)
end

local function delete_all(keys)
    in_chunks(keys, function(first, last)
        redis.call('DEL', unpack(keys, first, last))
    end)
end

-- Rows of one kind: the fields of a `hash`, or strings whose names begin with `prefix`. `parse` makes a row of what
-- is read, false where there is nothing. (Tables and shared functions: a closure for each would cost every batch.)
local shelves = {}

local function shelf(kind)
    kind.rows, kind.changed = {}, {}
    shelves[#shelves + 1] = kind
    return kind
end

-- It will be needed: all that is expected is read in one go with the first look.
local function expect(kind, name)
    if kind.rows[name] == nil then
        kind.rows[name] = false
        local expected = kind.expected
        if expected then
            expected[#expected + 1] = name
        else
            kind.expected = { name }
        end
    end
end

local function unpacked_or_empty(text)
    return text and cmsgpack.unpack(text) or {}
end

local function read(kind, names, first, last)
    if kind.hash then return redis.call('HMGET', kind.hash, unpack(names, first, last)) end
    local keys = {}
    for i = first, last do
        keys[#keys + 1] = kind.prefix .. names[i]
    end
    return redis.call('MGET', unpack(keys))
end

local function fetch(kind)
    local names, rows, parse = kind.expected, kind.rows, kind.parse
    kind.expected = nil
    in_chunks(names, function(first, last)
        local values = read(kind, names, first, last)
        for i = first, last do
            local name, value = names[i], values[i - first + 1]
            if parse then value = parse(value) end
            if not (kind.marked and kind.marked[name]) then rows[name] = value end
        end
    end)
end

local function get(kind, name)
    local row = kind.rows[name]
    if row == nil or kind.expected then
        expect(kind, name)
        fetch(kind)
        row = kind.rows[name]
    end
    return row
end

-- From now on it is this; false: it is gone.
local function put(kind, name, row)
    kind.rows[name] = row
    local marked = kind.marked
    if not marked then
        marked = {}
        kind.marked = marked
    end
    if not marked[name] then
        marked[name] = true
        kind.changed[#kind.changed + 1] = name
    end
end

-- Write the changed rows of a hash; `text` makes a value of a row.
local function flush_hash(kind, text)
    local set, gone, rows = {}, {}, kind.rows
    for _, name in ipairs(kind.changed) do
        local row = rows[name]
        if row then
            set[#set + 1] = name
            set[#set + 1] = text and text(row) or row
        else
            gone[#gone + 1] = name
        end
    end
    with_all('HSET', kind.hash, set)
    with_all('HDEL', kind.hash, gone)
end
