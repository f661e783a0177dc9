"""One `[[models]]` table in the making."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from theo_daemon.config import Provider


class Draft(Struct, kw_only=True):
    """Keys that are None, empty or 0 places long are left out of the file."""

    asked: str  # LiteLLM's model_name, as clients ask for it
    name: str  # here
    provider: Provider
    model: str
    base_url: str | None = None
    api_key: str | None = None
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    region: str | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None
    input_cost_per_mtok: float | None = None
    output_cost_per_mtok: float | None = None
    routing: dict[str, Any] = {}
    whose: str = ""  # the provider, by LiteLLM's name
    order: int = 0  # among the deployments of one model_name; lower ones are asked first
    weight: float | None = None  # as LiteLLM would weigh it
    remarks: list[str] = []  # comments above the table


KEYS = (
    *(
        "name",
        "provider",
        "model",
        "base_url",
        "api_key",
        "headers",
        "query",
        "region",
        "concurrency",
        "rpm",
        "tpm",
    ),
    *("context_window", "max_output_tokens", "input_cost_per_mtok", "output_cost_per_mtok", "routing"),
)
