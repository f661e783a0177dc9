"""The scripts that hand entries on, where no server of ours gives what they have to bear."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.redis_lua import Scripts
from theo_daemon.lease_scripts import RECLAIM


@pytest.mark.parametrize("parts", [2, 3])
def test_a_take_over_reads_the_answers_of_servers_with_and_without_the_list_of_deleted_entries(
    parts: int,
) -> None:
    """XAUTOCLAIM tells deleted entries as a third part since Redis 7.0; before that it has two."""
    entry = [b"5-0", [b"prompt", b"hi"]]

    def server(words: list[bytes]) -> Any:
        match words[0]:
            case b"XAUTOCLAIM":
                return [b"7-0", [b"5-0"], [b"6-0", b"6-1"]][:parts]
            case b"XPENDING":
                return [[b"5-0", b"me", 0, 1]]
            case b"XCLAIM":
                return [entry]
            case _:
                return 0

    args = [b"theo", b"me", b"3", b"30000", b"0-0", b"10"]
    found = Scripts().run(RECLAIM.text.encode(), [b"theo:jobs", b"theo:early"], args, server)
    assert found == [b"7-0", [entry], [], 2 if parts == 3 else 0]
