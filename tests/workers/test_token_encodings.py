import pytest
from tiktoken.model import MODEL_TO_ENCODING

from theo_workers.tokens.encodings import bare_name, encoding_for


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-6", "o200k_base"),
        ("gpt-6.1-sol", "o200k_base"),
        ("gpt-5-mini-2025-08-07", "o200k_base"),
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-2024-05-13", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-4.5-preview", "o200k_base"),
        ("chatgpt-4o-latest", "o200k_base"),
        ("o1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("o4-mini-2025-04-16", "o200k_base"),
        ("codex-mini-latest", "o200k_base"),
        ("computer-use-preview", "o200k_base"),
        ("openai/gpt-4o", "o200k_base"),
        ("GPT-4o", "o200k_base"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc123", "o200k_base"),
        ("gpt-oss-120b", "o200k_harmony"),
        ("openai/gpt-oss-20b", "o200k_harmony"),
        ("gpt-oss:20b", "o200k_harmony"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("gpt-35-turbo", "cl100k_base"),
        ("gpt-35-turbo-16k", "cl100k_base"),
        ("ft:gpt-3.5-turbo-0125:acme", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("davinci-002", "cl100k_base"),
        ("text-davinci-003", "p50k_base"),
        ("code-davinci-002", "p50k_base"),
        ("text-ada-001", "r50k_base"),
        ("davinci", "r50k_base"),
        ("claude-sonnet-4-5", None),
        ("gemini-2.5-pro", None),
        ("meta-llama/llama-4-scout", None),
        ("olmo-2", None),
        ("", None),
    ],
)
def test_names_of_openai_mean_their_encoding_and_others_none(model: str, encoding: str | None) -> None:
    assert encoding_for(model) == encoding


def test_agrees_with_tiktoken_wherever_tiktoken_knows_the_model() -> None:
    ours = {"p50k_edit": "p50k_base", "gpt2": "r50k_base"}  # the same tokens for ordinary text
    known = {model: encoding for model, encoding in MODEL_TO_ENCODING.items() if encoding_for(model)}
    assert len(known) > 30
    for model, encoding in known.items():
        assert encoding_for(model) in (encoding, ours.get(encoding)), model


def test_the_bare_name_drops_the_vendor_and_the_fine_tuning() -> None:
    assert bare_name(" OpenAI/GPT-4o ") == "gpt-4o"
    assert bare_name("ft:gpt-4o:acme::x") == "gpt-4o"
    assert bare_name("qwen3:0.6b") == "qwen3:0.6b"
