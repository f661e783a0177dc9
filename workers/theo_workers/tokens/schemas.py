"""JSON Schemas as providers read them: references resolved, within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_NODES = 20_000  # references to references can multiply without end
_MAX_DEPTH = 64


class SchemaTooLargeError(ValueError):
    """Resolved, the schema has more than 20,000 nodes or is more than 64 deep."""


def inlined(schema: Any) -> Any:
    """The schema with each `$ref` replaced by its definition; one inside its own definition stays as it is.

    Raises SchemaTooLargeError.
    """
    if not isinstance(schema, Mapping):
        return schema
    definitions = schema.get("$defs") or schema.get("definitions")
    rest = {key: value for key, value in schema.items() if key not in ("$defs", "definitions")}
    return _Inliner(definitions if isinstance(definitions, Mapping) else {}).visit(rest, 0)


class _Inliner:
    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._inside: set[str] = set()
        self._nodes = 0

    def visit(self, node: Any, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > _MAX_NODES or depth > _MAX_DEPTH:
            raise SchemaTooLargeError
        match node:
            case {"$ref": str(reference)}:
                return self._resolve(reference, {k: v for k, v in node.items() if k != "$ref"}, depth)
            case Mapping():
                return {key: self.visit(value, depth + 1) for key, value in node.items()}
            case list():
                return [self.visit(value, depth + 1) for value in node]
        return node

    def _resolve(self, reference: str, rest: Mapping[str, Any], depth: int) -> Any:
        name = reference.rpartition("/")[2]
        target = self._definitions.get(name)
        if name in self._inside or not isinstance(target, Mapping):
            return {"$ref": reference, **rest}
        self._inside.add(name)
        resolved = self.visit({**target, **rest}, depth + 1)
        self._inside.discard(name)
        return resolved


def without(schema: Any, keys: frozenset[str]) -> Any:
    """The schema less these keywords, at every level. `schema` is inlined, so its depth is bounded."""
    if isinstance(schema, Mapping):
        return {key: without(value, keys) for key, value in schema.items() if key not in keys}
    if isinstance(schema, list):
        return [without(value, keys) for value in schema]
    return schema
