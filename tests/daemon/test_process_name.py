from __future__ import annotations

import pytest

from theo_daemon.ledger import process_name


def test_each_boot_has_a_name_of_its_own_though_host_and_pid_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In containers both always do; what a dead boot left pending must not look like this one's own."""
    monkeypatch.setattr("socket.gethostname", lambda: "router-0")
    monkeypatch.setattr("os.getpid", lambda: 1)
    names = {process_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("router-0-1-") for name in names)
