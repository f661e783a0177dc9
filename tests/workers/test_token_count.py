import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken import Encoding

from theo_workers.messages import Message
from theo_workers.tokens.count import LARGE_CHARS, TokenCounter
from theo_workers.tokens.families import Linear, OpenAI, family_for

COUNTER = TokenCounter()  # its encodings are loaded once for the whole file
MODELS = [
    ("openai", "gpt-4"),
    ("openai", "gpt-4o"),
    ("openai", "gpt-5-mini"),
    ("openai_responses", "gpt-4.1"),
    ("openai_responses", "gpt-6"),
    ("anthropic", "claude-3-5-haiku-latest"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-opus-5"),
    ("gemini", "gemini-2.0-flash"),
    ("gemini", "gemini-3-flash-preview"),
    ("openai", "gpt-oss-120b"),
    ("openai", "meta-llama/llama-4-scout"),
    ("openai", "mistral-large-latest"),
    ("openai", "deepseek-v4-flash"),
    ("local", "smollm2-135m"),
]


def user(text: str) -> Message:
    return Message(role="user", content=text)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def assistant(text: str | None, *calls: tuple[str, str]) -> Message:
    if not calls:
        return Message(role="assistant", content=text)
    made = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(calls)
    ]
    return Message(role="assistant", content=text, tool_calls=made)


def result(text: str) -> Message:
    return Message(role="tool", content=text, tool_call_id="c0")


def tool(name: str, **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": sorted(properties)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def tokens(messages: Sequence[Message], *, provider: str, model: str, **params: Any) -> int:
    return COUNTER.count_request(messages, params, provider=provider, model=model).tokens


def plain(text: str, model: str) -> int:
    return COUNTER.count_text(text, model).tokens


@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [
        ("Hello, world!", "gpt-4", 4),
        ("Hello, world!", "gpt-4o", 4),
        ("Hello, world!", "text-davinci-003", 4),
        ("tiktoken is great!", "gpt-4", 6),
        ("antidisestablishmentarianism", "gpt-4", 6),
        ("お誕生日おめでとう", "gpt-4", 9),
        ("お誕生日おめでとう", "gpt-4o", 8),
        ("<|endoftext|>", "gpt-4o", 7),  # a user's text is never a special token
        ("", "gpt-4o", 0),
    ],
)
def test_texts_have_the_tokens_of_the_models_own_tokenizer(text: str, model: str, expected: int) -> None:
    count = COUNTER.count_text(text, model)
    assert (count.tokens, count.exact) == (expected, True)


def test_the_count_is_not_the_length_over_four() -> None:
    assert 0 < plain("Hello, world!", "gpt-4") != len("Hello, world!") // 4


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "gemini-2.5-pro", "some-model-of-mine"])
def test_a_model_of_others_is_counted_by_formula_and_marked_so(model: str) -> None:
    count = COUNTER.count_text("The quick brown fox jumps over the lazy dog.", model)
    assert (count.source, count.exact) == ("formula", False)
    assert 9 <= count.tokens <= 15


@pytest.mark.parametrize(
    ("provider", "model", "messages", "expected"),
    [
        # 3 per message, its role and text, and 3 for the reply; the reasoning models take one less.
        ("openai", "gpt-4o", [user("Hello")], 8),
        ("openai", "gpt-4", [user("Hello")], 8),
        ("openai", "gpt-5", [user("Hello")], 7),
        ("openai_responses", "gpt-4o", [user("Hello")], 8),
        ("openai_responses", "o3", [user("Hello")], 7),
        ("openai", "o1-mini", [user("Hello")], 11),
        ("openai", "gpt-4o", [system("Hi"), user("Hello")], 13),
        ("openai", "gpt-4o", [user("Hello"), assistant("Hi"), user("Hello")], 18),
        ("openai", "gpt-5", [user("Hello"), assistant("Hi"), user("Hello")], 19),  # and 2 more per answer
        ("openai", "gpt-4o", [Message(role="user", content="Hello", name="Bob")], 10),
    ],
)
def test_openai_requests_are_counted_exactly(
    provider: str, model: str, messages: list[Message], expected: int
) -> None:
    count = COUNTER.count_request(messages, {}, provider=provider, model=model)
    assert (count.tokens, count.exact) == (expected, True)


def test_text_parts_are_joined_without_a_separator() -> None:
    parts = Message(role="user", content=[{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}])
    assert tokens([parts], provider="openai", model="gpt-4o") == 8


TOOL = tool("get_weather", city={"type": "string"})


@pytest.mark.parametrize(
    ("provider", "model", "first", "added"),
    [
        ("openai", "gpt-4o", [user("Hello")], 22 + 8),
        ("openai", "gpt-4o", [system("Hi"), user("Hello")], 22 + 4),
        ("openai", "gpt-5", [user("Hello")], 22 + 90),
        ("openai_responses", "gpt-4o", [user("Hello")], 22 + 2),
        ("openai_responses", "gpt-5", [user("Hello")], 22 + 8),
    ],
)
def test_openai_tools_add_their_typescript_and_a_frame(
    provider: str, model: str, first: list[Message], added: int
) -> None:
    without = tokens(first, provider=provider, model=model)
    assert tokens(first, provider=provider, model=model, tools=[TOOL]) == without + added


@pytest.mark.parametrize(
    ("provider", "model", "calls", "added"),
    [
        ("openai", "gpt-4o", [("get_weather", '{"city":"Paris"}')], 4 + 5 + 2 * 2 + 5),
        ("openai", "gpt-5", [("get_weather", '{"city":"Paris"}')], 6 + 5 + 2 * 2 + 9),
        ("openai_responses", "gpt-4o", [("get_weather", '{"city":"Paris"}')], 4 + 5 + 2 * 2 + 3),
        ("openai", "gpt-4o", [("get_weather", '{"city":"Paris"}')] * 2, 4 + 2 * (5 + 2 * 2) + 28),
    ],
)
def test_calls_in_the_history_add_their_arguments_and_twice_their_name(
    provider: str, model: str, calls: list[tuple[str, str]], added: int
) -> None:
    before = tokens([user("Hello")], provider=provider, model=model)
    after = tokens([user("Hello"), assistant(None, *calls)], provider=provider, model=model)
    assert after == before + added


def test_tools_and_images_make_the_count_inexact() -> None:
    image = Message(role="user", content=[{"type": "image_url", "image_url": {"url": "https://x/y.png"}}])
    for messages, params in (
        ([user("Hi")], {"tools": [TOOL]}),
        ([image], {}),
        ([assistant(None, ("f", ""))], {}),
    ):
        assert not COUNTER.count_request(messages, params, provider="openai", model="gpt-4o").exact


@pytest.mark.parametrize(
    ("model", "text", "params", "expected"),
    [
        ("claude-sonnet-4-5", "hello", {}, 8),
        ("claude-sonnet-4-5", "hello", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, 36),
        ("claude-sonnet-4-5", "hello", {"thinking": {"type": "disabled"}}, 8),
        ("claude-sonnet-4-5", "Reply with the single word: ok", {}, 14),
    ],
)
def test_claude_requests_have_the_measured_frame(
    model: str, text: str, params: dict[str, Any], expected: int
) -> None:
    assert COUNTER.count_request([user(text)], params, provider="anthropic", model=model).tokens == expected


def test_rare_words_cost_more_where_the_vocabulary_is_smaller() -> None:
    common = "the house and the dog and the tree and the road are in the town"
    rare = "distributed tradeoffs partitioning idempotency consensus architectural"
    for text, more in ((common, False), (rare, True)):
        counted = plain(text, "claude-sonnet-4-5")
        assert (counted > 1.2 * plain(text, "gpt-4o")) is more


def test_a_forced_call_costs_more_with_claude() -> None:
    request = {"provider": "anthropic", "model": "claude-sonnet-4-5", "tools": [TOOL]}
    free = tokens([user("Hi")], tool_choice="auto", **request)  # type: ignore[arg-type]
    assert tokens([user("Hi")], tool_choice="required", **request) == free + 94  # type: ignore[arg-type]
    assert tokens([user("Hi")], tool_choice="none", **request) == free  # type: ignore[arg-type]


def test_an_output_schema_costs_tokens() -> None:
    schema = {"name": "city", "schema": {"type": "object", "properties": {"n": {"type": "string"}}}}
    format_ = {"type": "json_schema", "json_schema": schema}
    for provider, model in (("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5")):
        bare = tokens([user("Hi")], provider=provider, model=model)
        assert tokens([user("Hi")], provider=provider, model=model, response_format=format_) > bare + 10
        plain_format = {"type": "json_object"}
        assert tokens([user("Hi")], provider=provider, model=model, response_format=plain_format) == bare


TEXTS = st.text(st.characters(codec="utf-8"), max_size=60) | st.sampled_from(
    ["", " " * 40, "0123456789" * 5, "東京" * 10, "\x00\x01" * 20, "https://example.org/?q=%20"]
)
NAMES = st.from_regex(r"[a-z_]{1,20}", fullmatch=True)
MESSAGES = st.lists(
    st.one_of(
        st.builds(user, TEXTS),
        st.builds(system, TEXTS),
        st.builds(assistant, TEXTS),
        st.builds(lambda t, n, a: assistant(t, (n, a)), TEXTS, NAMES, TEXTS),
        st.builds(result, TEXTS),
        st.builds(lambda t: Message(role="user", content=[{"type": "text", "text": t}]), TEXTS),
        st.just(Message(role="user", content=[{"type": "image_url", "image_url": {"url": "https://x/y"}}])),
    ),
    min_size=1,
    max_size=4,
)
TYPES = st.sampled_from(["string", "integer", "array", "object", "boolean"])
TOOLS = st.builds(
    lambda names, description, kinds: [
        {
            **tool(name, **{kind: {"type": kind, "description": description} for kind in kinds}),
        }
        for name in names
    ],
    st.lists(NAMES, max_size=3),
    TEXTS,
    st.lists(TYPES, max_size=3),
)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "tools": TOOLS,
        "tool_choice": st.sampled_from(["auto", "required"]),
        "temperature": st.just(0.5),
        "thinking": st.just({"type": "enabled", "budget_tokens": 1_024}),
        "response_format": st.builds(
            lambda d: {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": d}}},
            TEXTS,
        ),
    },
)


@pytest.mark.parametrize(("provider", "model"), MODELS)
@settings(max_examples=40, deadline=None)
@given(messages=MESSAGES, params=PARAMS)
def test_the_bound_is_never_below_the_count(
    provider: str, model: str, messages: list[Message], params: dict[str, Any]
) -> None:
    count = COUNTER.count_request(messages, params, provider=provider, model=model)
    bound = COUNTER.bound_request(messages, params, provider=provider, model=model)
    assert bound is not None
    assert bound >= count.tokens >= 0


@pytest.mark.parametrize(("provider", "model"), MODELS)
@settings(max_examples=25, deadline=None)
@given(messages=MESSAGES, more=MESSAGES, params=PARAMS)
def test_more_messages_never_cost_less(
    provider: str, model: str, messages: list[Message], more: list[Message], params: dict[str, Any]
) -> None:
    few = COUNTER.measure_request(messages, params, provider=provider, model=model)
    many = COUNTER.measure_request([*messages, *more], params, provider=provider, model=model)
    assert many.count.tokens >= few.count.tokens
    assert few.bound is not None
    assert many.bound is not None
    assert many.bound >= few.bound


@pytest.mark.parametrize(("provider", "model"), MODELS)
def test_measuring_gives_the_count_and_the_bound(provider: str, model: str) -> None:
    request = ([system("Be brief."), user("Hello")], {"tools": [TOOL]})
    measured = COUNTER.measure_request(*request, provider=provider, model=model)
    assert measured.count == COUNTER.count_request(*request, provider=provider, model=model)
    assert measured.bound == COUNTER.bound_request(*request, provider=provider, model=model)


@pytest.mark.parametrize("content", [None, "wait"])
@pytest.mark.parametrize(("provider", "model"), MODELS)
def test_what_goes_back_to_a_provider_with_its_calls_counts_in_the_bound(
    provider: str, model: str, content: str | None
) -> None:
    def bounds(*extras: Any, **said: Any) -> tuple[int, int]:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        calls = [{**call, "extra_content": extra} if extra else call for extra in extras]
        asked = ([Message(role="assistant", content=content, tool_calls=calls, **said)], {})
        loose = COUNTER.loose_bound_request(*asked, provider=provider, model=model)
        bound = COUNTER.bound_request(*asked, provider=provider, model=model)
        assert bound is not None
        assert loose is not None
        return bound, loose

    thoughts = {"deepseek": {"reasoning_content": "é" * 3_000}}
    details = {"openrouter": {"reasoning_details": [{"type": "reasoning.text", "text": "x" * 5_000}]}}
    without, bounded = bounds(None, None), bounds(thoughts, details)
    assert all(more - few >= 11_000 for few, more in zip(without, bounded, strict=True))
    assert all(more - few <= 11_200 for few, more in zip(without, bounded, strict=True))
    told = bounds(None, None, reasoning_content="é" * 3_000, **details["openrouter"])
    assert all(11_000 <= more - few <= 11_200 for few, more in zip(without, told, strict=True))


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("gpt-4o", {"web_search_options": {"search_context_size": "low"}}),
        ("gpt-4o", {"previous_response_id": "resp_1"}),
        ("gpt-4o", {"service_tier": "priority"}),
        ("gpt-4o", {"tools": [{"type": "web_search"}]}),
        ("gpt-4o", {"modalities": ["text", "audio"]}),
        ("gpt-4o-search-preview", {}),
        ("groq/compound", {}),
        ("o3-deep-research", {}),
    ],
)
def test_what_the_provider_may_add_without_limit_has_no_bound(model: str, params: dict[str, Any]) -> None:
    assert COUNTER.bound_request([user("Hi")], params, provider="openai", model=model) is None


@pytest.mark.parametrize(
    "params", [{"service_tier": "auto"}, {"modalities": None}, {"temperature": 1}, {"tools": []}, {"seed": 7}]
)
def test_ordinary_parameters_keep_the_bound(params: dict[str, Any]) -> None:
    assert COUNTER.bound_request([user("Hi")], params, provider="openai", model="gpt-4o") is not None


@pytest.mark.parametrize("part", [{"type": "input_audio", "input_audio": {}}, {"type": "file", "file": {}}])
def test_parts_of_unknown_size_have_no_bound(part: dict[str, Any]) -> None:
    for provider, model in (("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5")):
        messages = [Message(role="user", content=[part])]
        assert COUNTER.bound_request(messages, {}, provider=provider, model=model) is None


@pytest.mark.parametrize(
    ("provider", "model", "kind"),
    [
        ("openai", "gpt-4o", OpenAI),
        ("openai", "claude-sonnet-4-5", Linear),
        ("anthropic", "my-claude", Linear),
        ("gemini", "tuned-model-1", Linear),
        ("openai", "whatever", Linear),
    ],
)
def test_the_family_follows_the_model_before_the_wire_format(provider: str, model: str, kind: type) -> None:
    assert isinstance(family_for(provider, model), kind)


def text_factor(model: str) -> float:
    family = family_for("anthropic", model)
    assert isinstance(family, Linear)
    return family.text


@pytest.mark.parametrize(
    ("model", "is_new"),
    [
        ("claude-2.1", False),
        ("claude-3-opus-latest", False),
        ("claude-3.7-sonnet", False),
        ("claude-3-5-haiku-20241022", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-opus-4-1", False),
        ("claude-opus-4-6", False),
        ("claude-haiku-4-5", False),
        ("anthropic/claude-sonnet-4.5", False),
        ("claude-opus-4-7", True),
        ("claude-opus-4.8", True),
        ("claude-sonnet-5", True),
        ("claude-fable-5", True),
        ("claude-next", True),
    ],
)
def test_claude_models_are_told_apart_by_their_tokenizer(model: str, is_new: bool) -> None:
    assert (text_factor(model) > 1.2) is is_new


async def test_warming_loads_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = TokenCounter()
    threads: list[threading.Thread] = []
    load = counter._encodings.get

    def watched(name: str) -> Encoding:
        threads.append(threading.current_thread())
        return load(name)

    monkeypatch.setattr(counter._encodings, "get", watched)
    await counter.warm(["gpt-3.5-turbo", "gpt-4"])
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    assert counter.count_text("Hello", "gpt-4").tokens == 1
    assert len(threads) == 1


@pytest.mark.parametrize(
    ("text", "params", "in_thread"),
    [
        ("Hello", {}, False),
        ("x " * LARGE_CHARS, {}, True),
        ("Hello", {"tools": [TOOL]}, False),
        ("Hello", {"tools": [tool("f" * 64, **{f"p{i}": {"type": "string"} for i in range(800)})]}, True),
    ],
)
async def test_large_requests_are_counted_in_a_thread(
    text: str, params: dict[str, Any], in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = TokenCounter()
    await counter.warm(["gpt-4o"])
    moved: list[object] = []
    to_thread = asyncio.to_thread

    async def watched(function: Any, *args: Any, **kwargs: Any) -> Any:
        moved.append(function)
        return await to_thread(function, *args, **kwargs)

    monkeypatch.setattr(asyncio, "to_thread", watched)
    request = ([user(text)], params)
    measured = await counter.measure_request_async(*request, provider="openai", model="gpt-4o")
    assert measured == counter.measure_request(*request, provider="openai", model="gpt-4o")
    count = await counter.count_request_async(*request, provider="openai", model="gpt-4o")
    assert count == measured.count
    assert bool(moved) is in_thread


def test_a_task_budget_is_told_to_claude_in_its_prompt() -> None:
    asked = [user("Hello")]
    budget = {"output_config": {"task_budget": {"type": "tokens", "total": 20_000}}}
    plain_, told = (tokens(asked, provider="anthropic", model="claude-opus-5", **p) for p in ({}, budget))
    assert told == plain_ + 38
    assert tokens(asked, provider="openai", model="gpt-4o", **budget) == tokens(
        asked, provider="openai", model="gpt-4o"
    )
