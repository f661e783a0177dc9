"""Commands to all running processes, by way of `P:control`."""

from __future__ import annotations

from theo_daemon.cli.target import Target


async def give_order(target: Target, **words: str | None) -> str:
    """Add one command, without the words that are None; its entry id."""
    given = [word for name, value in words.items() if value is not None for word in (name, value)]
    async with target.wire() as wire:
        entry_id: bytes = await wire.ask(
            "XADD", target.keys.control, "MAXLEN", "~", target.config.control.max_len, "*", *given
        )
    return entry_id.decode()
