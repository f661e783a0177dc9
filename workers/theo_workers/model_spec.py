"""What an upstream has to know of one configured model, without the daemon's configuration file."""

from __future__ import annotations

from msgspec import Struct

from theo_workers.secret import Secret
from theo_workers.upstreams.script import Fate, ScriptEnd


class Timeouts(Struct, frozen=True, kw_only=True):
    """The clocks of one call besides its deadline."""

    connect_s: float = 5.0  # name look-up, TCP and TLS together
    first_byte_s: float = 120.0  # from sending to the first byte of the body
    inter_chunk_s: float = 60.0  # between two pieces of the body
    floor_bytes: int = 256  # of an answer or event that has begun, this much must come...
    floor_s: float = 32.0  # ...in every so many seconds, until it is whole


class ModelSpec(Struct, frozen=True, kw_only=True):
    """One model at one endpoint with one credential."""

    name: str  # the configured name
    provider: str
    model: str  # the provider's own name
    base_url: str | None = None  # with the version path; None where the provider has a default
    api_key: Secret | None = None
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    proxy: str | None = None
    ca_file: str | None = None
    concurrency: int = 64
    max_output_tokens: int | None = None
    timeouts: Timeouts = Timeouts()
    max_response_bytes: int = 20_000_000
    script: tuple[Fate, ...] = ()  # provider `scripted` only, as is script_end
    script_end: ScriptEnd = "repeat_last"

    def __repr__(self) -> str:
        """Names only: headers, query and proxy may carry credentials."""
        return f"ModelSpec(name={self.name!r}, provider={self.provider!r}, model={self.model!r})"
