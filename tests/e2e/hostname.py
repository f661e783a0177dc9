"""A host name of its own for a process: a UTS namespace, where the machine allows one."""

from __future__ import annotations

import functools
import os
import subprocess


def on_host(name: str) -> tuple[str, ...]:
    """What goes before a command so that it runs on a host of that name; nothing where that is not allowed."""
    return (*_unshare(), "sh", "-c", 'hostname "$0" && exec "$@"', name) if _unshare() else ()


@functools.cache
def _unshare() -> tuple[str, ...]:
    words = ("unshare", "--uts", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))
    try:
        tried = subprocess.run([*words, "hostname", "elsewhere"], capture_output=True, check=False)
    except FileNotFoundError:
        return ()
    return words if tried.returncode == 0 else ()
