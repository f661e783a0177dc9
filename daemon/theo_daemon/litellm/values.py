"""Single values of LiteLLM's file: numbers, durations, texts that name an environment variable, and secrets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from theo_daemon.litellm.notes import Notes

_ENV = "os.environ/"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_WINDOW = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d|mo)")
_NO_KEY = frozenset(
    {"", "none", "null", "empty", "dummy", "fake", "fake-key", "not-needed", "no-key", "anything"}
)
_SECRET_NAME = re.compile(r"key|token|secret|auth|cookie|password|credential", re.IGNORECASE)
_MTOK = Decimal(1_000_000)


class Values:
    """Reads values. Whatever it says of one, it never quotes it: it may be a secret in the wrong place."""

    def __init__(self, env: Mapping[str, str], notes: Notes) -> None:
        self._env, self.notes = env, notes
        self.wanted: dict[str, str] = {}  # environment variables to set -> what for
        self._literals: dict[str, str] = {}  # a literal secret -> the variable that takes its place

    def resolved(self, value: Any, where: str) -> Any:
        """`value`, read from the environment where it says so; None (and a note) where that has no such variable."""
        name = env_name(value)
        if name is None:
            return value
        found = self._env.get(name)
        if found is None:
            self.notes.lost(where, f"comes from the environment variable {name}, which is not set here")
        else:
            self.notes.told(where, f"the present value of the environment variable {name} was written down")
        return found

    def text(self, value: Any, where: str) -> str | None:
        match self.resolved(value, where):
            case None:
                return None
            case str() as text if text:
                return text
            case bool() | list() | dict() | str():
                self.notes.lost(where, "is not a text")
                return None
            case number:
                return str(number)

    def number(self, value: Any, where: str) -> float | None:
        """A finite one."""
        match self.resolved(value, where):
            case None:
                return None
            case bool() | list() | dict():
                number = math.nan
            case int() | float() | str() as given:
                try:
                    number = float(given)
                except (ValueError, OverflowError):
                    number = math.nan
            case _:
                number = math.nan
        if not math.isfinite(number):
            self.notes.lost(where, "is not a number")
            return None
        return number

    def count(self, value: Any, where: str) -> int | None:
        """A whole number of at least 1."""
        number = self.number(value, where)
        if number is None:
            return None
        if not 1 <= number <= 2**53:
            self.notes.lost(where, "must be at least 1 here, and was left out")
            return None
        return int(number)

    def seconds(self, value: Any, where: str) -> float | None:
        """More than 0."""
        number = self.number(value, where)
        if number is not None and not 0 < number <= 1e9:
            self.notes.lost(where, "must be above 0 here, and was left out")
            return None
        return number

    def megabytes(self, value: Any, where: str) -> int | None:
        """-> bytes."""
        number = self.number(value, where)
        if number is not None and not 0 < number <= 1e6:
            self.notes.lost(where, "must be above 0 here, and was left out")
            return None
        return None if number is None else max(1, int(number * 1_000_000))

    def usd(self, value: Any, where: str) -> float | None:
        number = self.number(value, where)
        if number is not None and not 0 <= number <= 1e9:
            self.notes.lost(where, "must be an amount of USD, and was left out")
            return None
        return number

    def per_mtok(self, value: Any, where: str) -> float | None:
        """USD per token -> USD per million of them, without the noise of binary fractions."""
        number = self.number(value, where)
        if number is None:
            return None
        price = Decimal(repr(number)) * _MTOK
        if not 0 <= price <= 10**9:
            self.notes.lost(where, "must be a price, and was left out")
            return None
        return float(price)

    def window(self, value: Any, where: str) -> str | None:
        """`budget_duration`: hours, days or months here."""
        text = self.text(value, where)
        form = None if text is None else _WINDOW.fullmatch(text)
        if text is None:
            return None
        if form is None:
            self.notes.lost(where, "is no duration as 1h, 30d or 1mo")
            return None
        count, unit = int(form[1]), form[2]
        seconds = count * {"s": 1, "m": 60}.get(unit, 3_600)
        if unit in "sm" and seconds % 3_600:
            self.notes.lost(where, "windows are whole hours, days or months here")
            return None
        return f"{seconds // 3_600}h" if unit in "sm" else text

    def secret(self, value: Any, where: str, variable: str) -> str | None:
        """`env:NAME` for a secret. A literal one is never written down: it becomes `env:VARIABLE`."""
        name = env_name(value)
        if name is None:
            if not isinstance(value, str) or value.strip().lower() in _NO_KEY:
                return None
            name = self._literals.setdefault(value, self._free(variable))
            self.notes.lost(
                where,
                f"stands literally in the file. It was not copied: put it into the environment as {name}",
            )
        if not _ENV_NAME.fullmatch(name):
            self.notes.lost(where, "does not name an environment variable that can be read here")
            return None
        self.wanted.setdefault(name, where)
        return f"env:{name}"

    def header(self, name: str, value: Any, where: str, variable: str) -> str | None:
        """A header's or query parameter's value; what looks like a secret is treated as one."""
        if env_name(value) is not None or _SECRET_NAME.search(name):
            return self.secret(value, where, variable)
        return self.text(value, where)

    def _free(self, variable: str) -> str:
        taken, number, name = set(self._literals.values()), 1, variable
        while name in taken:
            number += 1
            name = f"{variable}_{number}"
        return name


class Place:
    """One mapping of the file, by the name under which people find it."""

    def __init__(self, values: Values, where: str) -> None:
        self.values, self.where = values, where

    def text(self, mapping: Mapping[str, Any], key: str) -> str | None:
        return self.values.text(mapping.get(key), f"{self.where} {key}")

    def number(self, mapping: Mapping[str, Any], key: str) -> float | None:
        return self.values.number(mapping.get(key), f"{self.where} {key}")

    def lost(self, text: str, key: str = "") -> None:
        self.values.notes.lost(f"{self.where} {key}".rstrip(), text)

    def told(self, text: str, key: str = "") -> None:
        self.values.notes.told(f"{self.where} {key}".rstrip(), text)


def env_name(value: Any) -> str | None:
    """The variable that `os.environ/NAME` names."""
    return value.removeprefix(_ENV) if isinstance(value, str) and value.startswith(_ENV) else None


def variable_for(name: str, what: str) -> str:
    """An environment variable's name for something of the model `name`."""
    words = re.sub(r"[^A-Z0-9]+", "_", f"{name}_{what}".upper()).strip("_")[:200] or "KEY"
    return f"_{words}" if words[0].isdigit() else words
