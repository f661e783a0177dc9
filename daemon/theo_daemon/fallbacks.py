"""Who is asked once a job was refused for what it is: too long for a model, or withheld by a provider's filter. Pure.

Other models of the same route may take what one refuses as too long, if they are known to be roomier; beyond that
only the configuration says who is asked, as `context_window_fallbacks` and `content_policy_fallbacks`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from theo_daemon.config import Config
from theo_workers.errors import ContentFiltered, ContextLengthExceeded

Table = Mapping[str, tuple[str, ...]]


class Detour(Struct, frozen=True):
    """These models instead. `in_order`: the first that can take calls, not one by weight."""

    models: tuple[str, ...]
    in_order: bool


class Fallbacks:
    """The configuration's, with groups resolved to their models."""

    def __init__(self, config: Config) -> None:
        self._windows = {model.name: model.context_window for model in config.models}
        routing = config.routing
        self._tables: dict[str, Table] = {
            ContextLengthExceeded.code: _resolved(routing.context_window_fallbacks, config.groups),
            ContentFiltered.code: _resolved(routing.content_policy_fallbacks, config.groups),
        }

    def after(
        self,
        code: str,
        asked: str,
        *,
        candidates: Iterable[str],
        refused: Collection[str],
        gone: Collection[str],
    ) -> Detour | None:
        """Where a job goes that `refused` (models) refused with `code`; None: that was the last word.

        `asked` is the model or group that the job names, `candidates` are those it had so far, `gone` those
        that were tried or are barred. A table's row for what was asked comes first, then those for the models
        that refused, so a fallback may have fallbacks of its own.
        """
        table = self._tables.get(code)
        if table is None:
            return None
        too_small = self._window_of(refused) if code == ContextLengthExceeded.code else None
        if too_small is not None:
            roomier = tuple(
                name for name in candidates if name not in gone and (self._windows.get(name) or 0) > too_small
            )
            if roomier:
                return Detour(roomier, in_order=False)
        listed = dict.fromkeys(name for key in (asked, *refused) for name in table.get(key, ()))
        models = tuple(
            name for name in listed if name not in gone and not self._is_no_roomier(name, too_small)
        )
        return Detour(models, in_order=True) if models else None

    def _window_of(self, refused: Iterable[str]) -> int | None:
        """The largest window that is known to be too small."""
        windows = [window for name in refused if (window := self._windows.get(name)) is not None]
        return max(windows, default=None)

    def _is_no_roomier(self, name: str, too_small: int | None) -> bool:
        window = self._windows.get(name)
        return too_small is not None and window is not None and window <= too_small


def _resolved(rows: Table, groups: Mapping[str, tuple[str, ...]]) -> Table:
    """Rows of models alone: groups stand for their models, in their order, and nobody is listed twice."""
    return {
        key: tuple(dict.fromkeys(model for name in names for model in groups.get(name, (name,))))
        for key, names in rows.items()
    }
