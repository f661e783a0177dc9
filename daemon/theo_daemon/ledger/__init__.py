"""The books: who may call a provider now, what was answered, what it cost. Kept in SQLite or in Redis."""

from theo_daemon.ledger.face import process_name
from theo_daemon.ledger.figures import LedgerTransaction
from theo_daemon.ledger.port import Ledger

__all__ = ["Ledger", "LedgerTransaction", "process_name"]
