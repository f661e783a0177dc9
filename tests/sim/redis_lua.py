"""Runs the router's own Lua scripts over the model: the very text that goes to a server.

Lua 5.1, as in Redis and Valkey. Values are converted by the rules of the Redis documentation ("Lua API", conversion
tables): a nil or false in a reply is null, numbers are cut to integers, `{err=...}` and `{ok=...}` are replies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from lupa import lua51

from tests.sim.redis_words import Error, Status

ARGUMENTS = 200  # of a call of a Lua function, well below what the interpreter takes
_PRELUDE = b"""
local ask, decode, null = ...
cjson = {decode = decode, null = null}
redis = {}
redis.pcall = ask
redis.call = function(...)
    local reply = ask(...)
    if type(reply) == 'table' and reply.err then error(reply, 0) end
    return reply
end
return function(text)
    local script, trouble = loadstring(text, '@user_script')
    if not script then error(trouble, 0) end
    return function()
        local fine, found = pcall(script)
        if fine then return found end
        if type(found) == 'table' then return found end
        return {err = 'ERR ' .. tostring(found)}
    end
end
"""


class Scripts:
    """One interpreter, used again and again: scripts keep nothing in it. `ask` runs one command."""

    def __init__(self) -> None:
        self._lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=False)
        self._globals = self._lua.globals()
        self._table = self._lua.table_from
        self._pack = self._lua.eval(b"function(...) return {...} end")
        self._false = False
        self._ask: Callable[[list[bytes]], Any] = _nobody
        self._null = self._table({})
        self._compile = self._lua.execute(_PRELUDE, self._command, self._decode, self._null)
        self._compiled: dict[bytes, Any] = {}

    def run(
        self, text: bytes, keys: Sequence[bytes], args: Sequence[bytes], ask: Callable[[list[bytes]], Any]
    ) -> Any:
        """The script's reply. Raises Error for an error reply."""
        script = self._compiled.get(text)
        if script is None:
            script = self._compiled[text] = self._compile(text)
        self._globals[b"KEYS"], self._globals[b"ARGV"] = self._list(keys), self._list(args)
        self._ask = ask
        reply = self._from_lua(script())
        if isinstance(reply, Error):
            raise reply
        return reply

    def _command(self, *words: Any) -> Any:
        try:
            return self._to_lua(self._ask([word if type(word) is bytes else _word(word) for word in words]))
        except Error as error:
            return self._table({b"err": error.text})

    def _list(self, items: Sequence[Any]) -> Any:
        """Short ones by a call, which takes a third of the time."""
        return self._pack(*items) if len(items) <= ARGUMENTS else self._table(items)

    def _decode(self, text: bytes) -> Any:
        """As far as scripts look into a document: at its texts, by name."""
        return self._document(json.loads(text))

    def _document(self, value: Any) -> Any:
        match value:
            case None:
                return self._null
            case str():
                return value.encode()
            case list():
                return self._table([self._document(one) for one in value])
            case dict():
                return self._table({name.encode(): self._document(one) for name, one in value.items()})
            case _:
                return value

    def _to_lua(self, reply: Any) -> Any:
        kind = type(reply)
        if kind is bytes or kind is int:
            return reply
        if kind is list:
            to_lua = self._to_lua
            return self._list([one if type(one) is bytes else to_lua(one) for one in reply])
        if kind is Status:
            return self._table({b"ok": bytes(reply)})
        return False  # a null

    def _from_lua(self, value: Any) -> Any:
        kind = type(value)
        if kind is bytes or kind is int:
            return value
        if kind is float:
            return int(value)
        if kind is bool or value is None:
            return 1 if value else None
        # An array ends at its first nil.
        items: list[Any] = list(value.values()) if (size := len(value)) else []
        if size:
            if len(items) != size:
                items = [value[at] for at in range(1, size + 1)]
            from_lua = self._from_lua
            return [one if type(one) is bytes else from_lua(one) for one in items]
        if (trouble := value[b"err"]) is not None:
            return Error(trouble.decode())
        if (status := value[b"ok"]) is not None:
            return Status(status)
        return []


def _word(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    if type(value) is int:
        return b"%d" % value
    return b"%.17g" % value


def _nobody(_words: list[bytes]) -> Any:
    raise AssertionError("a command outside a script")
