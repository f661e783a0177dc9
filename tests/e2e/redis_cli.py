"""What `redis-cli` does with one command given on its command line, for machines that have none.

Answers come as the real one prints them into a pipe: arrays one element a line, nil as an empty line, integers bare.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis


def install(folder: Path) -> None:
    """Put it on this process's PATH as `redis-cli`, unless the real one is there."""
    if shutil.which("redis-cli") is not None:
        return
    script = folder / "redis-cli"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    script.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"


def lines(answer: Any) -> Iterator[bytes]:
    """An answer of the server, as lines."""
    match answer:
        case None:
            yield b""
        case bytes():
            yield answer
        case list() if not answer:
            yield b""
        case list():
            for element in answer:
                yield from lines(element)
        case _:
            yield str(answer).encode()


def main() -> int:
    parser = argparse.ArgumentParser(prog="redis-cli", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", dest="host", default="127.0.0.1")
    parser.add_argument("-p", dest="port", type=int, default=6379)
    parser.add_argument("-u", dest="url")
    parser.add_argument("--no-auth-warning", action="store_true")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    # RESP2, and no callbacks: what the server says is printed as it came.
    if options.url:
        client = redis.Redis.from_url(options.url, protocol=2)
    else:
        client = redis.Redis(host=options.host, port=options.port, protocol=2)
    client.response_callbacks.clear()
    with client:
        try:
            answer = client.execute_command(*options.words)
        except redis.ResponseError as error:
            print(f"ERR {error}" if " " not in str(error) else error, file=sys.stderr)
            return 1
    sys.stdout.buffer.write(b"".join(line + b"\n" for line in lines(answer)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
