"""Sizes of tool definitions and output schemas, remembered: the same ones come with job after job."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from theo_workers.tokens.parts import encode, functions_of, output_schema_of
from theo_workers.tokens.schemas import SchemaTooLargeError, inlined
from theo_workers.tokens.tokenizer import Tokens
from theo_workers.tokens.typescript import render_functions, render_response_format

_REMEMBERED = 256


class Size(Struct, frozen=True):
    """`rendered` and `json` in tokens; of the JSON with its references resolved, if that was possible."""

    rendered: int = 0
    json: int = 0
    json_bytes: int = 0
    resolved: bool = True


_NOTHING = Size()


class Definitions:
    """Not more than 256 sizes per kind are remembered."""

    def __init__(self) -> None:
        self._tools: dict[tuple[str, bytes], Size] = {}
        self._schemas: dict[tuple[str, bytes], Size] = {}
        self._lock = threading.Lock()

    def tools(self, params: Mapping[str, Any], encoding: str, tokens: Tokens) -> Size:
        """All function tools of a request together; all zero when there is none."""
        if "tools" not in params and "functions" not in params:
            return _NOTHING
        functions = functions_of(params)
        if not functions:
            return _NOTHING
        key = (encoding, encode(functions))
        size = self._tools.get(key)
        if size is None:
            size = self._remember(self._tools, key, _tools_size(functions, tokens))
        return size

    def output_schema(self, params: Mapping[str, Any], encoding: str, tokens: Tokens) -> Size:
        """The `json_schema` of `response_format`; all zero when there is none."""
        if "response_format" not in params or (schema := output_schema_of(params)) is None:
            return _NOTHING
        key = (encoding, encode(schema))
        size = self._schemas.get(key)
        if size is None:
            size = self._remember(self._schemas, key, _schema_size(schema, tokens))
        return size

    def _remember(self, sizes: dict[tuple[str, bytes], Size], key: tuple[str, bytes], size: Size) -> Size:
        with self._lock:
            if len(sizes) >= _REMEMBERED:
                del sizes[next(iter(sizes))]  # the oldest
            sizes[key] = size
        return size


def _tools_size(functions: list[dict[str, Any]], tokens: Tokens) -> Size:
    given = encode(functions)
    try:
        functions = [{key: inlined(value) for key, value in function.items()} for function in functions]
    except SchemaTooLargeError:
        return _unresolved(given, tokens)
    json = encode(functions)
    return Size(tokens(render_functions(functions)), tokens(json.decode()), max(len(json), len(given)))


def _schema_size(schema: dict[str, Any], tokens: Tokens) -> Size:
    given = encode(schema)
    try:
        schema = {key: inlined(value) for key, value in schema.items()}
    except SchemaTooLargeError:
        return _unresolved(given, tokens)
    json = encode(schema.get("schema"))
    return Size(tokens(render_response_format(schema)), tokens(json.decode()), max(len(json), len(given)))


def _unresolved(json: bytes, tokens: Tokens) -> Size:
    length = tokens(json.decode())
    return Size(length, length, len(json), resolved=False)
