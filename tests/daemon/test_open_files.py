"""How many jobs fit into how many open files."""

from __future__ import annotations

import pytest

from theo_daemon.config import Config, IngressConfig
from theo_daemon.open_files import OWN, UNLIMITED, fit, wanted
from theo_workers.errors import ConfigError

CONFIG = Config(ingress=IngressConfig(max_in_flight=200), models=())


@pytest.mark.parametrize("limit", [UNLIMITED, OWN + 200, 1_048_576])
def test_with_files_for_all_jobs_nothing_changes(limit: int) -> None:
    assert wanted(CONFIG) == OWN + 200
    assert fit(CONFIG, limit) is CONFIG


@pytest.mark.parametrize(("limit", "jobs"), [(OWN + 199, 199), (OWN + 1, 1)])
def test_with_fewer_files_fewer_jobs_are_held_and_the_reason_is_told(limit: int, jobs: int) -> None:
    fitted = fit(CONFIG, limit)
    assert fitted.ingress.max_in_flight == jobs
    (warning,) = fitted.warnings
    assert f"may open {limit} files" in warning
    assert f"{OWN + 200} or more" in warning


@pytest.mark.parametrize("limit", [OWN, 3])
def test_without_a_file_for_a_single_call_it_is_refused_with_a_remedy(limit: int) -> None:
    with pytest.raises(ConfigError, match="LimitNOFILE="):
        fit(CONFIG, limit)
