"""The ledger of one host: a SQLite file in WAL mode."""

from theo_daemon.ledger.sqlite.ledger import SqliteLedger

__all__ = ["SqliteLedger"]
