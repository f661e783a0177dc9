from __future__ import annotations

import pytest

from theo_daemon.job import EntryRef
from theo_daemon.keys import Keys


@pytest.mark.parametrize(
    ("lane", "key"), [("default", "theo:jobs"), ("high", "theo:jobs:high"), ("low", "theo:jobs:low")]
)
def test_only_the_default_lane_has_the_short_name(lane: str, key: str) -> None:
    assert Keys().jobs(lane) == key


def test_a_done_marker_belongs_to_one_entry_of_one_stream() -> None:
    keys = Keys("{theo}")
    markers = {keys.done(EntryRef(stream, "1-0")) for stream in ("{theo}:jobs", "{theo}:jobs:high")}
    assert markers == {"{theo}:done:{theo}:jobs:1-0", "{theo}:done:{theo}:jobs:high:1-0"}


def test_every_key_is_under_the_prefix() -> None:
    keys = Keys("p")
    for key in (keys.replies, keys.reply_prefix, keys.dead, keys.events, keys.control):
        assert key.startswith("p:")
