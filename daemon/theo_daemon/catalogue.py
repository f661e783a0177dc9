"""Which models may answer a job: names asked for, resolved to candidates."""

from __future__ import annotations

from msgspec import Struct

from theo_daemon.config import Config, ModelConfig
from theo_daemon.preflight import room


class Route(Struct, frozen=True):
    """`name` is the model or group asked for; it is part of the cache key."""

    name: str
    candidates: tuple[ModelConfig, ...]  # in the order of the configuration; a model alone is its own route
    names: tuple[str, ...]  # of the candidates
    room: int | None = None  # bytes of text that fit them all: see `preflight.room`; None: nothing is refused


class Catalogue:
    """Every route there is, built once, so that resolving a job is a look-up."""

    def __init__(self, config: Config) -> None:
        models = {model.name: model for model in config.models}
        self._routes = {name: _route(name, (model,)) for name, model in models.items()}
        for name, members in config.groups.items():
            self._routes[name] = _route(name, tuple(models[member] for member in members))
        self._default = self._routes.get(config.routing.default or "")
        self._of_workflow = {name: self._routes[one.model] for name, one in config.workflows.items()}

    def resolve(self, model: str | None, workflow: str) -> Route | None:
        """The route of `model`, if the job names one; else its workflow's, else the default. None: unknown."""
        if model is not None:
            return self._routes.get(model)
        return self._of_workflow.get(workflow, self._default)


def _route(name: str, candidates: tuple[ModelConfig, ...]) -> Route:
    return Route(name, candidates, tuple(one.name for one in candidates), room(candidates))
