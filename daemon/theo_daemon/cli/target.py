"""What a command works on: the configuration, and the Redis and the ledger that it names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

from theo_daemon.config import Config
from theo_daemon.config_file import ConfigNotFound, load_config
from theo_daemon.config_parse import Overrides, parse_config
from theo_daemon.keys import Keys
from theo_daemon.redis_link import RedisLink
from theo_daemon.wire import Wire
from theo_workers.errors import ConfigError, RouterError

NO_ADDRESS = (
    "no Redis address. Set --redis-url, THEO_REDIS_URL, or [redis] url in the configuration, "
    "as in redis://127.0.0.1:6379/0"
)


class RedisRefused(RouterError):
    """Redis answered a command with an error; the message has its words."""


class Target(Struct, frozen=True, kw_only=True):
    """Models' credentials are left out of `config`: no command but `serve` needs them."""

    config: Config

    @property
    def keys(self) -> Keys:
        return Keys(self.config.redis.prefix)

    def link(self) -> RedisLink:
        """Raises ConfigError when no address is configured."""
        if self.config.redis.url is None:
            raise ConfigError(NO_ADDRESS)
        return RedisLink(
            self.config.redis.url.reveal(), prefix=self.config.redis.prefix, client_name="theo-router-cli"
        )

    @asynccontextmanager
    async def wire(self, *, timeout_s: float = 5.0) -> AsyncIterator[Wire]:
        """A connection for the body. What Redis raises there becomes RedisUnreachable or RedisRefused."""
        link = self.link()
        wire = link.wire(timeout_s=timeout_s)
        try:
            yield wire
        except ResponseError as error:
            raise RedisRefused(f"Redis at {link.shown} refused the command: {error}") from error
        except RedisError as error:
            raise link.unreachable(error) from error
        finally:
            await wire.close()


def find_target(config: Path | None, redis_url: str | None) -> Target:
    """Raises ConfigError. Without any configuration file the defaults hold, and Redis is as told."""
    overrides = Overrides(redis_url=redis_url)
    try:
        return Target(config=load_config(config, overrides=overrides, serving=False))
    except ConfigNotFound:
        if config is not None or os.environ.get("THEO_CONFIG"):
            raise
    defaults = parse_config({}, folder=Path.cwd(), env=os.environ, overrides=overrides, serving=False)
    return Target(config=defaults)
