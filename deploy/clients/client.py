"""Ask theo-router a question from Python. Needs only `pip install redis`.

python client.py "Say hi"          REDIS_URL says where Redis is; default redis://127.0.0.1:6379/0
"""

import json
import os
import sys
import uuid
from typing import Any

import redis


class JobFailed(Exception):
    """The router's final reply is an error; `reply` has its fields."""

    def __init__(self, reply: dict[str, str]) -> None:
        super().__init__(f"{reply['error_code']}: {reply['error_message']}")
        self.reply = reply
        self.retryable = reply["error_retryable"] == "1"


def ask(server: Any, prompt: str, **fields: str) -> dict[str, str]:
    """Push one job and wait for its final reply. `fields` are those of a job: model, params, id, stream...

    Raises JobFailed. With `stream="1"` the text is printed as it is made.
    """
    reply_to = f"theo:reply:{uuid.uuid4().hex}"  # a stream of this job's own
    server.xadd("theo:jobs", {"prompt": prompt, "reply_to": reply_to, "ttl_ms": "60000", **fields})
    reply: dict[str, str]
    last, attempt = "0", "1"
    while True:
        found = server.xread({reply_to: last}, count=100, block=5_000)
        for entry_id, reply in found[0][1] if found else []:
            last = entry_id
            if reply["final"] == "1":
                server.unlink(reply_to)  # else it disappears by itself, after reply.ttl_s
                if reply["status"] == "error":
                    raise JobFailed(reply)
                return reply
            if reply["attempt"] != attempt:  # another model took over: what came before does not count
                attempt = reply["attempt"]
                print("\n(beginning again)")
            print(reply["delta"], end="", flush=True)


def main() -> None:
    url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
    server = redis.Redis.from_url(url, decode_responses=True, socket_timeout=30)  # longer than BLOCK
    try:
        reply = ask(server, sys.argv[1], stream="1", params=json.dumps({"max_tokens": 200}))
    except JobFailed as failed:
        sys.exit(f"{failed} (worth another try: {failed.retryable})")
    print(f"\n{reply['model']}, {reply['completion_tokens']} tokens, {reply['cost']} USD")


if __name__ == "__main__":
    main()
