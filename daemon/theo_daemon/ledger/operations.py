"""Everything that a process may ask a ledger to do."""

from __future__ import annotations

from theo_daemon.ledger.records import Ask, Bury, Check, Forget, Landing
from theo_daemon.ledger.shared import Change, HealthReport

Operation = Ask | Check | Landing | Forget | Bury | Change | HealthReport


def ends_call(operation: Operation) -> bool:
    """Is this the end of a call that was made?"""
    if not isinstance(operation, Landing) or operation.settled is None:
        return False
    return operation.settled.state != "void"
