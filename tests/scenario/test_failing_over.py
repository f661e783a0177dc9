"""Which model answers, and what happens when models fail."""

from __future__ import annotations

from tests.scenario.stage import model, staged
from theo_workers.upstreams.script import Fate

DOWN = Fate(error="provider_unavailable", status_code=503)
HELLO = Fate(text="hello", prompt_tokens=5, completion_tokens=2)


async def test_a_failing_model_s_job_is_answered_by_the_next_and_both_attempts_are_told() -> None:
    async with staged(model("down", DOWN, routing={"weight": 1e9}), model("up", HELLO)) as stage:
        ref = stage.push()
        await stage.advance(1)
        answered = stage.ok(ref)
        assert [(one.model, one.outcome, one.status_code, one.error_code) for one in answered.attempts] == [
            ("down", "failed", 503, "provider_unavailable"),
            ("up", "ok", 200, None),
        ]
        assert (answered.answer.model, answered.answer.output) == ("up", "hello")
