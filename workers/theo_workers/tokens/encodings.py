"""Which of OpenAI's encodings a model name means."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

EncodingName = Literal["o200k_base", "o200k_harmony", "cl100k_base", "p50k_base", "r50k_base"]

# First match wins. Each pattern covers the bare name and dated or sized variants of it.
_NAMES: tuple[tuple[str, EncodingName], ...] = (
    (r"gpt-oss", "o200k_harmony"),
    (r"gpt-(4|3\.5|35)(-|$)", "cl100k_base"),
    (r"gpt-(4o|4\.1|4\.5|[5-9]|\d\d)|gpt-(audio|realtime|image)", "o200k_base"),
    (r"chatgpt-|o[1-9](-|$)|codex-|computer-use-", "o200k_base"),
    (r"text-embedding-(ada-002|3-)|(davinci|babbage)-002", "cl100k_base"),
    (r"text-davinci-00[23]|code-(davinci|cushman)|davinci-codex|cushman-codex", "p50k_base"),
    (r"text-(davinci|curie|babbage|ada)-001|(text|code)-(similarity|search)-", "r50k_base"),
    (r"(davinci|curie|babbage|ada|gpt2|gpt-2)$", "r50k_base"),
)
_PATTERNS = tuple((re.compile(pattern), encoding) for pattern, encoding in _NAMES)


def bare_name(model: str) -> str:
    """Lower case, without a vendor (`openai/gpt-4o`); of a fine-tuned model (`ft:gpt-4o:acme`) its base."""
    name = model.strip().lower().rpartition("/")[2]
    return name.removeprefix("ft:").partition(":")[0] if name.startswith("ft:") else name


@lru_cache(maxsize=1024)
def encoding_for(model: str) -> EncodingName | None:
    """The encoding of an OpenAI model by any of its usual names; None for models of others."""
    name = bare_name(model)
    for pattern, encoding in _PATTERNS:
        if pattern.match(name):
            return encoding
    return None
