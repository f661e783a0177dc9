"""The HTTP edge against servers that misbehave on purpose, through the whole `openai` upstream."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from ugly_server import ANSWER, Behaviour, Exchange, ugly_server

from theo_workers.clock import SystemClock
from theo_workers.errors import (
    ContextLengthExceeded,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    UpstreamError,
)
from theo_workers.failures import FailureClass
from theo_workers.messages import Completion, Message, Request
from theo_workers.model_spec import ModelSpec, Timeouts
from theo_workers.secret import Secret
from theo_workers.upstreams.openai import OpenAIUpstream

CANARY = "canary-9f8e7d6c5b4a"
CLOCK = SystemClock()
HURRIED = Timeouts(connect_s=0.2, first_byte_s=0.2, inter_chunk_s=0.15)
REQUEST = Request(messages=(Message(role="user", content="hi"),), params={})
WHOLE = json.dumps(ANSWER).encode()
MAYBE, NEVER_SENT, SERVER = FailureClass.MAYBE, FailureClass.NEVER_SENT, FailureClass.SERVER


@asynccontextmanager
async def upstream_to(url: str, **fields: Any) -> AsyncIterator[OpenAIUpstream]:
    fields = {"api_key": Secret(CANARY), **fields}
    upstream = OpenAIUpstream(
        ModelSpec(name="m", provider="openai", model="m", base_url=url, **fields), CLOCK
    )
    try:
        yield upstream
    finally:
        await upstream.close()


async def ask(upstream: OpenAIUpstream, *, within_s: float = 4, request: Request = REQUEST) -> Completion:
    """One call; fails the test if it outlives its deadline by far."""
    async with asyncio.timeout(5):
        return await upstream.generate(request, deadline=CLOCK.monotonic() + within_s, on_delta=None)


async def failure_of(upstream: OpenAIUpstream, **how: Any) -> UpstreamError:
    began = time.monotonic()
    with pytest.raises(UpstreamError) as caught:
        await ask(upstream, **how)
    assert time.monotonic() - began < 3
    assert_no_key_leaks(caught.value)
    return caught.value


def assert_no_key_leaks(error: UpstreamError) -> None:
    assert error.__cause__ is None
    assert error.__context__ is None
    said = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    assert CANARY not in "".join(said)


def json_with(content: bytes) -> bytes:
    return WHOLE.replace(b'"hello"', content)


def sends(body: bytes, **how: Any) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(body, **how)

    return behave


async def closes_without_answer(exchange: Exchange) -> None:
    exchange.close()


async def resets_without_answer(exchange: Exchange) -> None:
    exchange.reset()


async def resets_mid_body(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
    exchange.reset()


async def ends_before_content_length(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
    exchange.close()


async def ends_inside_a_chunked_body(exchange: Exchange) -> None:
    await exchange.begin_stream("application/json")
    await exchange.chunk(WHOLE)
    exchange.close()


async def hangs(exchange: Exchange) -> None:
    await exchange.hang()


async def hangs_after_headers(exchange: Exchange) -> None:
    await exchange.begin_stream("application/json")
    await exchange.hang()


async def hangs_mid_body(exchange: Exchange) -> None:
    await exchange.begin_stream("application/json")
    await exchange.chunk(WHOLE[:10])
    await exchange.hang()


async def drips_its_body(exchange: Exchange) -> None:
    await exchange.begin_stream("application/json")
    while True:
        await exchange.chunk(b" ")
        await asyncio.sleep(0.03)


async def sends_blanks_first(exchange: Exchange) -> None:
    """As servers do that keep the connection busy while the model thinks."""
    await exchange.begin_stream("application/json")
    for _ in range(8):
        await exchange.chunk(b" ")
        await asyncio.sleep(0.05)
    await exchange.chunk(WHOLE)
    await exchange.end_stream()


async def drips_its_answer(exchange: Exchange) -> None:
    await exchange.begin_stream("application/json")
    for byte in WHOLE:
        await exchange.chunk(bytes((byte,)))
        await asyncio.sleep(0.005)
    await exchange.end_stream()


async def drips_its_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await exchange.send(b"X: y\r\n")
        await asyncio.sleep(0.03)


async def says_continue_for_ever(exchange: Exchange) -> None:
    while True:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.01)


async def is_not_http(exchange: Exchange) -> None:
    await exchange.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def has_endless_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")


async def sends_50_megabytes(exchange: Exchange) -> None:
    await exchange.begin_stream("application/json")
    for _ in range(800):
        await exchange.chunk(b" " * 65_536)


async def switches_protocols(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")


DEEP = b"[" * 100_000
BOMB = gzip.compress(b" " * 30_000_000)

UGLY: list[Any] = [
    pytest.param(behave, leaf, failure, id=name)
    for name, behave, leaf, failure in [
        ("closed without an answer", closes_without_answer, ProviderUnavailable, MAYBE),
        ("reset without an answer", resets_without_answer, ProviderUnavailable, MAYBE),
        ("reset mid body", resets_mid_body, ProviderUnavailable, MAYBE),
        ("shorter than content-length", ends_before_content_length, ProviderUnavailable, MAYBE),
        ("chunked body cut", ends_inside_a_chunked_body, ProviderUnavailable, MAYBE),
        ("hang", hangs, ProviderTimeout, MAYBE),
        ("hang after headers", hangs_after_headers, ProviderTimeout, MAYBE),
        ("hang mid body", hangs_mid_body, ProviderTimeout, MAYBE),
        ("slow-loris body", drips_its_body, ProviderTimeout, MAYBE),
        ("slow-loris headers", drips_its_headers, ProviderTimeout, MAYBE),
        ("100 Continue for ever", says_continue_for_ever, ProviderTimeout, MAYBE),
        ("not HTTP", is_not_http, ProviderUnavailable, MAYBE),
        ("endless header", has_endless_headers, ProviderUnavailable, MAYBE),
        ("protocol switch", switches_protocols, ProviderUnavailable, SERVER),
        ("HTML login page", sends(b"<html>log in", kind="text/html"), ProviderUnavailable, MAYBE),
        ("wrong content type", sends(WHOLE, kind="image/png"), ProviderUnavailable, MAYBE),
        ("HTML called JSON", sends(b"<html>log in"), ProviderUnavailable, MAYBE),
        ("empty body", sends(b""), ProviderUnavailable, MAYBE),
        ("no content", sends(b"", status=204), ProviderUnavailable, MAYBE),
        ("truncated JSON", sends(WHOLE[:-10]), ProviderUnavailable, MAYBE),
        ("JSON of another shape", sends(b'{"choices": 7}'), ProviderUnavailable, MAYBE),
        ("JSON null", sends(b"null"), ProviderUnavailable, MAYBE),
        ("empty choices", sends(b'{"choices": []}'), ProviderUnavailable, MAYBE),
        ("invalid UTF-8", sends(json_with(b'"\xff"')), ProviderUnavailable, MAYBE),
        ("raw surrogate", sends(json_with(b'"\xed\xa0\x80"')), ProviderUnavailable, MAYBE),
        ("lone surrogate", sends(json_with(b'"\\ud800 "')), ProviderUnavailable, MAYBE),
        ("lone low surrogate", sends(json_with(b'"\\udc00"')), ProviderUnavailable, MAYBE),
        ("NaN", sends(json_with(b"NaN")), ProviderUnavailable, MAYBE),
        ("5000-digit integer", sends(json_with(b"9" * 5_000)), ProviderUnavailable, MAYBE),
        ("depth 100k", sends(json_with(DEEP)), ProviderUnavailable, MAYBE),
        ("depth 100k, unknown field", sends(b'{"z":' + DEEP), ProviderUnavailable, MAYBE),
        ("compressed bomb", sends(BOMB, Content_Encoding="gzip"), ProviderUnavailable, MAYBE),
        ("50 MB body", sends_50_megabytes, ProviderUnavailable, MAYBE),
        ("redirect", sends(b"", status=307, Location="http://127.0.0.1:1/"), ProviderUnavailable, SERVER),
        ("multiple choices", sends(b"", status=300), ProviderUnavailable, SERVER),
    ]
]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize(("behave", "leaf", "failure"), UGLY)
def test_an_ugly_answer_is_one_clean_error_in_bounded_time(
    behave: Behaviour, leaf: type[UpstreamError], failure: FailureClass, stream: bool, run: Any
) -> None:
    request = Request(messages=REQUEST.messages, params={}, stream=stream)
    late = leaf is ProviderTimeout  # only who waits for a clock is given fast ones
    timeouts, within_s = (HURRIED, 0.3) if late else (Timeouts(), 4)

    async def scenario() -> tuple[UpstreamError, int]:
        async with ugly_server(behave) as server, upstream_to(server.url, timeouts=timeouts) as upstream:
            error = await failure_of(upstream, within_s=within_s, request=request)
        return error, len(server.requests)

    error, requests = run(scenario())
    assert type(error) is leaf
    assert error.failure is failure
    assert error.provider == "openai"
    assert requests == 1 or (
        late and requests == 0
    )  # never sent again; a clock may ring before the server looks


@pytest.mark.parametrize(
    ("status", "leaf"), [(429, RateLimited), (500, ProviderUnavailable), (503, ProviderUnavailable)]
)
async def test_an_error_status_counts_even_when_its_body_breaks_off(
    status: int, leaf: type[UpstreamError]
) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(f"HTTP/1.1 {status} X\r\nRetry-After: 3\r\nContent-Length: 99\r\n\r\n{{".encode())
        exchange.reset()

    async with ugly_server(behave) as server, upstream_to(server.url) as upstream:
        error = await failure_of(upstream)
    assert type(error) is leaf
    assert error.status_code == status
    assert error.retry_after_s == 3.0
    assert error.failure is not MAYBE


async def test_an_endless_error_body_is_read_only_so_far() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 500 X\r\nContent-Length: 900000000\r\n\r\n")
        while True:
            await exchange.send(b"x" * 65_536)

    async with ugly_server(behave) as server, upstream_to(server.url, max_response_bytes=10**9) as upstream:
        error = await failure_of(upstream)
    assert error.status_code == 500


async def test_a_key_that_the_provider_repeats_is_not_repeated_by_us() -> None:
    async def behave(exchange: Exchange) -> None:
        told = {"error": {"message": f"Incorrect API key provided: {CANARY}", "code": CANARY}}
        await exchange.answer(json.dumps(told).encode(), status=401)

    async with ugly_server(behave) as server, upstream_to(server.url) as upstream:
        error = await failure_of(upstream)
    assert str(error) == "HTTP 401: Incorrect API key provided: [key] (retryable: False, provider: openai)"


async def test_a_refused_connection_was_never_sent() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with upstream_to(f"http://127.0.0.1:{unused.getsockname()[1]}/v1") as upstream:
            error = await failure_of(upstream)
    assert type(error) is ProviderUnavailable
    assert error.failure is NEVER_SENT
    assert "connection refused" in str(error)


async def test_an_unknown_host_was_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    async with upstream_to("http://nowhere.invalid/v1") as upstream:
        error = await failure_of(upstream)
    assert type(error) is ProviderUnavailable
    assert error.failure is NEVER_SENT
    assert "host name was not found" in str(error)


async def test_a_tls_handshake_with_something_else_was_never_sent() -> None:
    async def chats_in_plain_text(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(chats_in_plain_text, "127.0.0.1", 0)
    async with server, upstream_to(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as upstream:
        error = await failure_of(upstream)
    assert type(error) is ProviderUnavailable
    assert error.failure is NEVER_SENT
    assert "TLS" in str(error)


async def test_a_handshake_that_hangs_is_a_timeout_that_was_never_sent() -> None:
    async def listens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(listens, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, upstream_to(url, timeouts=HURRIED) as upstream:
        error = await failure_of(upstream)
    assert type(error) is ProviderTimeout
    assert error.failure is NEVER_SENT


@pytest.fixture
def own_ca(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem")]
    subprocess.run([*made, "-out", str(tmp_path / "ca.pem")], check=True, capture_output=True)
    return tmp_path


async def test_an_untrusted_certificate_ends_the_call_unless_its_ca_is_configured(own_ca: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own_ca / "ca.pem", own_ca / "key.pem")
    async with ugly_server(sends(WHOLE), tls=context) as server:
        url = server.url.replace("http:", "https:")
        async with upstream_to(url) as upstream:
            error = await failure_of(upstream)
        assert error.failure is NEVER_SENT
        assert "certificate is not trusted" in str(error)
        assert not server.requests
        async with upstream_to(url, ca_file=str(own_ca / "ca.pem")) as upstream:
            assert (await ask(upstream)).output == "hello"


async def test_no_call_is_made_after_the_deadline() -> None:
    async with ugly_server(sends(WHOLE)) as server, upstream_to(server.url) as upstream:
        error = await failure_of(upstream, within_s=-1)
    assert (type(error), error.failure) == (ProviderTimeout, NEVER_SENT)
    assert not server.requests


async def test_a_deadline_before_the_other_clocks_ends_the_call() -> None:
    patient = Timeouts(connect_s=60, first_byte_s=60, inter_chunk_s=60)
    async with ugly_server(hangs_mid_body) as server, upstream_to(server.url, timeouts=patient) as upstream:
        error = await failure_of(upstream, within_s=0.1)
        await asyncio.wait_for(server.gone.wait(), 2)  # the connection is closed, not abandoned
    assert type(error) is ProviderTimeout


async def test_a_stale_connection_is_an_unknown_outcome_and_nothing_is_sent_again() -> None:
    async def behave(exchange: Exchange) -> None:
        if len(server.requests) == 1:
            await exchange.answer(WHOLE)
        else:
            exchange.close()

    async with ugly_server(behave) as server, upstream_to(server.url) as upstream:
        assert (await ask(upstream)).output == "hello"
        error = await failure_of(upstream)
        assert server.connections == 1
        assert len(server.requests) == 2
    assert (type(error), error.failure) == (ProviderUnavailable, MAYBE)


async def test_what_came_unasked_is_not_taken_for_the_next_answer() -> None:
    idle, intruded = asyncio.Event(), asyncio.Event()

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(json_with(b'"%d"' % len(server.requests)))
        if len(server.requests) == 1:
            await idle.wait()
            await exchange.answer(json_with(b'"of another"'))
            intruded.set()

    async with ugly_server(behave) as server, upstream_to(server.url) as upstream:
        assert (await ask(upstream)).output == "1"
        idle.set()
        await intruded.wait()
        for _ in range(5):  # what is in the socket is read at the loop's next turn
            await asyncio.sleep(0)
        assert (await ask(upstream)).output == "2"
        assert server.connections == 2


async def test_connections_are_used_again() -> None:
    async with ugly_server(sends(WHOLE)) as server, upstream_to(server.url) as upstream:
        for _ in range(3):
            await ask(upstream)
    assert (server.connections, len(server.requests)) == (1, 3)


async def test_a_body_that_ends_with_the_connection_is_whole() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + WHOLE)
        exchange.close()

    async with ugly_server(behave) as server, upstream_to(server.url) as upstream:
        assert (await ask(upstream)).output == "hello"


async def test_a_body_in_many_pieces_is_whole() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.begin_stream("application/json")
        for at in range(0, len(WHOLE), 7):
            await exchange.chunk(WHOLE[at : at + 7])
        await exchange.end_stream()

    async with ugly_server(behave) as server, upstream_to(server.url) as upstream:
        assert (await ask(upstream)).output == "hello"


async def test_cancelling_the_task_closes_the_connection() -> None:
    async with ugly_server(hangs) as server, upstream_to(server.url) as upstream:
        call = asyncio.ensure_future(ask(upstream))
        while not server.requests:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(server.gone.wait(), 2)


async def test_a_large_request_arrives_whole() -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.answer(json_with(b'"%d"' % len(exchange.json["messages"][0]["content"])))

    request = Request(messages=(Message(role="user", content="ä" * 3_000_000),), params={})
    async with ugly_server(behave) as server, upstream_to(server.url) as upstream:
        assert (await ask(upstream, request=request)).output == "3000000"


async def test_the_request_carries_what_it_must_and_nothing_else() -> None:
    async with (
        ugly_server(sends(WHOLE)) as server,
        upstream_to(server.url + "/", query={"api-version": "1 2"}, headers={"X-Title": "t"}) as upstream,
    ):
        await ask(upstream)
        await ask(upstream)
    for exchange in server.requests:
        assert exchange.head.startswith("POST /v1/chat/completions?api-version=1+2 HTTP/1.1\r\n")
        assert exchange.headers == {
            "host": f"127.0.0.1:{server.port}",
            "user-agent": "theo-router",
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "authorization": f"Bearer {CANARY}",
            "x-title": "t",
            "content-length": str(len(exchange.body)),
        }


async def test_a_proxy_of_plain_http_gets_the_whole_url_and_its_own_credentials() -> None:
    async with ugly_server(sends(WHOLE)) as proxy:
        credentials = f"http://user:{CANARY}@127.0.0.1:{proxy.port}"
        async with upstream_to("http://models.example/v1", proxy=credentials) as upstream:
            for _ in range(2):
                assert (await ask(upstream)).output == "hello"
    for exchange in proxy.requests:
        assert exchange.head.startswith("POST http://models.example/v1/chat/completions HTTP/1.1\r\n")
        assert exchange.headers["host"] == "models.example"
        assert exchange.headers["proxy-authorization"].startswith("Basic ")


async def test_a_proxy_that_refuses_the_tunnel_leaks_no_credentials() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    proxy = f"http://user:{CANARY}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, upstream_to("https://models.example/v1", proxy=proxy) as upstream:
        error = await failure_of(upstream)
    assert (type(error), error.failure) == (ProviderUnavailable, NEVER_SENT)


async def test_closing_twice_is_harmless_and_a_later_call_opens_anew() -> None:
    async with ugly_server(sends(WHOLE)) as server, upstream_to(server.url) as upstream:
        await ask(upstream)
        await upstream.close()
        await upstream.close()
        assert (await ask(upstream)).output == "hello"


async def test_the_client_is_told_of_answers_larger_than_its_limit() -> None:
    async with ugly_server(sends(WHOLE)) as server:
        async with upstream_to(server.url, max_response_bytes=len(WHOLE)) as upstream:
            assert (await ask(upstream)).output == "hello"
        async with upstream_to(server.url, max_response_bytes=len(WHOLE) - 1) as upstream:
            assert "larger than" in str(await failure_of(upstream))


async def test_an_early_refusal_is_heard_and_its_connection_not_used_for_the_next_request() -> None:
    connections = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        told = b'{"error":{"message":"maximum context length is 8 tokens"}}'
        writer.write(b"HTTP/1.1 413 X\r\nContent-Length: %d\r\n\r\n%b" % (len(told), told))
        await over.wait()
        writer.close()

    over = asyncio.Event()
    request = Request(messages=(Message(role="user", content="x" * 20_000_000),), params={})
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server, upstream_to(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as upstream:
        assert type(await failure_of(upstream, request=request)) is ContextLengthExceeded
        assert type(await failure_of(upstream)) is ContextLengthExceeded
        over.set()
    assert connections == 2


async def test_a_compressed_answer_is_refused_by_name() -> None:
    async with (
        ugly_server(sends(BOMB, Content_Encoding="gzip")) as server,
        upstream_to(server.url) as upstream,
    ):
        assert "compressed" in str(await failure_of(upstream))


SLOW = Timeouts(floor_bytes=100, floor_s=0.2)


async def test_an_answer_that_drips_is_given_up_long_before_its_deadline() -> None:
    async with ugly_server(drips_its_answer) as server, upstream_to(server.url, timeouts=SLOW) as upstream:
        error = await failure_of(upstream)
        await asyncio.wait_for(server.gone.wait(), 2)
    assert isinstance(error, ProviderTimeout)
    assert (error.failure, error.detail) == (MAYBE, "the answer came too slowly")


async def test_a_slow_answer_above_the_floor_and_blanks_before_it_are_waited_for() -> None:
    blanks, drops = sends_blanks_first, drips_its_answer
    for behave, timeouts in ((blanks, SLOW), (drops, Timeouts(floor_bytes=2, floor_s=1))):
        async with ugly_server(behave) as server, upstream_to(server.url, timeouts=timeouts) as upstream:
            assert (await ask(upstream)).output == "hello"
