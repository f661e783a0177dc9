"""Reads YAML as plain data and nothing else: no objects, no tags, no file that grows when it is read.

The parser's tree is walked here, so that a mistake is told with its line, and that an alias of an alias of an alias
is noticed before it is a billion values.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from theo_workers.errors import ConfigError

MAX_BYTES = 2_000_000
MAX_VALUES = 50_000  # aliases written out
MAX_DEPTH = 32

_MERGE = "tag:yaml.org,2002:merge"
_STANDARD = "tag:yaml.org,2002:"
_PLAIN = frozenset((f"{_STANDARD}map", f"{_STANDARD}seq"))
_SCALARS = frozenset(f"{_STANDARD}{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp"))


def read_yaml(data: bytes, name: str) -> Any:
    """The document in `data`. Raises ConfigError, with the line, and without anything that may be a secret."""
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{name} is larger than {MAX_BYTES} bytes: is it the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8: see byte {error.start}") from None
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        return None if root is None else _Walk(loader, name).value(root, 0)
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ConfigError(f"{name}{where}: {error.problem or error.context or 'not valid YAML'}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {type(error).__name__}") from None
    except RecursionError:
        raise ConfigError(f"{name} is nested too deep") from None
    finally:
        loader.dispose()


class _Walk:
    def __init__(self, loader: yaml.SafeLoader, name: str) -> None:
        self._loader, self._name = loader, name
        self._left = MAX_VALUES

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._refused(node, f"more than {MAX_VALUES} values, aliases written out")
        if depth > MAX_DEPTH:
            raise self._refused(node, f"nested more than {MAX_DEPTH} levels, or an alias of itself")
        match node:
            case yaml.ScalarNode() if node.tag in _SCALARS:
                return self._scalar(node)
            case yaml.SequenceNode() if node.tag in _PLAIN:
                return [self.value(item, depth + 1) for item in node.value]
            case yaml.MappingNode() if node.tag in _PLAIN:
                return self._mapping(node, depth)
            case _:
                raise self._refused(node, "a tag: only plain values are read, no objects")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag == f"{_STANDARD}timestamp":
            return node.value  # such as a version: `api_version: 2024-10-21`
        try:
            value = self._loader.construct_object(node)
        except (ValueError, OverflowError):
            raise self._refused(node, "a number that cannot be read") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refused(node, "a number that is not finite")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise self._refused(node, "a text that is no Unicode") from None
        return value

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                for source in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                    if not isinstance(source, yaml.MappingNode):
                        raise self._refused(source, "<< must name a mapping")
                    merged = {**self.value(source, depth + 1), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._refused(key_node, "a key that is no text")
            key = key_node.value
            if key in own:
                raise self._refused(key_node, "a key that is given twice")
            own[key] = self.value(value_node, depth + 1)
        return {**merged, **own}

    def _refused(self, node: yaml.Node, what: str) -> ConfigError:
        return ConfigError(f"{self._name}, line {node.start_mark.line + 1}: {what}")
