"""Makes a provider's words fit to be shown: no keys, no control characters, one short line."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LOOKED_AT = 8_192  # of a hostile megabyte, no more is worth a regular expression's time
_HIDDEN = "[key]"

_KEY_LIKE = re.compile(
    r"""
      (?<![A-Za-z0-9]) (?:sk|pk|rk|gsk|csk|xai|hf|r8|nvapi|pplx|tgp|ghp) [-_*] [A-Za-z0-9_.*\-]{3,}
    | (?<![A-Za-z0-9]) AIza [A-Za-z0-9_*\-]{8,}
    | (?<![A-Za-z0-9]) eyJ [A-Za-z0-9_\-]{8,} \. [A-Za-z0-9_.\-]+
    | [A-Za-z0-9_\-]{0,40} \*{3,} [A-Za-z0-9_\-]{0,40}  # masked by the provider, its ends left bare
    """,
    re.VERBOSE,
)
_AFTER_A_NAME = re.compile(
    r"""(?i) ( \b bearer \s+
             | (?: api[-_ ]?key | authorization | access[-_ ]?token )
               ["']? \s* [:=] \s* ["']? (?: bearer \s+ )? )
        [^\s"',;]{4,}""",
    re.VERBOSE,
)
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+"
)


def scrub(text: str, secrets: Iterable[str] = (), *, limit: int = 300) -> str:
    """One printable line of at most `limit` characters, without `secrets` and what looks like a key."""
    text = text[:_LOOKED_AT]
    for secret in secrets:
        text = text.replace(secret, _HIDDEN)
    text = _AFTER_A_NAME.sub(rf"\1{_HIDDEN}", text)
    text = _KEY_LIKE.sub(_HIDDEN, text)
    text = _UNPRINTABLE.sub(" ", text).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"
