"""Function tools and output schemas as OpenAI's models are shown them.

Tools become TypeScript in a `namespace functions` block (the layout that hmarr/openai-chat-tokens found by
experiment); comments on nested properties, defaults and most constraints are left out. An output schema stays
JSON under a heading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from theo_workers.tokens.schemas import without

_UNSEEN = frozenset({"required", "additionalProperties"})


def render_functions(functions: Sequence[Mapping[str, Any]]) -> str:
    """`functions` are the `function` objects of OpenAI's chat form, their schemas inlined."""
    lines = ["namespace functions {", ""]
    for function in functions:
        lines += [*_function(function), ""]
    lines.append("} // namespace functions")
    return "\n".join(lines)


def render_response_format(format_: Mapping[str, Any]) -> str:
    """`format_` is the `json_schema` object of OpenAI's `response_format`, its schema inlined."""
    heading = f"# Response Formats\n\n## {format_.get('name')}\n\n"
    return heading + _comment(format_.get("description")) + _json(without(format_.get("schema"), _UNSEEN))


def _function(function: Mapping[str, Any]) -> list[str]:
    name, schema = function.get("name"), function.get("parameters")
    lines = [_comment(function.get("description")).removesuffix("\n")] if function.get("description") else []
    if isinstance(schema, Mapping) and schema.get("properties"):
        opening = f"type {name} = (_: {_comment(schema.get('description'))}{{"
        return [*lines, opening, _properties(schema, 0), "}) => any;"]
    return [*lines, f"type {name} = () => any;"]


def _properties(schema: Mapping[str, Any], depth: int) -> str:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, Mapping):
        return ""
    if not isinstance(required, Sequence):
        required = ()
    lines = []
    for name, value in properties.items():
        if depth == 0 and isinstance(value, Mapping) and value.get("description"):
            lines.append(_comment(value["description"]).removesuffix("\n"))
        lines.append(f"{name}{'' if name in required else '?'}: {_type(value, depth)},")
    indent = "  " * depth
    return "\n".join(indent + line for line in lines)


def _type(schema: Any, depth: int) -> str:  # noqa: PLR0911 (one return for each kind of schema)
    if not isinstance(schema, Mapping):
        return "any"
    match schema:
        case {"enum": [*values]}:
            return " | ".join(_json(value) for value in values)
        case {"const": value}:
            return _json(value)
        case {"anyOf": [*members]} | {"oneOf": [*members]} | {"allOf": [*members]}:
            return " | ".join(_type(member, depth) for member in members)
        case {"type": [*kinds]}:
            return " | ".join(_type({**schema, "type": kind}, depth) for kind in kinds)
        case {"type": "object"}:
            return "\n".join(("{", _properties(schema, depth + 1), "}"))
        case {"type": "array"}:
            return f"{_type(schema.get('items'), depth)}[]"
        case {"type": "integer"}:
            return "number"
        case {"type": str(kind)}:
            return kind
    return "any"


def _comment(description: object) -> str:
    if not isinstance(description, str) or not description:
        return ""
    return "// " + "\n".join(line.strip() for line in description.strip().split("\n")) + "\n"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
