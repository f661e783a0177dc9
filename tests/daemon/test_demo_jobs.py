"""The demo judges its replies."""

from __future__ import annotations

import json
import tomllib

import pytest

from theo_daemon.config_parse import parse_config
from theo_daemon.demo.jobs import DemoJob, demo_jobs, problem, twins_problem
from theo_daemon.demo.settings import demo_config

OK = {"status": "ok", "cache_hit": "0", "coalesced": "0"}
PLAIN = DemoJob(kind="plain", fields={"prompt": "x"})
RESILIENT = DemoJob(kind="fails over", fields={"prompt": "x", "model": "resilient"})
AGAIN = DemoJob(kind="asked again", fields={"prompt": "x"}, wave=2)
REFUSED = DemoJob(kind="malformed", fields={}, expects="invalid_job")


def calls(*outcomes: str) -> dict[str, str]:
    return {"attempts": json.dumps([{"model": "m", "outcome": outcome} for outcome in outcomes])}


@pytest.mark.parametrize(
    ("job", "reply", "fine"),
    [
        (PLAIN, OK, True),
        (PLAIN, {"status": "error", "error_code": "cancelled"}, False),
        (REFUSED, {"status": "error", "error_code": "invalid_job"}, True),
        (REFUSED, OK, False),
        (RESILIENT, OK | calls("failed", "ok"), True),
        (RESILIENT, OK | calls("ok"), False),
        (AGAIN, OK | {"cache_hit": "1"}, True),
        (AGAIN, OK, False),
    ],
)
def test_a_reply_is_held_against_what_its_job_expects(
    job: DemoJob, reply: dict[str, str], fine: bool
) -> None:
    assert (problem(job, reply) is None) is fine


@pytest.mark.parametrize(("paid", "fine"), [(0, False), (1, True), (2, False)])
def test_of_identical_jobs_exactly_one_is_paid(paid: int, fine: bool) -> None:
    replies = [OK] * paid + [OK | {"coalesced": "1"}] * (3 - paid)
    assert (twins_problem(replies) is None) is fine


@pytest.mark.parametrize("base_url", [None, "http://127.0.0.1:8081/v1"])
def test_every_job_s_model_is_in_the_configuration(
    base_url: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = demo_config(
        redis_url="redis://127.0.0.1:6390/0",
        prefix="theo",
        http="127.0.0.1:9464",
        model="m",
        base_url=base_url,
    )
    config = parse_config(tomllib.loads(text), folder=tmp_path_factory.mktemp("demo"), env={})
    known = {model.name for model in config.models} | config.groups.keys()
    asked = {job.fields["model"] for job in demo_jobs() if "model" in job.fields}
    assert asked - known == {"gpt-99"}
    assert {job.lane for job in demo_jobs()} <= config.ingress.lanes.keys()
    assert len(demo_jobs()) >= 12
