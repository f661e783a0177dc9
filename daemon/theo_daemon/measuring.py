"""Counts a job's prompt for its candidates: for their context windows, and for what a long one may cost."""

from __future__ import annotations

from theo_daemon.catalogue import Route
from theo_daemon.ceilings import Barred
from theo_daemon.config import ModelConfig
from theo_daemon.fleet import LARGE_BYTES, Fleet
from theo_daemon.flight import Flight
from theo_daemon.job import Job
from theo_daemon.preflight import Misfit, misfit, refusal, surely_fits
from theo_workers.tokens.count import Count, Measure


class Measuring:
    """Counts as little as it can: not at all where the job's bytes fit, and a long text in a thread."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._counter = fleet, fleet.counter

    def is_due(self, flight: Flight) -> bool:
        """Must the flight be held against its candidates' windows, or its cost be counted off the loop?"""
        names = flight.names
        if flight.measured is names:
            return False
        lead, route = flight.lead, flight.route
        if lead.size > LARGE_BYTES or names is not route.names:
            return True
        flight.measured = names
        return route.room is not None and not surely_fits(lead.job, lead.size, route.room)

    async def measure(self, flight: Flight) -> None:
        """Take the candidates away that cannot take the job; no call is made, no breaker hears of it."""
        flight.measured = flight.names
        job, large = flight.lead.job, flight.lead.size > LARGE_BYTES
        known: dict[tuple[str, str, bool], Measure] = {}
        misfits: list[Misfit] = []
        for name in flight.names:
            member = self._fleet[name]
            config, priced = member.config, large and not member.free
            if not priced and (config.context_window is None or self._is_short(job, config)):
                continue
            key = (config.provider, config.model, priced)
            if key not in known:
                known[key] = await self.count(job, config, bound=priced)
            measure = known[key]
            if priced and measure.bound is not None:
                flight.prompt_bounds[name] = measure.bound
            found = misfit(job, config, measure.count.tokens, measure.count.source)
            if found is not None:
                misfits.append(found)
        if misfits:
            barred = Barred(refusal(misfits), own=False)
            for one in misfits:
                flight.bar(one.model, barred)

    async def rehearse(self, route: Route, job: Job) -> None:
        """Count all there is to count, for what may come of it."""
        for config in route.candidates:
            if config.context_window is not None or not self._fleet[config.name].free:
                await self.count(job, config, bound=True)

    async def count(self, job: Job, config: ModelConfig, *, bound: bool) -> Measure:
        """The prompt's tokens in this model, and with `bound` the most that they can be; long texts in a thread."""
        if bound:
            return await self._counter.measure_request_async(
                job.messages, job.params, provider=config.provider, model=config.model
            )
        count: Count = await self._counter.count_request_async(
            job.messages, job.params, provider=config.provider, model=config.model
        )
        return Measure(count, None)

    def _is_short(self, job: Job, config: ModelConfig) -> bool:
        """Does it fit by its length alone? Much cheaper to know than how many tokens it has."""
        bound = self._counter.loose_bound_request(
            job.messages, job.params, provider=config.provider, model=config.model
        )
        return bound is not None and misfit(job, config, bound, "tokenizer") is None
