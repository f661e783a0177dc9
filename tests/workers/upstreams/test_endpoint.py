"""From specifications to endpoints, and which adapter each provider gets."""

from __future__ import annotations

import random
from typing import Any

import pytest
from yarl import URL

from theo_workers.clock import SystemClock
from theo_workers.errors import ConfigError
from theo_workers.model_spec import ModelSpec
from theo_workers.secret import Secret
from theo_workers.upstreams.build import PROVIDERS, build_upstream
from theo_workers.upstreams.endpoint import origin_of
from theo_workers.upstreams.openai import OpenAIUpstream
from theo_workers.upstreams.pool import Pool

CLOCK = SystemClock()
CANARY = "canary-9f8e7d6c5b4a"


def spec(provider: str = "openai", **fields: Any) -> ModelSpec:
    return ModelSpec(name="fast", provider=provider, model="m", **fields)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_every_provider_is_built(provider: str) -> None:
    upstream = build_upstream(spec(provider), CLOCK, random.Random(1))
    assert upstream.provider == provider
    await upstream.close()


def test_an_unknown_provider_is_a_config_error_that_names_the_known() -> None:
    with pytest.raises(
        ConfigError, match=r"models\.fast\.provider: 'opnai' is not one of openai, openai_responses"
    ):
        build_upstream(spec("opnai"), CLOCK, random.Random(1))


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": Secret(f"{CANARY}\n")},
        {"api_key": Secret(f"{CANARY} ä")},
        {"api_key": Secret("")},
        {"headers": {"X-Key": f"{CANARY}\r\nHost: evil"}},
        {"headers": {"X Key": CANARY}},
        {"headers": {"X-Key": ""}},
        {"headers": {"content-LENGTH": "1"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"base_url": "ftp://x/v1"},
        {"base_url": "not a url"},
        {"base_url": f"https://user:{CANARY}@x/v1"},
        {"base_url": "https://x/v1#part"},
        {"proxy": "socks5://x"},
        {"ca_file": "no-such-file.pem"},
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_a_config_error_without_the_secret(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"models\.fast\.") as caught:
        OpenAIUpstream(spec(**fields), CLOCK)
    assert CANARY not in str(caught.value)


def test_neither_the_specification_nor_the_origin_shows_a_secret() -> None:
    full = spec(
        api_key=Secret(CANARY),
        headers={"X-Key": f"header-{CANARY}"},
        query={"code": f"query-{CANARY}"},
        proxy=f"http://u:proxy-{CANARY}@p",
    )
    origin = origin_of(full)
    assert len(origin.secrets) == 4
    assert CANARY not in repr(full) + repr(origin)
    told = f"{CANARY} header-{CANARY} query-{CANARY} proxy-{CANARY}"
    assert origin.show(told) == "[key] [key] [key] [key]"


@pytest.mark.parametrize(
    ("base_url", "sent"),
    [
        ("https://api.openai.com/v1", ("Authorization", f"Bearer {CANARY}")),
        ("https://mine.openai.azure.com/openai/v1", ("api-key", CANARY)),
        ("https://azure.com.evil.example/v1", ("Authorization", f"Bearer {CANARY}")),
    ],
)
def test_the_key_goes_into_the_header_that_the_host_wants(
    base_url: str, sent: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[URL, dict[str, str]]] = []

    class Recorded(Pool):
        def __init__(self, url: URL, headers: dict[str, str], **how: Any) -> None:
            made.append((url, headers))
            super().__init__(url, headers, **how)

    monkeypatch.setattr("theo_workers.upstreams.endpoint.Pool", Recorded)
    OpenAIUpstream(spec(base_url=base_url, api_key=Secret(CANARY)), CLOCK)
    [(url, headers)] = made
    assert str(url) == f"{base_url}/chat/completions"
    assert [pair for pair in headers.items() if CANARY in pair[1]] == [sent]
