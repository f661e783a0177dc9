"""What a model usually takes."""

from __future__ import annotations

from theo_daemon.usual import EVERY, UsualLatency
from theo_workers.health import HealthSnapshot, ModelHealth


def test_is_nothing_before_the_first_call_and_the_median_of_the_recent_ones_after_it() -> None:
    health = ModelHealth()
    usual = UsualLatency(health)
    assert usual.ms == 0
    for latency_ms in [100.0] * EVERY:
        health.record_success(0.0, latency_ms, 1)
    assert usual.ms == 100
    for latency_ms in [900.0] * EVERY * 2:
        health.record_success(0.0, latency_ms, 1)
    assert usual.ms == 900


def test_is_looked_at_anew_only_after_several_calls() -> None:
    health = ModelHealth()
    usual = UsualLatency(health)
    assert usual.ms == 0
    for _ in range(EVERY - 1):
        health.record_success(0.0, 100.0, 1)
    assert usual.ms == 0
    health.record_success(0.0, 100.0, 1)
    assert usual.ms == 100


def test_is_known_after_a_restart() -> None:
    health = ModelHealth()
    usual = UsualLatency(health)
    health.restore(HealthSnapshot(total_successes=1_000, latency_p50_ms=250.0))
    assert usual.ms == 250
    health.restore(HealthSnapshot(total_successes=3, latency_p50_ms=40.0))
    assert usual.ms == 40
