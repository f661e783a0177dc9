"""How many files, sockets among them, the process may have open: raised to what its calls need, or fewer calls."""

from __future__ import annotations

import resource

from msgspec import structs

from theo_daemon.config import Config
from theo_workers.errors import ConfigError

# Redis, ledger, log, status port with its visitors, exported spans, and what libraries open for a moment.
OWN = 64
UNLIMITED = resource.RLIM_INFINITY


def wanted(config: Config) -> int:
    """Files for all that is configured: each call has a socket, and there are no more calls than jobs held."""
    return OWN + config.ingress.max_in_flight


def raise_limit(to: int) -> int:
    """Raise the soft limit to `to`, as far as the hard one allows. Returns the limit that holds, maybe UNLIMITED."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == UNLIMITED:
        return soft
    most = to if hard == UNLIMITED else min(to, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(soft, most)


def fit(config: Config, limit: int) -> Config:
    """The configuration that can be kept with so many files: fewer jobs at a time, and a warning that says why.

    Raises ConfigError when there is not even one for a call.
    """
    needed = wanted(config)
    if limit == UNLIMITED or limit >= needed:
        return config
    remedy = "Raise the limit: `ulimit -n`, LimitNOFILE= of a service, --ulimit nofile= of a container"
    calls = limit - OWN
    if calls < 1:
        raise ConfigError(
            f"this process may open {limit} files, and needs {OWN} and one for each call. {remedy}"
        )
    warning = (
        f"this process may open {limit} files: it holds {calls} jobs at a time instead of max_in_flight = "
        f"{config.ingress.max_in_flight}. {remedy}, to {needed} or more"
    )
    return structs.replace(
        config,
        ingress=structs.replace(config.ingress, max_in_flight=calls),
        warnings=(*config.warnings, warning),
    )
