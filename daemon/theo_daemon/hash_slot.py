"""Where Redis Cluster keeps a key: the slot of its hash tag, as the Redis Cluster specification defines it."""

from __future__ import annotations

from binascii import crc_hqx

SLOTS = 16_384


def hash_tag(key: str) -> str | None:
    """What stands between the first `{` and the first `}` behind it; None when there is nothing."""
    _, opened, rest = key.partition("{")
    tag, closed, _ = rest.partition("}")
    return tag if opened and closed and tag else None


def slot_of(key: str) -> int:
    """0 to 16383. Keys with the same hash tag share one, whatever else they are called."""
    tag = hash_tag(key)
    return crc_hqx((key if tag is None else tag).encode("utf-8", "replace"), 0) % SLOTS
