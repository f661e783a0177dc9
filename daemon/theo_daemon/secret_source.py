"""Where secrets come from: `env:NAME` and `file:PATH`, read once, when the configuration is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from theo_workers.secret import Secret

_MAX_BYTES = 65_536
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")


class SecretSource:
    """Resolves references. `folder` is what relative paths start from."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self._env, self._folder = env, folder

    def resolve(self, reference: str) -> Secret:
        """The secret, without the white space round it. Raises ValueError: source and reason, never the value."""
        return Secret(self._resolve(reference, _VISIBLE, "visible ASCII without blanks"))

    def resolve_header(self, reference: str) -> str:
        """As `resolve`, for a value that may have blanks inside."""
        return self._resolve(reference, _HEADER_VALUE, "visible ASCII")

    def _resolve(self, reference: str, form: re.Pattern[str], wanted: str) -> str:
        kind, _, name = reference.partition(":")
        value = self._from_env(name) if kind == "env" else self._from_file(name)
        value = value.strip()
        if not value:
            raise ValueError(f"{reference} is empty")
        if not form.fullmatch(value):
            raise ValueError(f"{reference} holds something that cannot be sent: it must be {wanted}")
        return value

    def _from_env(self, name: str) -> str:
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(
                "env: must be followed by the name of an environment variable, as in env:OPENAI_API_KEY"
            )
        if name not in self._env:
            raise ValueError(f"the environment variable {name} is not set")
        return self._env[name]

    def _from_file(self, name: str) -> str:
        if not name or "\0" in name:
            raise ValueError("file: must be followed by a path")
        path = self._folder / name
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        if len(data) > _MAX_BYTES:
            raise ValueError(f"{path} is too large for a secret")
        # Latin-1 never fails; what is not ASCII is refused with the rest, without a text that quotes it.
        return data.decode("latin-1")


def is_reference(text: str) -> bool:
    """Does `text` name a secret's source instead of being the value?"""
    return text.startswith(("env:", "file:"))
