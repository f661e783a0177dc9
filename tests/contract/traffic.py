"""Jobs through one `serve` process while the servers behind it change places."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tests.contract.topologies import PREFIX, Server
from tests.e2e.commands import Background, Shell
from tests.e2e.processes import until
from theo_daemon.keys import Keys

KEYS = Keys(PREFIX)


class Topology(Protocol):
    """Servers of which one takes writes at a time."""

    @property
    def url(self) -> str: ...
    @property
    def primary(self) -> Server: ...


class Traffic:
    """A client that pushes to whoever is the primary, and the process that answers."""

    def __init__(self, topology: Topology, folder: Path, *, ledger: str = "") -> None:
        self.topology = topology
        self.shell = Shell(folder, topology.url, PREFIX, http=0)
        config = self.shell.config.read_text()
        config = config.replace("[ingress]\n", "[ingress]\nlease_s = 2.0\n")
        self.shell.config.write_text(f'{config}\n[ledger]\nurl = "{ledger}"\n' if ledger else config)

    @contextmanager
    def served(self) -> Iterator[Background]:
        with Background(self.shell, "serve") as serve:
            serve.wait_for("process_started")
            yield serve
            assert serve.process.poll() is None, serve.log

    def push(self, count: int, model: str, **more: str) -> list[str]:
        """Entry ids; no two jobs are alike."""
        primary, stamp = self.topology.primary, time.monotonic_ns()
        with primary.client.pipeline(transaction=False) as pipe:
            for number in range(count):
                pipe.xadd(KEYS.jobs(), {"prompt": f"{stamp} {number}", "model": model, **more})
            return [str(entry) for entry in pipe.execute()]

    def finals(self, key: str = KEYS.replies) -> dict[str, list[dict[str, str]]]:
        """All final replies that the primary has, by entry id."""
        found: dict[str, list[dict[str, str]]] = {}
        entries: Any = self.topology.primary.client.xrange(key)
        for _, fields in entries:
            if fields["final"] == "1":
                found.setdefault(fields["entry_id"], []).append(fields)
        return found

    def answered(self, ids: list[str], within_s: float = 15) -> list[dict[str, str]]:
        """The one reply of each; and nothing is left in the stream."""
        primary = self.topology.primary
        until(
            lambda: self.finals().keys() >= set(ids), within_s, lambda: f"{len(self.finals())} of {len(ids)}"
        )
        until(lambda: primary.client.xlen(KEYS.jobs()) == 0, within_s, "an empty stream")
        finals = self.finals()
        assert {entry: len(finals[entry]) for entry in ids if len(finals[entry]) != 1} == {}
        return [finals[entry][0] for entry in ids]

    def _latency(self) -> list[dict[str, Any]]:
        models: list[dict[str, Any]] = self.shell.json("latency")["models"]
        return models

    def survives(self, what: str, trouble: Any) -> None:
        """`trouble(primary)` makes another server the primary, amid jobs that run and jobs that wait."""
        before = self.push(150, "slow")
        until(lambda: len(self.finals()) > 20, 10, "the first replies")
        old = self.topology.primary
        assert old.client.wait(1, 5000) == 1  # a replica has these jobs: that is what is promised to survive
        started = time.monotonic()
        trouble(old)
        until(lambda: self.topology.primary is not old, 15, "another primary")
        failed_over_s = time.monotonic() - started
        (after,) = self.push(1, "echo")
        until(lambda: after in self.finals(), 10, "a reply to a job pushed afterwards")
        going_s = time.monotonic() - started
        replies = self.answered([*before, after])
        all_s = time.monotonic() - started
        assert {reply["status"] for reply in replies} == {"ok"}
        calls = {one["name"]: one["calls"] for one in self._latency()}
        assert calls == {"slow": len(before), "echo": 1}  # what was lost of replies was not paid for again
        print(
            f"{what}: another primary after {failed_over_s:.2f} s, a new job answered after {going_s:.2f} s, "
            f"all {len(replies)} jobs after {all_s:.2f} s"
        )
