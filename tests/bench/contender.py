"""Who is measured: a name and a command that takes jobs from `theo:jobs` and puts replies on `theo:replies`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from msgspec import Struct

from tests.bench.services import BenchError, free_port

HERE = Path(__file__).parent

CONFIG = """\
[redis]
url = "{redis}"

[ledger]
url = "{ledger}"

[routing]
default = "bench"

[[models]]
name = "bench"
provider = "openai"
model = "gpt-4o-mini"
base_url = "{upstream}"
api_key = "env:THEO_BENCH_KEY"
concurrency = 64
context_window = 128_000
max_output_tokens = 16_384
input_cost_per_mtok = 0.15
output_cost_per_mtok = 0.60

[telemetry]
http = "127.0.0.1:{http_port}"
"""


class Contender(Struct, frozen=True, kw_only=True):
    """`command` may hold {python}, {bin}, {here}, {redis}, {upstream} and {config}, a file written for each run."""

    name: str
    command: str
    ledger: str = "sqlite:///./ledger.db"

    def argv(self, *, redis: str, upstream: str, folder: Path) -> list[str]:
        """The command for one run; `folder` is its own empty working folder. Only what is left open is a default of
        the router: the configuration names addresses, one model and its price."""
        config = folder / "theo-router.toml"
        config.write_text(
            CONFIG.format(redis=redis, upstream=upstream, http_port=free_port(), ledger=self.ledger)
        )
        places = {
            "python": sys.executable,
            "bin": str(Path(sys.executable).parent),
            "here": str(HERE),
            "redis": redis,
            "upstream": upstream,
            "config": str(config),
        }
        return [part.format(**places) for part in shlex.split(self.command)]


DEFAULT = (
    Contender(name="loop", command="{python} {here}/loop.py {redis} {upstream}"),
    Contender(name="serve", command="{bin}/theo-router serve --config {config}"),
)
ASKED_FOR = (  # with --only
    Contender(name="serve-redis", command="{bin}/theo-router serve --config {config}", ledger="redis"),
)


def chosen(only: str | None, more: list[str]) -> list[Contender]:
    """The default ones and `more`, each NAME=COMMAND and in place of one of its name; `only` lists names by comma.

    Raises BenchError for a form or a name that it does not know.
    """
    known = {contender.name: contender for contender in DEFAULT}
    for text in more:
        name, equals, command = text.partition("=")
        if not equals:
            raise BenchError(f"--contender wants NAME=COMMAND, got {text!r}")
        known[name] = Contender(name=name, command=command)
    names = only.split(",") if only else list(known)
    known = {contender.name: contender for contender in ASKED_FOR} | known
    if unknown := [name for name in names if name not in known]:
        raise BenchError(f"no contender is called {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in names]
