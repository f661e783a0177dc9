"""Reads `[[models]]`: endpoints, credentials, scripts."""

from __future__ import annotations

import math
import os.path
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from theo_daemon.addresses import check_http_url, check_proxy_url, is_loopback
from theo_daemon.config import ModelConfig, RoutingConfig
from theo_daemon.config_routing import read_own
from theo_daemon.config_table import Report, Shape, read_table
from theo_daemon.secret_source import SecretSource, is_reference
from theo_workers.secret import Secret
from theo_workers.upstreams.script import Fate

DEFAULT_BASE_URLS = {
    "openai": "https://api.openai.com/v1",
    "openai_responses": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta",
}
_IN_PROCESS = ("scripted", "local")  # what they serve need not have another name

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")
_OURS = frozenset(
    {"accept-encoding", "content-encoding", "content-length", "content-type", "host"}
    | {"connection", "expect", "te", "trailer", "transfer-encoding", "upgrade"}
)
_CREDENTIALS = frozenset(
    {"api-key", "authorization", "cookie", "ocp-apim-subscription-key", "proxy-authorization"}
    | {"x-api-key", "x-goog-api-key"}
)
_FATE = Shape(cls=Fate)


class ModelReader:
    """Reads the tables of `[[models]]`. `routing` holds the keys that `[routing]` sets.

    Unless `serving`, credentials are left out: a command that only talks to Redis must not need them.
    """

    def __init__(
        self, *, source: SecretSource, folder: Path, routing: Mapping[str, Any], serving: bool, report: Report
    ) -> None:
        self._source, self._folder, self._serving = source, folder, serving
        self._routing, self._report = routing, report
        self._shape = Shape(
            cls=ModelConfig,
            readers={
                "base_url": lambda value: check_http_url(_text(value)),
                "api_key": self._api_key,
                "headers": self._headers,
                "query": self._query,
                "proxy": self._proxy,
                "ca_file": self._ca_file,
                "routing": lambda value: value,  # read once its table has a name to be reported under
                "script": _script,
            },
        )

    def read(self, raw: object, number: int) -> ModelConfig | None:
        """The `number`-th table, from 1; None when something it needs is missing or wrong."""
        at = model_label(raw, number)
        read = read_table(self._shape, raw, at, self._report)
        if not isinstance(raw, Mapping):
            return None
        routing = read_own(read.pop("routing", {}), self._routing, f"{at} routing", self._report)
        provider = read.get("provider")
        if provider in _IN_PROCESS and "name" in read:
            read.setdefault("model", read["name"])
        for key in ("name", "provider", "model"):
            if key not in raw and key not in read and not (key == "model" and provider is None):
                self._report.error(at, f"{key} is missing")
        if "base_url" not in raw and provider in DEFAULT_BASE_URLS:
            read["base_url"] = DEFAULT_BASE_URLS[provider]
        self._cross_check(raw, read, at)
        if not {"name", "provider", "model"} <= read.keys():
            return None
        return ModelConfig(**read, routing=RoutingConfig(**routing))

    def _cross_check(self, raw: Mapping[str, Any], read: Mapping[str, Any], at: str) -> None:
        for key in ("script", "script_end"):
            if key in raw and read.get("provider", "scripted") != "scripted":
                self._report.error(f"{at} {key}", 'belongs to provider = "scripted" only')
        base_url = read.get("base_url")
        if base_url and base_url.startswith("http:") and "api_key" in raw and not is_loopback(base_url):
            self._report.warn(f"{at} base_url", "sends the key unencrypted: http, not https")
        headers = raw.get("headers")
        for name, value in headers.items() if isinstance(headers, Mapping) else ():
            if name.lower() in _CREDENTIALS and not is_reference(str(value)):
                self._report.warn(
                    f"{at} headers.{name}", 'looks like a credential: write "env:NAME" or "file:PATH"'
                )

    def _api_key(self, value: object) -> Secret | None:
        if not isinstance(value, str) or not is_reference(value):
            raise ValueError(
                "a literal key is refused, because this file gets copied, committed and shown; "
                'write "env:NAME" or "file:PATH"'
            )
        return self._source.resolve(value) if self._serving else None

    def _headers(self, value: object) -> dict[str, str]:
        headers = self._pairs(value, self._source.resolve_header)
        for name, content in headers.items():
            if not _HEADER_NAME.fullmatch(name) or name.lower() in _OURS:
                raise ValueError(f'"{name[:64]}" is no header that can be set here')
            if not _HEADER_VALUE.fullmatch(content):
                raise ValueError(f"the value of {name[:64]} cannot be sent: it must be visible ASCII")
        if len({name.lower() for name in headers}) < len(headers):
            raise ValueError("one header is given twice, in upper and lower case")
        return headers

    def _query(self, value: object) -> dict[str, str]:
        return self._pairs(value, self._source.resolve_header)

    def _pairs(self, value: object, resolve: Callable[[str], str]) -> dict[str, str]:
        if not isinstance(value, Mapping) or not all(isinstance(one, str) for one in value.values()):
            raise ValueError('must be a table of texts, as { "api-version" = "2025-01-01" }')
        pairs: dict[str, str] = {}
        for name, content in value.items():
            if not is_reference(content):
                pairs[name] = content
            elif self._serving:
                pairs[name] = resolve(content)
        return pairs

    def _proxy(self, value: object) -> str | None:
        text = _text(value)
        if not is_reference(text):
            return check_proxy_url(text)
        return check_proxy_url(self._source.resolve(text).reveal()) if self._serving else None

    def _ca_file(self, value: object) -> str:
        path = os.path.abspath(self._folder / _text(value))
        if self._serving and not Path(path).is_file():
            raise ValueError(f"{path} is no file")
        return path


def model_label(raw: object, number: int) -> str:
    """`[[models]] #2 "claude"`."""
    name = raw.get("name") if isinstance(raw, Mapping) else None
    return f'[[models]] #{number} "{name[:64]}"' if isinstance(name, str) else f"[[models]] #{number}"


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text, and not empty")
    return value


def _script(value: object) -> tuple[Fate, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError('must be a list of tables, as [ { text = "hello" }, { error = "rate_limited" } ]')
    report = Report()
    fates = []
    for number, raw in enumerate(value, 1):
        read = read_table(_FATE, raw, f"#{number}", report)
        for key, amount in read.items():
            if isinstance(amount, int | float) and not (math.isfinite(amount) and amount >= 0):
                report.error(f"#{number} {key}", "must be 0 or more")
        fates.append(Fate(**read))
    if report.errors:
        raise ValueError("; ".join(report.errors))
    return tuple(fates)
