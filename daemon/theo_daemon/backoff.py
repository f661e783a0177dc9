"""How long to wait before the next try to reach a server that does not answer."""

from __future__ import annotations

BASE_S = 0.1
CAP_S = 5.0


def delay_s(failures: int, jitter: float, *, base_s: float = BASE_S, cap_s: float = CAP_S) -> float:
    """Seconds to wait after `failures` (from 1) in a row; `jitter` is drawn from [0, 1).

    Exponential, half of it random: processes that lost the same server come back apart, and none of
    them ever at once.
    """
    # The exponent is bounded because 2.0 ** 1024 overflows on a long night without a server.
    return min(cap_s, base_s * 2.0 ** min(failures - 1, 30)) * (0.5 + 0.5 * jitter)
