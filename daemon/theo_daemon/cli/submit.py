"""`submit`: one job in, its reply out."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from theo_daemon.cli.console import print_json, say, visible
from theo_daemon.cli.jobs import JobFailed, document, follow, nobody_reads, push, why_no_reply
from theo_daemon.cli.options import ConfigFile, Json, RedisUrl, new_app
from theo_daemon.cli.target import Target, find_target
from theo_daemon.keys import DEFAULT_LANE

MARGIN_S = 15.0  # above the longest that a job may wait and run

app = new_app()


@app.command()
def submit(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The prompt; `-` reads it from standard input.")
    ],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Model or group.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="System prompt.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text as it is made.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the reply.")] = True,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="How long to wait.")
    ] = None,
    lane: Annotated[str, typer.Option("--lane", help="The lane to queue in.")] = DEFAULT_LANE,
    job_id: Annotated[str | None, typer.Option("--id", help="Idempotency key of the job.")] = None,
    workflow: Annotated[str | None, typer.Option("--workflow")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant")] = None,
    as_json: Json = False,
    config: ConfigFile = None,
    redis_url: RedisUrl = None,
) -> None:
    """Push one job, wait for its reply and print it.

    Exit status 1 when the reply is an error or does not come in time; the job itself goes on then.
    """
    target = find_target(config, redis_url)
    if lane not in target.config.ingress.lanes:
        known = ", ".join(target.config.ingress.lanes)
        raise typer.BadParameter(f"no process reads lane {lane!r}; there are {known}", param_hint="--lane")
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text:
        raise typer.BadParameter("is empty", param_hint="PROMPT")
    fields = {"prompt": text, "model": model, "system": system, "id": job_id, "workflow": workflow}
    fields |= {"tenant": tenant, "stream": "1" if stream else None}
    given = {name: value for name, value in fields.items() if value is not None}
    longest_s = target.config.routing.timeout_s + target.config.routing.max_wait_s + MARGIN_S
    asyncio.run(_submit(target, given, lane, wait, timeout or longest_s, as_json=as_json))


async def _submit(
    target: Target, fields: dict[str, str], lane: str, wait: bool, timeout_s: float, *, as_json: bool
) -> None:
    async with target.wire() as wire:
        pushed = await push(wire, target, fields, lane=lane, own_reply=wait)
        if not wait:
            if as_json:
                print_json(pushed)
            else:
                say(f"pushed; the reply will be on {pushed.reply_stream}")
                print(pushed.entry_id)
            return
        shown = _Shown()

        async def on_silence() -> None:
            if (nobody := await nobody_reads(wire, target, pushed)) is not None:
                say(f"theo-router: {nobody} Waiting on; Ctrl-C ends the wait, not the job.")

        on_delta = None if as_json else shown.delta
        try:
            async with asyncio.timeout(timeout_s):
                reply = await follow(wire, pushed, on_delta=on_delta, on_silence=on_silence)
        except TimeoutError:
            reason = await why_no_reply(wire, target, pushed)
            raise JobFailed(f"no reply within {timeout_s:g} s. {reason}") from None
    if as_json:
        print_json(document(reply))
    elif reply["status"] == "ok":
        shown.end(reply["output"], reply.get("tool_calls"))
    else:
        shown.end("", None)
        say(f"theo-router: {reply['error_code']}: {visible(reply['error_message'])}")
    if reply["status"] != "ok":
        raise typer.Exit(1)


class _Shown:
    """What of the text is on the screen."""

    def __init__(self) -> None:
        self._attempt, self._text = 0, ""

    def delta(self, attempt: int, text: str) -> None:
        if attempt > self._attempt and self._text:
            say(f"\n(attempt {self._attempt} failed; the answer begins again)")
            self._text = ""
        self._attempt = attempt
        self._text += text
        _write(text)

    def end(self, output: str, tool_calls: str | None) -> None:
        """Print what has not been printed as deltas."""
        if self._text != output:
            if self._text:
                _write("\n")
            _write(output)
        if tool_calls is not None:
            _write(("\n" if output else "") + tool_calls)
        if output or self._text or tool_calls:
            _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
