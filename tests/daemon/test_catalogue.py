from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from theo_daemon.catalogue import Catalogue
from theo_daemon.config_parse import parse_config

TEXT = """
[routing]
default = "chat"
[[models]]
name = "fast"
provider = "scripted"
[[models]]
name = "claude"
provider = "scripted"
[groups]
chat = ["fast", "claude"]
careful = ["claude", "fast"]
[workflows.summarise]
model = "careful"
[workflows.translate]
model = "fast"
"""


def catalogue(text: str = TEXT) -> Catalogue:
    return Catalogue(parse_config(tomllib.loads(text), folder=Path("/srv"), env={}))


@pytest.mark.parametrize(
    ("model", "workflow", "name", "candidates"),
    [
        ("fast", "default", "fast", ["fast"]),
        ("chat", "default", "chat", ["fast", "claude"]),
        ("careful", "default", "careful", ["claude", "fast"]),
        ("fast", "summarise", "fast", ["fast"]),  # what the job asks for comes first
        (None, "summarise", "careful", ["claude", "fast"]),
        (None, "translate", "fast", ["fast"]),
        (None, "default", "chat", ["fast", "claude"]),
        (None, "unheard-of", "chat", ["fast", "claude"]),
    ],
)
def test_resolves_what_a_job_asks_for(
    model: str | None, workflow: str, name: str, candidates: list[str]
) -> None:
    route = catalogue().resolve(model, workflow)
    assert route is not None
    assert route.name == name
    assert [one.name for one in route.candidates] == candidates


@pytest.mark.parametrize("model", ["nope", "", "FAST", "summarise"])
def test_an_unknown_model_has_no_route_even_where_a_default_exists(model: str) -> None:
    assert catalogue().resolve(model, "summarise") is None


def test_without_a_default_only_jobs_that_name_something_have_a_route() -> None:
    plain = catalogue(TEXT.replace('default = "chat"', ""))
    assert plain.resolve(None, "default") is None
    assert plain.resolve(None, "translate") is not None
    assert plain.resolve("chat", "default") is not None


def test_the_same_route_is_given_each_time() -> None:
    routes = catalogue()
    assert routes.resolve("chat", "default") is routes.resolve(None, "default")
