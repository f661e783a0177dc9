"""What large answers took goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAMME = """
import resource
from theo_daemon import process_memory

def resident():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize()

process_memory.tune()
bytearray(20_000_000)  # a large block was freed once: from now on glibc would keep such blocks
before = resident()
held = [bytearray(b'x') * 20_000_000 for _ in range(4)]
small = [bytes(1000) for _ in range(1000)]  # keeps the heap's end where it is
assert resident() - before > 70_000_000
held.clear()
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_large_blocks_that_are_freed_are_not_kept_by_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAMME], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5_000_000
