"""The books: who may call a provider now, what was answered, what it cost."""

from theo_daemon.ledger.ledger import Ledger, process_name
from theo_daemon.ledger.reading import LedgerTransaction

__all__ = ["Ledger", "LedgerTransaction", "process_name"]
