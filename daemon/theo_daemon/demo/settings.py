"""The demo's configuration file."""

from __future__ import annotations

# The prices of the local model are invented, so that the table has something to show.
_REAL = """\
[[models]]
name = "smol"
provider = "local"
model = "{model}"
base_url = "{base_url}"
concurrency = 2
context_window = 2048
max_output_tokens = 128
input_cost_per_mtok = 0.10
output_cost_per_mtok = 0.40
routing = {{ spend_ceiling = 1.0, weight = 0.0 }}
"""

_SCRIPTED = """\
[[models]]
name = "smol"
provider = "scripted"
model = "stands in for a model"
script = [{ latency_ms = 250, chunks = ["This answer ", "comes from ", "a script, ", "not from a model."], \
chunk_interval_ms = 40 }]
max_output_tokens = 128
input_cost_per_mtok = 0.10
output_cost_per_mtok = 0.40
routing = { spend_ceiling = 1.0, weight = 0.0 }
"""

_REST = """\
# Tried first, as "smol" has weight 0: that is what shows failover.
[[models]]
name = "always-fails"
provider = "scripted"
script = [{ error = "provider_unavailable", status_code = 503, message = "I always fail", latency_ms = 20 }]

[[models]]
name = "echo"
provider = "scripted"

[[models]]
name = "hangs"
provider = "scripted"
script = [{ hang = true }]

[groups]
resilient = ["always-fails", "smol"]

[routing]
default = "smol"

[ledger]
url = "sqlite:///./theo-ledger.db"
"""


def demo_config(
    *, redis_url: str, prefix: str, http: str, model: str | None = None, base_url: str | None = None
) -> str:
    """TOML. Without `base_url` there is no model at hand, and `smol` is a script."""
    head = f'[redis]\nurl = "{redis_url}"\nprefix = "{prefix}"\n\n[telemetry]\nhttp = "{http}"\n\n'
    answers = _SCRIPTED if base_url is None else _REAL.format(model=model, base_url=base_url)
    return f"{head}{answers}\n{_REST}"
