"""What comes in: an entry becomes a job on a route, or a refusal with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from theo_daemon.catalogue import Catalogue, Route
from theo_daemon.entry import decode, too_large
from theo_daemon.job import Delivery, Envelope, Job, JobOutcome
from theo_daemon.key import cache_key
from theo_daemon.ledger.records import Check, PriorAttempt
from theo_daemon.outcomes import failed, with_prior
from theo_daemon.ports import DeadLetter
from theo_daemon.salvage import salvage
from theo_workers.errors import (
    GenerationError,
    InvalidJob,
    JobRefused,
    PayloadTooLarge,
    ReplyToNotAllowed,
    UnknownModel,
)

TRUNCATED_FIELD_BYTES = 1024


class Accepted(Struct, frozen=True):
    """A job that can run."""

    delivery: Delivery
    job: Job
    route: Route
    key: str
    size: int  # bytes of the entry


class Refused(Struct, frozen=True):
    """A job that cannot, and what is told of it, unless its `past` is on record and says otherwise."""

    envelope: Envelope
    lane: str
    outcome: JobOutcome
    dead: DeadLetter | None
    past: Check | None = None  # another process had it
    stream_gone: Envelope | None = None  # its own, where only the key that it names is in the way


class Reception:
    """Decodes and resolves. Pure, but for the count that it reports."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        max_job_bytes: int,
        reply_refusal: Callable[[str], str | None],
        on_refusal: Callable[[Refused], None],
    ) -> None:
        self._catalogue, self._max_job_bytes = catalogue, max_job_bytes
        self._reply_refusal = reply_refusal
        self.count_refusal = on_refusal

    def receive(self, delivery: Delivery) -> Accepted | Refused:
        """Never raises for what a client sent."""
        try:
            job = decode(delivery, max_job_bytes=self._max_job_bytes)
        except JobRefused as refusal:
            return self._refuse(salvage(delivery), refusal, delivery)
        reply_to = job.envelope.reply_to
        if reply_to is not None and (why := self._reply_refusal(reply_to)) is not None:
            return self._refuse(job.envelope, ReplyToNotAllowed(why), delivery, job)
        route = self._catalogue.resolve(job.model, job.workflow)
        if route is None:
            return self._refuse(job.envelope, _unknown(job), delivery, job)
        size = sum(map(len, delivery.fields))
        return Accepted(delivery, job, route, cache_key(route.name, job.content), size)

    def refuse_unread(self, delivery: Delivery, size: int) -> Refused:
        """An entry that is too large to be read as a whole; `delivery` has the beginnings of its fields."""
        error = too_large(size, self._max_job_bytes)
        return self._refuse(salvage(delivery), error, delivery)

    def refuse_for_good(
        self,
        delivery: Delivery,
        error: GenerationError,
        *,
        deaths: int,
        prior: Sequence[PriorAttempt],
        legible: bool,
    ) -> Refused:
        """An entry that too many processes have died over. Unless `legible` not even its envelope is read."""
        envelope = salvage(delivery) if legible else Envelope(ref=delivery.ref, id=delivery.ref.entry_id)
        if envelope.reply_to is not None and self._reply_refusal(envelope.reply_to) is not None:
            envelope = _without_reply_to(envelope)
        outcome = with_prior(failed(error), prior)
        letter = DeadLetter(
            fields=delivery.fields, reason=outcome.message, code=error.code, deliveries=deaths
        )
        return Refused(envelope, delivery.lane, outcome, letter)

    def refuse_reply_to(self, accepted: Accepted) -> Refused:
        """The reply stream turned out to be a key of another type."""
        error = ReplyToNotAllowed("reply_to is a Redis key that is not a stream")
        envelope = accepted.job.envelope
        refused = self._refuse(envelope, error, accepted.delivery, accepted.job)
        return structs.replace(refused, stream_gone=envelope)

    def _refuse(
        self, envelope: Envelope, error: JobRefused, delivery: Delivery, job: Job | None = None
    ) -> Refused:
        reply_to = envelope.reply_to
        if reply_to is not None and (
            isinstance(error, ReplyToNotAllowed) or self._reply_refusal(reply_to) is not None
        ):
            envelope = _without_reply_to(envelope)
        past = _past(delivery, job) if delivery.redelivered else None
        return Refused(envelope, delivery.lane, failed(error), _dead_letter(error, delivery), past)


def _past(delivery: Delivery, job: Job | None) -> Check:
    """The question what is on record of this entry. Its own id answers by the entry, whatever its digest was."""
    if job is None:
        return Check(ref=delivery.ref, digest="", redelivered=True)
    return Check(ref=delivery.ref, digest="", tenant=job.tenant, client_id=job.client_id, redelivered=True)


def _unknown(job: Job) -> UnknownModel:
    if job.model is None:
        return UnknownModel("the job names no model, and neither its workflow nor routing.default does")
    return UnknownModel(f"no model or group is named {job.model[:64]!r}")


def _dead_letter(error: JobRefused, delivery: Delivery) -> DeadLetter | None:
    """Unreadable jobs are kept as they came, too large ones cut; the other refusals are answered, and that is all."""
    match error:
        case InvalidJob():
            return DeadLetter(fields=delivery.fields, reason=error.detail, code=error.code)
        case PayloadTooLarge():
            cut = [field[:TRUNCATED_FIELD_BYTES] for field in delivery.fields]
            return DeadLetter(fields=cut, reason=error.detail, code=error.code)
        case _:
            return None


def _without_reply_to(envelope: Envelope) -> Envelope:
    return Envelope(
        ref=envelope.ref,
        id=envelope.id,
        tenant=envelope.tenant,
        traceparent=envelope.traceparent,
        tracestate=envelope.tracestate,
        metadata=envelope.metadata,
    )
