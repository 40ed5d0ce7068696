"""What the registry keeps of a job, and the rules for it. Pure: time comes in as an argument.

A job is *open* from its acceptance until its end has been published, and *ended* from its end for 24 hours. Between the
end and its publication it is both: that is how a published end is told from one that still has to be.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence, Set
from typing import Literal, Optional

import msgspec

from fleet_wire import events

Moment = events.Time


class Message(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["system", "user", "assistant"]
    content: str


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one agent."""

    job_id: events.Id
    agent_id: events.Id
    role: events.Role
    phase: events.Id
    item: events.OptionalId = ""
    messages: list[Message]
    max_tokens: int
    temperature: float
    seed: int


class JobClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A job id, taken: by which deliberation, with what content."""

    deliberation_id: events.Id
    content_hash: str


class OpenJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job whose end is not published. `actor` had it last, since `handed_at`; `attempt` counts such hand-overs from 1."""

    deliberation_id: events.Id
    task_id: events.Id
    spec: JobSpec
    deadline: Moment
    accepted_at: Moment
    actor: str = ""
    handed_at: Moment
    attempt: int = 1
    traceparent: str = ""

    @property
    def key(self) -> str:
        return f"{self.deliberation_id}.{self.spec.job_id}"


class EndedJob(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended: the very event that is published."""

    result: events.AgentResult
    accepted_at: Moment
    ended_at: Moment
    actor: str = ""

    @property
    def key(self) -> str:
        return f"{self.result.deliberation_id}.{self.result.job_id}"


class PoolClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Which pool takes new jobs: that of the executor that was started last, at `claimed_at`."""

    pool: str
    claimed_at: Moment


def content_hash(deliberation_id: str, task_id: str, spec: JobSpec) -> str:
    """What makes a job the same as a repeated one. The deadline is not part of it: a repeated request may bring a later one,
    and the first one stands."""
    return hashlib.sha256(msgspec.json.encode([deliberation_id, task_id, spec])).hexdigest()


def handed_on(job: OpenJob, actor: str, now: dt.datetime) -> OpenJob:
    """The job in the hands of another actor, or again of the same."""
    return msgspec.structs.replace(job, actor=actor, handed_at=now, attempt=job.attempt + 1)


def failed(job: OpenJob, error: events.JobError, now: dt.datetime, timing: Optional[events.Timing] = None) -> EndedJob:
    """The end of a job without an answer."""
    timing = timing or events.Timing(total_seconds=seconds_since(job.accepted_at, now))
    return _ended(job, now, status="failed", error=error, timing=timing)


def completed(  # the parts of an answer, each with its name
    job: OpenJob, content: str, model: str, usage: events.Usage, timing: events.Timing, now: dt.datetime
) -> EndedJob:
    """The end of a job with an answer, cut where it is above the limit of an event."""
    text, is_cut = events.cut(content)
    return _ended(
        job, now, status="completed", content=text, content_cut=is_cut, model=model, usage=usage, timing=timing
    )


def deadline_error(deadline: dt.datetime) -> events.JobError:
    moment = deadline.astimezone(dt.timezone.utc).isoformat(timespec="milliseconds")
    return events.JobError(kind="deadline", message=f"not done by the deadline {moment}", retryable=False)


def seconds_since(start: dt.datetime, now: dt.datetime) -> float:
    """Never negative: the clocks of two machines may differ."""
    return max(0.0, (now - start).total_seconds())


def _ended(job: OpenJob, now: dt.datetime, **outcome: object) -> EndedJob:
    spec = job.spec
    result = events.AgentResult(
        job_id=spec.job_id,
        deliberation_id=job.deliberation_id,
        task_id=job.task_id,
        agent_id=spec.agent_id,
        role=spec.role,
        phase=spec.phase,
        item=spec.item,
        attempt=job.attempt,
        **outcome,  # type: ignore[arg-type]
    )
    return EndedJob(result=result, accepted_at=job.accepted_at, ended_at=now, actor=job.actor)


class ActorView(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor said of itself, or, with `silent_seconds`, for how long it has said nothing."""

    name: str
    held: frozenset[str] = frozenset()
    draining: bool = False
    incarnation: str = ""
    model: str = ""
    silent_seconds: float = 0
    lost_before: Optional[Moment] = None
    """What it was given before this moment, and does not hold, it has lost: it was started anew, or refused it."""

    @property
    def answers(self) -> bool:
        return self.silent_seconds == 0


GRACE = dt.timedelta(seconds=30)
"""A job handed over less than this ago may not be in its actor's list yet: on a busy machine that takes a while. What is
known to be lost does not wait for it."""
SILENCE = dt.timedelta(seconds=15)
"""An actor that has not answered for this long is taken for lost, and its jobs are handed on. Should it still live, the
first end of a job stands."""
DEADLINE_GRACE = dt.timedelta(seconds=2)
"""How long after a deadline the actor itself may say so, before the executor does."""


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be done about open jobs, by key."""

    hand_on: list[str] = []
    expire: list[str] = []


def due(jobs: Sequence[OpenJob], actors: Mapping[str, ActorView], now: dt.datetime) -> Due:
    """Which open jobs are lost, and which are past their deadline. `now` is a moment before the actors were asked."""
    held: Set[str] = frozenset().union(*(actor.held for actor in actors.values() if actor.answers))
    expire, hand_on = [], []
    for job in jobs:
        if job.deadline + DEADLINE_GRACE <= now:
            expire.append(job.key)
        elif job.key not in held and _is_lost(job, actors.get(job.actor), now):
            hand_on.append(job.key)
    return Due(hand_on=hand_on, expire=expire)


def _is_lost(job: OpenJob, owner: Optional[ActorView], now: dt.datetime) -> bool:
    """Whether an actor that is not known to hold the job will not come to hold it."""
    if owner is None:
        return job.handed_at < now
    if owner.answers and owner.lost_before is not None and job.handed_at < owner.lost_before:
        return True
    if now - job.handed_at < GRACE:
        return False
    return owner.answers or owner.silent_seconds >= SILENCE.total_seconds()
