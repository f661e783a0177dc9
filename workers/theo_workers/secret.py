"""A string that must not be shown: keys and passwords between the configuration and the wire."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Wraps a key or password. Only `reveal` gives it back; no printing, formatting or encoding does."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself: for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)  # no spec: padding and truncation would tell of the length

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        """Raises TypeError: a pickle is a file or a pipe with the value in the clear."""
        raise TypeError("a Secret cannot be pickled")
