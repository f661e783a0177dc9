"""What Redis says when it takes no writes at all, and what that means for a person."""

from __future__ import annotations

from typing import Final

_REFUSALS: Final = {
    "OOM": "Redis is full: make room, or raise its maxmemory",
    "READONLY": "Redis is a replica, and writes are for its primary",
    "MASTERDOWN": "Redis is a replica that does not hear from its primary",
    "MISCONF": "Redis cannot save to its disk, and takes no writes until it can",
    "NOREPLICAS": "Redis has fewer replicas than its min-replicas-to-write",
    "LOADING": "Redis is still loading its data",
    "CLUSTERDOWN": "the Redis Cluster is down",
    "BUSY": "Redis is busy with a script that does not end",
}
_LOGIN: Final = {
    "NOAUTH": "Redis wants a password",
    "WRONGPASS": "Redis refuses the login",
    "NOPERM": "Redis does not let this login read jobs; `theo-router doctor` says what it lacks",
}


def of_the_server(code: str) -> bool:
    """Would any write be refused with this code? Else it is the command's own fault."""
    return code in _REFUSALS


def in_words(code: str) -> str:
    """For a person: the first word of an error reply, or the name of what went wrong with the connection."""
    return _REFUSALS.get(code) or _LOGIN.get(code) or f"Redis does not answer ({code})"
