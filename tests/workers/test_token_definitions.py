from typing import Any

import pytest

from theo_workers.tokens.definitions import Definitions
from theo_workers.tokens.schemas import SchemaTooLargeError, inlined, without
from theo_workers.tokens.typescript import render_functions, render_response_format


def function(parameters: Any = None, **fields: Any) -> dict[str, Any]:
    return {"name": "find", **fields, **({} if parameters is None else {"parameters": parameters})}


def properties(**kinds: Any) -> dict[str, Any]:
    return {"type": "object", "properties": kinds, "required": sorted(kinds)}


@pytest.mark.parametrize(
    ("schema", "typed"),
    [
        ({"type": "string"}, "string"),
        ({"type": "integer"}, "number"),
        ({"type": "number"}, "number"),
        ({"type": "boolean"}, "boolean"),
        ({"type": "null"}, "null"),
        ({"type": "array", "items": {"type": "string"}}, "string[]"),
        ({"type": "array"}, "any[]"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"enum": ["a", 1, None]}, '"a" | 1 | null'),
        ({"const": "x"}, '"x"'),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "string | number"),
        (properties(b={"type": "string"}), "{\n  b: string,\n}"),
        ({}, "any"),
        (True, "any"),
    ],
)
def test_a_parameter_becomes_a_typescript_type(schema: Any, typed: str) -> None:
    assert f"q: {typed},\n" in render_functions([function(properties(q=schema))])


def test_functions_become_a_namespace() -> None:
    search = function(
        {
            "type": "object",
            "description": "What to look for.",
            "properties": {"q": {"type": "string", "description": "words"}, "n": {"type": "integer"}},
            "required": ["q"],
        },
        description="Find things.\n    Slowly.\n",
    )
    assert render_functions([search, {"name": "now"}]) == (
        "namespace functions {\n\n"
        "// Find things.\nSlowly.\n"
        "type find = (_: // What to look for.\n{\n"
        "// words\nq: string,\nn?: number,\n"
        "}) => any;\n\n"
        "type now = () => any;\n\n"
        "} // namespace functions"
    )


def test_an_output_schema_stays_json_without_what_the_model_does_not_see() -> None:
    schema = {"name": "city", "schema": {**properties(n={"type": "string"}), "additionalProperties": False}}
    assert render_response_format(schema) == (
        '# Response Formats\n\n## city\n\n{"type":"object","properties":{"n":{"type":"string"}}}'
    )


def test_references_are_replaced_by_their_definitions() -> None:
    schema = {"$defs": {"P": {"type": "string"}}, "properties": {"p": {"$ref": "#/$defs/P", "title": "t"}}}
    assert inlined(schema) == {"properties": {"p": {"type": "string", "title": "t"}}}


def test_a_definition_inside_itself_stays_a_reference() -> None:
    tree = {"properties": {"left": {"$ref": "#/$defs/T"}}}
    schema = {"$defs": {"T": tree}, "$ref": "#/$defs/T"}
    assert inlined(schema) == {"properties": {"left": {"$ref": "#/$defs/T"}}}


def test_an_unknown_reference_stays() -> None:
    assert inlined({"$ref": "#/elsewhere/X"}) == {"$ref": "#/elsewhere/X"}


def doubling(levels: int) -> dict[str, Any]:
    definitions = {
        f"d{i}": {"properties": {side: {"$ref": f"#/$defs/d{i + 1}"} for side in "ab"}} for i in range(levels)
    }
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


def test_references_that_multiply_are_given_up_within_a_budget() -> None:
    with pytest.raises(SchemaTooLargeError):
        inlined(doubling(30))


def test_what_is_too_large_to_resolve_is_counted_as_it_came_and_marked() -> None:
    size = Definitions().tools({"tools": [{"function": function(doubling(30))}]}, "o200k_base", len)
    assert not size.resolved
    assert size.json == size.json_bytes > 1_000


def test_keywords_are_dropped_at_every_level() -> None:
    assert without({"a": [{"x": 1, "b": 2}], "x": 3}, frozenset({"x"})) == {"a": [{"b": 2}]}


def test_a_size_is_computed_once_and_the_oldest_is_forgotten() -> None:
    measured: list[str] = []

    def tokens(text: str) -> int:
        measured.append(text)
        return len(text)

    definitions = Definitions()
    for number in range(257):
        definitions.tools({"tools": [{"function": {"name": f"f{number}"}}]}, "o200k_base", tokens)
    first_pass = len(measured)
    definitions.tools({"tools": [{"function": {"name": "f256"}}]}, "o200k_base", tokens)
    assert len(measured) == first_pass
    definitions.tools({"tools": [{"function": {"name": "f0"}}]}, "o200k_base", tokens)
    assert len(measured) > first_pass


@pytest.mark.parametrize(
    "params", [{}, {"tools": []}, {"tools": "x"}, {"tools": [1, {"type": "web_search"}]}]
)
def test_no_function_tools_have_no_size(params: dict[str, Any]) -> None:
    assert Definitions().tools(params, "o200k_base", len).json == 0
