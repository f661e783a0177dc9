"""Single checks of `doctor`: a fact in, a finding out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import apsw
from msgspec import Struct

from theo_daemon.ledger.condition import WAL_ALARM
from theo_daemon.ledger.sqlite.ballast import SPARE, Ballast
from theo_daemon.ledger.sqlite.damage import is_marked
from theo_daemon.ledger.sqlite.files import size_of
from theo_daemon.ledger.sqlite.reading import reading
from theo_daemon.ledger.sqlite.schema import SCHEMA_VERSION, check_file_system, check_place, file_system_of
from theo_daemon.ledger.sqlite.sqlite_library import check_library
from theo_workers.errors import LedgerError

State = Literal["ok", "warn", "fail"]

CLOCK_WARN_S, CLOCK_FAIL_S = 1.0, 60.0
MEMORY_WARN = 0.9
_FORGETFUL = {"tmpfs": "memory", "ramfs": "memory", "overlay": "a container's own layer"}


class Finding(Struct, frozen=True):
    """One row. `promise` is what does not hold because of it."""

    state: State
    what: str
    found: str
    promise: str | None = None


def facts_of(info: Any, *settings: Any) -> dict[str, str]:
    """What INFO and some CONFIG GETs of one setting replied, as names and values; without what was refused."""
    texts = info.decode("utf-8", "replace").splitlines() if isinstance(info, bytes) else []
    facts = dict(line.split(":", 1) for line in texts if ":" in line)
    for setting in settings:
        if isinstance(setting, list) and len(setting) == 2:
            facts[setting[0].decode()] = setting[1].decode()
    return facts


def check_role(info: Mapping[str, str]) -> Finding:
    """`info` is of `facts_of`, here and below."""
    role = info.get("role", "unknown")
    if role in ("slave", "replica"):
        return Finding(
            "fail", "role", "this Redis is a replica", "replies cannot be published: writes are refused"
        )
    limit, used = int(info.get("maxmemory", "0")), int(info.get("used_memory", "0"))
    if limit and used > MEMORY_WARN * limit:
        return Finding(
            "warn",
            "memory",
            f"{used / limit:.0%} of maxmemory used",
            "at 100 % pushes and replies are refused",
        )
    return Finding("ok", "role", role)


def check_persistence(info: Mapping[str, str]) -> Finding:
    """What a restart of Redis would lose."""
    if info.get("aof_enabled") == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding(
                "fail", "persistence", "the append-only file cannot be written", "writes will be refused"
            )
        return _check_sync(info.get("appendfsync"))
    if "aof_enabled" not in info or "save" not in info:
        return Finding(
            "warn", "persistence", "hidden", "with appendonly no, a restart of Redis loses jobs and replies"
        )
    if info["save"]:
        return Finding(
            "warn",
            "persistence",
            f"appendonly no, snapshots: save {info['save']}",
            "a crash of Redis loses the jobs and replies since its last snapshot; CONFIG SET appendonly yes",
        )
    return Finding(
        "fail",
        "persistence",
        "appendonly no, and no snapshots",
        "a restart of Redis loses every job and reply; CONFIG SET appendonly yes",
    )


def _check_sync(appendfsync: str | None) -> Finding:
    """What a power cut would lose: a crash of Redis alone loses nothing that it has written."""
    if appendfsync is None:
        return Finding("ok", "persistence", "appendonly yes")
    found = f"appendonly yes, appendfsync {appendfsync}"
    if appendfsync == "always":
        return Finding("ok", "persistence", found)
    if appendfsync == "everysec":
        return Finding("ok", "persistence", found, "a power cut loses up to the last second")
    return Finding(
        "warn", "persistence", found, "a power cut loses whatever the system had not written; use everysec"
    )


def check_clock(offset_s: float) -> Finding:
    """`offset_s`: by how much the clock of Redis is ahead of this host's."""
    found = f"Redis is {abs(offset_s):.3f} s {'ahead of' if offset_s >= 0 else 'behind'} this host"
    if abs(offset_s) > CLOCK_FAIL_S:
        return Finding("fail", "clock", found, "budget windows and cache lifetimes are off by as much")
    if abs(offset_s) > CLOCK_WARN_S:
        return Finding("warn", "clock", found, "budget windows are off by as much; deadlines follow Redis")
    return Finding("ok", "clock", found)


def check_ledger(path: Path) -> Finding:
    """The file, if there is one, and the file system that it is, or will be, on."""
    what = "ledger"
    try:
        check_library(apsw.sqlite_lib_version())
        check_file_system(path)
        if path.exists():
            check_place(path)
            with reading(path):
                found = f"{path}, schema {SCHEMA_VERSION}"
        else:
            found = f"{path} (serve will create it)"
            if not os.access(_existing(path.parent), os.W_OK):
                return Finding(
                    "fail", what, f"{path.parent} is not writable", "serve under this user would not start"
                )
    except LedgerError as error:
        return Finding(
            "fail", what, str(error), "serve would not start: no budget, no cache, no claim without it"
        )
    kind = file_system_of(_existing(path.parent))
    if kind in _FORGETFUL:
        lost = "budgets, remembered ids and calls in flight are forgotten with it"
        return Finding("warn", what, f"{found}, on {_FORGETFUL[kind]} ({kind})", lost)
    return Finding("ok", what, f"{found}, on {kind or 'an unknown file system'}")


def check_room(path: Path) -> list[Finding]:
    """Of a ledger that exists: its disk, its WAL, and whether it was found damaged."""
    if not path.exists():
        return []
    ballast, wal_size = Ballast(path), size_of(f"{path}-wal")
    free = ballast.free()
    room = f"{free >> 20} MiB free"
    if free < SPARE:
        found = [Finding("fail", "ledger's disk", room, "no calls are made and no jobs are read")]
    elif not ballast.stands():
        lost = "answers may have to wait for room before they are published; a running daemon reads no jobs"
        found = [Finding("warn", "ledger's disk", f"{room}, {ballast.path.name} is missing", lost)]
    else:
        found = [Finding("ok", "ledger's disk", room)]
    if wal_size >= WAL_ALARM:
        slow = "reads and restarts slow down; some program keeps a read transaction open"
        found.append(Finding("warn", "ledger's WAL", f"{wal_size >> 20} MiB", slow))
    if is_marked(path):
        found.append(
            Finding("fail", "ledger", "was found damaged", "serve looks through it first, and may refuse")
        )
    return found


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
