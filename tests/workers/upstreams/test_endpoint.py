"""From specifications to endpoints, and which adapter each provider gets."""

from __future__ import annotations

import random
from typing import Any

import pytest

from theo_workers.clock import SystemClock
from theo_workers.errors import ConfigError
from theo_workers.model_spec import ModelSpec
from theo_workers.secret import Secret
from theo_workers.upstreams.build import PROVIDERS, build_upstream
from theo_workers.upstreams.endpoint import origin_of
from theo_workers.upstreams.openai import OpenAIUpstream

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
    with pytest.raises(ConfigError, match=r"models\.fast\.provider: 'opnai' is not one of openai, local"):
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
