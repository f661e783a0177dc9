"""The ledger's file: its settings, its tables, and the checks before it is trusted."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path

import apsw

from theo_daemon.ledger.sqlite.damage import damaged
from theo_workers.errors import LedgerError

SCHEMA_VERSION = 3
APPLICATION_ID = 0x7468656F  # "theo"
BUSY_TIMEOUT_MS = 10_000

# Rowid tables with a unique index beside them: measured twice as fast as clustering on the key.
TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE owners(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, pid INTEGER NOT NULL, started_at INTEGER NOT NULL,
  buried_at INTEGER);

CREATE TABLE inflight(
  key TEXT NOT NULL, status TEXT NOT NULL, owner INTEGER NOT NULL, attempt INTEGER NOT NULL,
  stream TEXT NOT NULL, entry_id TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);
CREATE UNIQUE INDEX idx_inflight_key ON inflight(key);
CREATE INDEX idx_inflight_status ON inflight(status);
CREATE INDEX idx_inflight_updated_at ON inflight(updated_at);

CREATE TABLE attempts(
  id INTEGER PRIMARY KEY, stream TEXT NOT NULL, entry_id TEXT NOT NULL, key TEXT NOT NULL,
  owner INTEGER NOT NULL, model TEXT NOT NULL, provider TEXT NOT NULL, state TEXT NOT NULL,
  bound_nano INTEGER, cost_nano INTEGER, scopes TEXT NOT NULL, started_at INTEGER NOT NULL,
  ended_at INTEGER, latency_ms REAL, prompt_tokens INTEGER, completion_tokens INTEGER,
  status_code INTEGER, error_code TEXT, provider_request_id TEXT, price TEXT);
CREATE INDEX idx_attempts_unsettled ON attempts(entry_id, stream) WHERE state <> 'ok';

CREATE TABLE cache(
  key TEXT NOT NULL, model TEXT NOT NULL, answer TEXT NOT NULL, created_at INTEGER NOT NULL,
  fresh_until INTEGER NOT NULL);
CREATE UNIQUE INDEX idx_cache_key ON cache(key);
CREATE INDEX idx_cache_created_at ON cache(created_at);

CREATE TABLE outcomes(
  stream TEXT NOT NULL, entry_id TEXT NOT NULL, outcome TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE UNIQUE INDEX idx_outcomes_entry ON outcomes(entry_id, stream);

CREATE TABLE ids(
  tenant TEXT NOT NULL, client_id TEXT NOT NULL, digest TEXT NOT NULL, stream TEXT NOT NULL,
  entry_id TEXT NOT NULL, outcome TEXT, created_at INTEGER NOT NULL);
CREATE UNIQUE INDEX idx_ids ON ids(client_id, tenant);

CREATE TABLE spend(
  scope TEXT NOT NULL, window_start INTEGER NOT NULL, spent_nano INTEGER NOT NULL DEFAULT 0,
  held_nano INTEGER NOT NULL DEFAULT 0, warned INTEGER NOT NULL DEFAULT 0, exhausted INTEGER NOT NULL DEFAULT 0,
  eased INTEGER NOT NULL DEFAULT 0, reset_at INTEGER);
CREATE UNIQUE INDEX idx_spend ON spend(scope, window_start);
CREATE INDEX idx_spend_reset_at ON spend(reset_at) WHERE reset_at IS NOT NULL;

CREATE TABLE latency(
  model TEXT PRIMARY KEY, calls INTEGER NOT NULL DEFAULT 0, total_ms REAL NOT NULL DEFAULT 0,
  last_ms REAL, prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0);

CREATE TABLE standings(
  model TEXT PRIMARY KEY, version INTEGER NOT NULL DEFAULT 0, generation INTEGER NOT NULL DEFAULT 0,
  openings INTEGER NOT NULL DEFAULT 0, open_until_ms INTEGER NOT NULL DEFAULT 0, probe INTEGER NOT NULL DEFAULT 0,
  probe_until_ms INTEGER NOT NULL DEFAULT 0, paused_until_ms INTEGER NOT NULL DEFAULT 0, disabled TEXT,
  credential TEXT NOT NULL DEFAULT '', order_id TEXT NOT NULL DEFAULT '0-0', health TEXT NOT NULL DEFAULT '',
  changed_at INTEGER NOT NULL, failures INTEGER NOT NULL DEFAULT 0, successes INTEGER NOT NULL DEFAULT 0);

CREATE TABLE rates(model TEXT PRIMARY KEY, slices TEXT NOT NULL);
"""

# What brings a file of an older version to the next one; only ever adds, so that processes of both may share it.
_STEPS = {
    1: """
ALTER TABLE attempts ADD COLUMN price TEXT;
ALTER TABLE spend ADD COLUMN eased INTEGER NOT NULL DEFAULT 0;
ALTER TABLE spend ADD COLUMN reset_at INTEGER;
CREATE INDEX idx_spend_reset_at ON spend(reset_at) WHERE reset_at IS NOT NULL;
""",
    2: """
ALTER TABLE standings ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE standings ADD COLUMN successes INTEGER NOT NULL DEFAULT 0;
""",
}

# WAL cannot work over these: its index is shared memory (sqlite.org/wal.html, "all on the same host").
_NETWORK_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs", "lustre", "gfs2")
)


def open_ledger(path: Path, *, read_only: bool = False) -> apsw.Connection:
    """Open the file with the ledger's settings; create it when it is missing.

    Raises LedgerError for a network file system, a newer schema, a foreign or damaged file, and one that
    cannot be written. Never replaces a file that it does not understand: it may hold calls in flight.
    """
    check_place(path, read_only=read_only)
    created = not path.exists()
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    try:
        db = apsw.Connection(str(path), flags=flags)
        db.set_busy_timeout(BUSY_TIMEOUT_MS)
        if read_only:
            db.execute("PRAGMA query_only = ON")
        else:
            _prepare(db, path)
            if created:
                path.chmod(0o600)
        _check_schema(db, path, read_only=read_only)
    except apsw.NotADBError as error:
        raise LedgerError(
            f"{path} is not a SQLite database, or is damaged. It was left as it is; "
            "restore it from a backup, or move it away to start with empty books."
        ) from error
    except apsw.ReadOnlyError as error:
        raise LedgerError(
            f"{path} cannot be written: {error}. Check owner, mode and mount options."
        ) from error
    except apsw.CorruptError as error:
        raise damaged(path, error) from error
    except (apsw.CantOpenError, apsw.IOError, apsw.FullError) as error:
        raise LedgerError(f"{path} cannot be opened: {error}") from error
    return db


def _prepare(db: apsw.Connection, path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -65536")  # KiB: 64 MB for hot pages
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # the writer checkpoints between batches
    if _version(db) >= SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # A peer may have been here between the look and the lock.
        if _version(db) == 0:
            if db.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
                raise LedgerError(f"{path} is a database of another program; it was left as it is.")
            db.execute(TABLES)
            db.execute("INSERT INTO meta VALUES('uuid', ?)", (uuid.uuid4().hex,))
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        elif _application(db) == APPLICATION_ID:
            while (version := _version(db)) < SCHEMA_VERSION:
                db.execute(_STEPS[version])
                db.execute(f"PRAGMA user_version = {version + 1}")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _version(db: apsw.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone() or (0,)
    return int(version)


def _check_schema(db: apsw.Connection, path: Path, *, read_only: bool) -> None:
    version = _version(db)
    if _application(db) != APPLICATION_ID:
        raise LedgerError(f"{path} is a database of another program; it was left as it is.")
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} was written by a newer theo-router (schema {version}; this one knows {SCHEMA_VERSION}). "
            "Upgrade this process; an older one must not write there."
        )
    if read_only and version < SCHEMA_VERSION:
        raise LedgerError(
            f"{path} was written by an older theo-router (schema {version}). "
            "A daemon of this version brings it up to date when it starts."
        )


def uuid_of(db: apsw.Connection) -> str:
    """Names the books, whatever becomes of the file's own name."""
    (found,) = db.execute("SELECT value FROM meta WHERE name = 'uuid'").fetchone() or ("",)
    return str(found)


def _application(db: apsw.Connection) -> int:
    (application,) = db.execute("PRAGMA application_id").fetchone() or (0,)
    return int(application)


def check_place(path: Path, *, read_only: bool = False) -> None:
    """Raises LedgerError where no ledger can be, or must not be. Creates the folder of a new one."""
    if path.is_dir():
        raise LedgerError(f"{path} is a folder; ledger.url must name a file.")
    if not path.exists():
        if read_only:
            raise LedgerError(f"{path} does not exist: no daemon has written a ledger there yet.")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"{path.parent} cannot be created: {error.strerror}") from error
        if not os.access(path.parent, os.W_OK):
            raise LedgerError(f"{path.parent} cannot be written: a ledger cannot be created there.")
    elif not read_only and not stat.S_ISREG(path.stat().st_mode):
        raise LedgerError(f"{path} is not a regular file.")
    elif not read_only and not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
        # The mode bits count for root too: who took them away meant it.
        raise LedgerError(f"{path} is read-only. Check owner, mode and mount options.")
    check_file_system(path)


def check_file_system(path: Path) -> None:
    """Raises LedgerError where SQLite's WAL does not work. The file need not be there yet."""
    kind = file_system_of(path.parent)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise LedgerError(
            f"{path} lies on a network file system ({kind}), where SQLite's WAL loses data. "
            "Put it on a local disk of the host whose processes share it."
        )


def file_system_of(folder: Path, mounts: str | None = None) -> str | None:
    """The type of the file system that holds `folder`, as /proc/mounts names it; None where that is unknown."""
    if mounts is None:
        table = Path("/proc/self/mounts")
        if not table.exists():
            return None
        mounts = table.read_text(errors="replace")
    target, best, kind = str(folder.resolve()), "", None
    for line in mounts.splitlines():
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        mount_point = parts[1].replace("\\040", " ")
        inside = target == mount_point or target.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):  # the later of two mounts on one place is on top
            best, kind = mount_point, parts[2]
    return kind
