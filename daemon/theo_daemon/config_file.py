"""Finds and reads the configuration file."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from theo_daemon.config import Config
from theo_daemon.config_parse import Overrides, parse_config
from theo_workers.errors import ConfigError

LOCAL_FILE = Path("theo-router.toml")
SYSTEM_FILE = Path("/etc/theo-router/config.toml")

_MAX_BYTES = 4_000_000


class ConfigNotFound(ConfigError):
    """There is no configuration file; the message says where it was looked for."""


def load_config(
    path: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Overrides | None = None,
    *,
    serving: bool = True,
) -> Config:
    """The configuration in `path`, else where `find_config` finds it. `env` is the process's unless given.

    Unless `serving`, the models' credentials are left out. Raises ConfigError; ConfigNotFound if there is no file.
    """
    env = os.environ if env is None else env
    found = Path(os.path.abspath(find_config(path, env)))
    raw, warnings = _read(found)
    return parse_config(
        raw,
        folder=found.parent,
        env=env,
        overrides=overrides,
        serving=serving,
        source=found,
        warnings=warnings,
    )


def find_config(path: str | Path | None, env: Mapping[str, str]) -> Path:
    """`path` (from the command line), else THEO_CONFIG, else the usual places. Raises ConfigNotFound."""
    for origin, name in (("", path), ("THEO_CONFIG: ", env.get("THEO_CONFIG"))):
        if name:
            if not Path(name).exists():
                raise ConfigNotFound(f"{origin}there is no file {Path(name).absolute()}")
            return Path(name)
    usual = (LOCAL_FILE, SYSTEM_FILE)
    for candidate in usual:
        if candidate.is_file():
            return candidate
    looked = "\n  ".join(str(candidate.absolute()) for candidate in usual)
    raise ConfigNotFound(
        f"no configuration file. --config and THEO_CONFIG name none, and there is none at\n  {looked}"
    )


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The file's tables, and what is doubtful about the file itself."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path} is larger than {_MAX_BYTES} bytes: is it the right file?")
    try:
        raw = tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: see byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deep") from None
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "everyone" if mode & stat.S_IWOTH else "its group"
        return raw, [
            f"{path}: {who} may change this file (mode {stat.S_IMODE(mode):04o}); chmod go-w is safer"
        ]
    return raw, []
