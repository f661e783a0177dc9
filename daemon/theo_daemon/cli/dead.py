"""`dead`: jobs that could not be read or run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from theo_daemon.cli import letters
from theo_daemon.cli.console import console, duration, print_json, say, table, visible
from theo_daemon.cli.letters import Letter
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.target import Target, find_target
from theo_daemon.wire import Wire
from theo_workers.errors import RouterError

Ids = Annotated[list[str] | None, typer.Argument(metavar="LETTER", help="Ids as `dead ls` shows them.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Code = Annotated[str | None, typer.Option("--code", help="Only those with this error code.")]

app = new_app()


@app.callback()
def _group() -> None:
    """Look at dead letters, push their jobs again, or throw them away."""


@app.command("ls")
def list_letters(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the newest first.")] = 20,
    code: Code = None,
    as_json: Json = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """List the newest dead letters."""
    target = find_target(config, redis_url)
    found, total = asyncio.run(_list(target, limit, code))
    if as_json:
        print_json({"total": total, "letters": [_document(one) for one in found]})
        return
    columns = ("letter", "age>", "code", "stream", "job id", "reason")
    rows = [
        (
            one.letter_id,
            duration(max(0.0, time.time() - one.at_ms / 1000)),
            one.code,
            one.stream,
            one.job_id,
            one.reason[:80],
        )
        for one in found
    ]
    if rows:
        console().print(table(columns, rows))
    print(f"{len(found)} of {total} in {target.keys.dead}")


@app.command()
def show(
    letter: Annotated[str, typer.Argument(metavar="LETTER")],
    as_json: Json = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """Show one dead letter with all its fields."""
    target = find_target(config, redis_url)
    (found,) = asyncio.run(_get(target, [letter]))
    if as_json:
        print_json(_document(found, whole=True))
        return
    about = {
        "letter": found.letter_id,
        "at": f"{datetime.fromtimestamp(found.at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC",
        "job id": found.job_id or "none",
        "code": found.code,
        "reason": found.reason,
        "deliveries": found.deliveries,
        "entry": f"{found.entry_id} of {found.stream}",
        "cut": "yes" if found.cut else "no",
    }
    for name, value in about.items():
        print(f"{name:11}{visible(str(value))}")
    print()
    for name, text in _texts(found.fields):
        print(f"{visible(name)}: {visible(text)}")


@app.command()
def replay(
    ids: Ids = None,
    everything: All = False,
    code: Code = None,
    as_json: Json = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """Push the jobs of dead letters again, and clear what is remembered for their ids.

    Each job goes to the end of the stream it came from, under a new entry id; its letter is deleted in the same step.
    """
    _check_choice(ids, everything, code)
    target = find_target(config, redis_url)
    done, problems = asyncio.run(_replay(target, ids, code))
    if as_json:
        print_json({"replayed": done, "problems": problems})
    else:
        for letter_id, entry_id in done.items():
            print(f"{letter_id} -> {entry_id}")
        for problem in problems:
            say(f"theo-router: {problem}")
        print(f"{len(done)} replayed")
    if problems:
        raise typer.Exit(1)


@app.command()
def purge(
    ids: Ids = None,
    everything: All = False,
    code: Code = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """Delete dead letters for good."""
    _check_choice(ids, everything, code)
    target = find_target(config, redis_url)
    chosen = ids or asyncio.run(_ids(target, code))
    if chosen and not yes:
        typer.confirm(f"Delete {len(chosen)} dead letters for good?", abort=True, err=True)
    count = asyncio.run(_purge(target, chosen))
    if as_json:
        print_json({"purged": count})
    else:
        print(f"{count} deleted")


def _check_choice(ids: Sequence[str] | None, everything: bool, code: str | None) -> None:
    if bool(ids) == (everything or code is not None):
        raise typer.BadParameter("name letters, or say --all, or --code CODE")


async def _list(target: Target, limit: int, code: str | None) -> tuple[list[Letter], int]:
    async with target.wire() as wire:
        total: int = await wire.ask("XLEN", target.keys.dead)
        return await letters.newest(wire, target, limit=limit, code=code), total


async def _get(target: Target, ids: Sequence[str]) -> list[Letter]:
    async with target.wire() as wire:
        return [await _one(wire, target, letter_id) for letter_id in ids]


async def _one(wire: Wire, target: Target, letter_id: str) -> Letter:
    found = await letters.find(wire, target, letter_id)
    if found is None:
        raise RouterError(f"there is no dead letter {letter_id} in {target.keys.dead}; see `dead ls`")
    return found


async def _ids(target: Target, code: str | None) -> list[str]:
    async with target.wire() as wire:
        return [one.letter_id async for one in letters.each(wire, target) if code is None or one.code == code]


async def _replay(
    target: Target, ids: Sequence[str] | None, code: str | None
) -> tuple[dict[str, str], list[str]]:
    """New entry ids by letter, in the order in which the letters were written, and what went wrong."""
    done: dict[str, str] = {}
    problems: list[str] = []
    async with target.wire() as wire:
        chosen = ids or list(
            reversed([one.letter_id async for one in letters.each(wire, target) if code in (None, one.code)])
        )
        for letter_id in chosen:
            try:
                letter = await _one(wire, target, letter_id)
                entry_id = await letters.replay(wire, target, letter)
            except RouterError as error:
                problems.append(str(error))
                continue
            if entry_id is not None:
                done[letter_id] = entry_id
        if done:
            await letters.announce(wire, target, len(done))
    return done, problems


async def _purge(target: Target, ids: Sequence[str]) -> int:
    async with target.wire() as wire:
        return await letters.purge(wire, target, ids)


def _document(letter: Letter, *, whole: bool = False) -> dict[str, Any]:
    about = {
        "letter_id": letter.letter_id,
        "code": letter.code,
        "reason": letter.reason,
        "deliveries": letter.deliveries,
        "entry_id": letter.entry_id,
        "stream": letter.stream,
        "at_ms": letter.at_ms,
        "job_id": letter.job_id,
        "cut": letter.cut,
    }
    return about | ({"fields": _texts(letter.fields)} if whole else {})


def _texts(flat: Sequence[bytes]) -> list[tuple[str, str]]:
    """Pairs, since a name may be there twice; bytes that are no text as escapes."""
    texts = [word.decode("utf-8", "backslashreplace") for word in flat]
    return list(zip(texts[::2], texts[1::2], strict=False))
