"""What the registry keeps of a job, and the rules for it. Pure: time comes in as an argument.

A job is *open* from its acceptance until its end has been published, and *ended* from its end for 24 hours. Between the
end and its publication it is both: that is how a published end is told from one that still has to be.
"""

import datetime as dt
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal, Optional

import msgspec

from fleet_wire import events
from fleet_wire.redaction import redact_struct

Moment = events.Time


class Message(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["system", "user", "assistant"]
    content: str


class CheckList(msgspec.Struct, frozen=True, kw_only=True):
    """What is checked of an answer: `names` of checks, what `requirements` compares with, the rules of `policy` as JSON."""

    names: list[str]
    requirements: list[str] = []
    policy: str = ""


class CodeTest(msgspec.Struct, frozen=True, kw_only=True):
    test_id: events.Id
    code: str


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """A program to run against each test; `seconds` is the time for one, 0 takes the setting."""

    program: str
    tests: list[CodeTest]
    seconds: float = 0


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one agent: of its model by `messages`, or, with none, what to run. `response_schema` is a JSON Schema
    as JSON, or empty."""

    job_id: events.Id
    agent_id: events.Id
    role: events.Role
    phase: events.Id
    item: events.OptionalId = ""
    messages: list[Message] = []
    max_tokens: int = 0
    temperature: float = 0
    seed: int = 0
    response_schema: str = ""
    checks: Optional[CheckList] = None
    dry_run: Optional[DryRun] = None


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
    cancelled: bool = False
    """Whether its cancelling was accepted: then it ends as cancelled, whoever has it, unless it has ended."""

    @property
    def key(self) -> str:
        return f"{self.deliberation_id}.{self.spec.job_id}"


class EndedJob(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended: the very event that is published, without secrets."""

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


def content(deliberation_id: str, task_id: str, spec: JobSpec) -> list[object]:
    """What makes a job the same as a repeated one. The deadline is not part of it: a repeated request may bring a later one,
    and the first one stands."""
    return [deliberation_id, task_id, spec]


def handed_on(job: OpenJob, actor: str, now: dt.datetime) -> OpenJob:
    """The job in the hands of another actor, or again of the same."""
    return msgspec.structs.replace(job, actor=actor, handed_at=now, attempt=job.attempt + 1)


def failed(
    job: OpenJob, error: events.JobError, now: dt.datetime, timing: Optional[events.Timing] = None, **spent: Any
) -> EndedJob:
    """The end of a job without an answer that could be used. `spent` are further fields of the result: `content` that is
    kept of it, its `model`, what it used."""
    timing = timing or events.Timing(total_seconds=seconds_since(job.accepted_at, now))
    return _ended(job, now, spent.pop("content", ""), status="failed", error=error, timing=timing, **spent)


def completed(  # the parts of an answer, each with its name
    job: OpenJob, content: str, model: str, usage: events.Usage, timing: events.Timing, now: dt.datetime, **found: Any
) -> EndedJob:
    """The end of a job with an answer, cut where it is above the limit of an event. `found` are further fields of the
    result: `checks`, `runs`, `calls`."""
    return _ended(job, now, content, status="completed", model=model, usage=usage, timing=timing, **found)


def deadline_error(deadline: dt.datetime) -> events.JobError:
    moment = deadline.astimezone(dt.timezone.utc).isoformat(timespec="milliseconds")
    return events.JobError(kind="deadline", message=f"not done by the deadline {moment}", retryable=False)


def cancelled_error() -> events.JobError:
    return events.JobError(kind="cancelled", message="the deliberation was cancelled", retryable=False)


def calls_model(job: OpenJob) -> bool:
    """Whether the job asks the model; a dry run does not."""
    return bool(job.spec.messages)


def seconds_since(start: dt.datetime, now: dt.datetime) -> float:
    """Never negative: the clocks of two machines may differ."""
    return max(0.0, (now - start).total_seconds())


def _ended(job: OpenJob, now: dt.datetime, content: str, **outcome: object) -> EndedJob:
    """With the content without secrets, and then cut: a secret that a cut would go through is no longer there."""
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
        content=content,
        **outcome,  # type: ignore[arg-type]
    )
    result = redact_struct(result)
    text, is_cut = events.cut(result.content)
    result = msgspec.structs.replace(result, content=text, content_cut=is_cut)
    return EndedJob(result=result, accepted_at=job.accepted_at, ended_at=now, actor=job.actor)


class ActorView(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor said of itself, or, with `silent_seconds`, for how long it has said nothing."""

    name: str
    held: frozenset[str] = frozenset()
    draining: bool = False
    incarnation: str = ""
    model: str = ""
    node: str = ""
    """Ray's id of the node that it runs on."""
    pid: int = 0
    """Its process there; 0 where that is not known."""
    connected: bool = True
    """Whether it has its connection to NATS. Actors of earlier releases do not say."""
    metrics: Optional[bool] = None
    """Whether the model server says how many requests wait there; None where it was not asked since the last answer."""
    waiting: float = 0
    """How many, where `metrics` is true."""
    silent_seconds: float = 0
    lost_before: Optional[Moment] = None
    """What it was given before this moment, and does not hold, it has lost: it was started anew, refused it, or did not get
    it."""

    @property
    def answers(self) -> bool:
        return self.silent_seconds == 0


MAX_JOBS = 256
"""In a request, and in a call of an actor: the largest ones make a hundred megabytes, and a line to the driver takes 256 MiB."""
GRACE = dt.timedelta(seconds=30)
"""A job handed over less than this ago may not be in its actor's list yet: on a busy machine that takes a while. What is
known to be lost does not wait for it."""
SILENCE = dt.timedelta(seconds=15)
"""An actor that has not answered for this long is taken for lost: its jobs are handed on, and its process is ended, if there
still is one, so that Ray starts it anew. Should it live all the same, the first end of a job stands."""
DEADLINE_GRACE = dt.timedelta(seconds=2)
"""How long after a deadline the actor itself may say so, before the executor does."""


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be done about open jobs, by key."""

    hand_on: list[str] = []
    expire: list[str] = []
    cancel: list[str] = []


def due(jobs: Sequence[OpenJob], actors: Mapping[str, ActorView], now: dt.datetime) -> Due:
    """Which open jobs are lost, past their deadline, or cancelled and not ended: whoever cancelled them did not come to the
    end of it. `now` is a moment before the actors were asked."""
    held: Set[str] = frozenset().union(*(actor.held for actor in actors.values() if actor.answers))
    expire, hand_on, cancel = [], [], []
    for job in jobs:
        if job.cancelled:
            cancel.append(job.key)
        elif job.deadline + DEADLINE_GRACE <= now:
            expire.append(job.key)
        elif job.key not in held and _is_lost(job, actors.get(job.actor), now):
            hand_on.append(job.key)
    return Due(hand_on=hand_on, expire=expire, cancel=cancel)


def _is_lost(job: OpenJob, owner: Optional[ActorView], now: dt.datetime) -> bool:
    """Whether an actor that is not known to hold the job will not come to hold it."""
    if owner is None:
        return job.handed_at < now
    if owner.answers and owner.lost_before is not None and job.handed_at < owner.lost_before:
        return True
    if not owner.answers:
        return owner.silent_seconds >= SILENCE.total_seconds()
    return now - job.handed_at >= GRACE
