"""One deliberation as a small record, moved only by `advance`; what must be done next is derived from it by `due`.

    preparing ──first jobs chosen, accepted──▶ running ──no phase left | deadline | cancelled──▶ deciding ──▶ completed | failed
        │                                      │     ▲
        │                                      └─────┘ every job of the phase ended: `turn` opens the next one
        └───── no council | broke | deadline | cancelled ─────▶ deciding

A command stays due until the event that confirms its effect has been folded in, so that a crash between saving the state and
carrying a command out loses nothing. `deciding` freezes what is counted: from there on the outcome is a function of the record
and of the results it names. Which phases there are, and who works in them, is the protocol's: `turn.turn` makes of a record and
its results the `PhaseOpened` that is folded in here.
"""

import datetime as dt
from typing import Literal, Union

import msgspec
from msgspec import Struct

from fleet_wire.events import Budget, FailureReason, JobError, PlanTask, SkippedPhase, StoryPhase

DeliberationStatus = Literal["preparing", "running", "deciding", "completed", "failed"]
JobStatus = Literal["waiting", "completed", "failed"]
Phase = Literal["propose", "tests", "dry_run", "critique", "revise", "rerun", "judge"]
"""What a job does: propose; write tests, blind to the proposals; run a proposal against all tests; criticise one; revise one's
own; run a revision; judge a pair."""
ENDED = ("completed", "failed")
LIVE = ("preparing", "running", "deciding")


class Job(Struct, frozen=True, kw_only=True):
    """One agent's work in one phase. `item` tells several of an agent in a phase apart. `tokens` and `calls` are what it may
    use while it waits, and what it used once it has ended."""

    job_id: str
    agent_id: str
    phase: Phase
    item: str = ""
    status: JobStatus = "waiting"
    error: JobError | None = None
    tokens: int = 0
    calls: int = 0


class Deliberation(Struct, frozen=True, kw_only=True):
    """The record. `plan_id` and `story_id` are empty for an ad-hoc request; `request_hash` tells such requests apart.

    `protocol` is what was asked for until it is prepared, then what was chosen. `seats` are the agents of the council that
    propose and judge, `testers` those that write tests. `jobs` are those of all phases so far, `phase` is the one that runs,
    its jobs to be done by `until`. `replay_of` names a deliberation whose answers to the same questions are taken over.
    `response_schema` is the form that every proposal must have, as JSON Schema; empty for free text. `max_tokens` is what
    an agent may write at a time, 0 for the service's setting.
    `scheduled` says that the deadline is a scheduled message, or so far away that a sweep makes it one in time.
    `closed_at` is the moment the counted set was frozen, `closed_by` why: the failure it is where that set misses the quorum.
    """

    deliberation_id: str
    plan_id: str
    story_id: str
    story_phase: StoryPhase
    task: PlanTask
    number: int
    protocol: str
    seats: tuple[str, ...]
    testers: tuple[str, ...] = ()
    quorum: int
    created_at: dt.datetime
    deadline: dt.datetime
    numbers: dict[str, float] = {}
    budget: Budget = Budget()
    based_on: tuple[str, ...] = ()
    request_hash: str = ""
    replay_of: str = ""
    response_schema: str = ""
    max_tokens: int = 0
    status: DeliberationStatus = "preparing"
    scheduled: bool = False
    announced: bool = False
    prompt_hash: str = ""
    chosen_because: str = ""
    phase: Phase | Literal[""] = ""
    until: dt.datetime | None = None
    jobs: tuple[Job, ...] = ()
    submitted: bool = False
    skipped: tuple[SkippedPhase, ...] = ()
    closed_at: dt.datetime | None = None
    closed_by: FailureReason | Literal["all_ended"] | None = None
    detail: str = ""
    stopped: bool = False
    decision_id: str = ""
    reason: FailureReason | None = None
    reported: bool = False
    retired: bool = False


class Scheduled(Struct, frozen=True):
    """The deadline is a scheduled message."""


class Prepared(Struct, frozen=True, kw_only=True):
    """The prompt is frozen under this hash, and with it protocol and numbers. `superseded_by` names the decisions that stand in
    it in the place of ones that the task was to build on."""

    prompt_hash: str
    protocol: str
    numbers: dict[str, float]
    chosen_because: str
    superseded_by: dict[str, str] = {}


class PhaseOpened(Struct, frozen=True, kw_only=True):
    """What follows on the phase `after` (empty at the start): the jobs of the next one, and phases left out on the way."""

    after: str
    phase: Phase
    jobs: tuple[Job, ...]
    until: dt.datetime
    skipped: tuple[SkippedPhase, ...] = ()


class PhasesDone(Struct, frozen=True, kw_only=True):
    """No phase follows on the phase `after`: what there is decides, or fails for the `by`."""

    after: str
    at: dt.datetime
    by: FailureReason | Literal["all_ended"] = "all_ended"
    detail: str = ""
    skipped: tuple[SkippedPhase, ...] = ()


class Announced(Struct, frozen=True):
    """`orchestration.deliberation.started` is published."""


class Submitted(Struct, frozen=True):
    """The executor has accepted every job of this phase."""

    phase: str


class SubmissionLost(Struct, frozen=True):
    """The executor does not know a job that still waits: submit again, which repeats none that it knows."""


class JobEnded(Struct, frozen=True):
    """A result has been saved. `error` is None for an answer; `tokens` and `calls` are what the job used."""

    job_id: str
    error: JobError | None
    at: dt.datetime
    tokens: int = 0
    calls: int = 0


class DeadlinePassed(Struct, frozen=True):
    """Somebody looked at the clock. Nothing happens where it is still before the deadline."""

    at: dt.datetime


class Cancelled(Struct, frozen=True):
    """A person, or the plan, wants no decision any more."""

    detail: str
    at: dt.datetime


class Broke(Struct, frozen=True):
    """It cannot go on, and no repetition mends that."""

    detail: str
    at: dt.datetime


class Stopped(Struct, frozen=True):
    """The executor works on no job of it any more."""


class OutcomePublished(Struct, frozen=True):
    """`completed` (with its decision) or `failed` (with its reason) is published."""

    decision_id: str
    reason: FailureReason | None


class Reported(Struct, frozen=True):
    """The plan knows the outcome. That need not stand in the record: the plan's says so."""


class Retired(Struct, frozen=True):
    """Nothing is to be done any more: what stays is a stub."""


DeliberationEvent = Union[
    Scheduled,
    Prepared,
    PhaseOpened,
    PhasesDone,
    Announced,
    Submitted,
    SubmissionLost,
    JobEnded,
    DeadlinePassed,
    Cancelled,
    Broke,
    Stopped,
    OutcomePublished,
    Reported,
    Retired,
]
Command = Literal["schedule", "prepare", "turn", "announce", "submit", "stop", "decide", "report", "retire"]


def advance(state: Deliberation, event: DeliberationEvent) -> Deliberation:
    """The state after the event. An event that repeats, comes late or does not fit changes nothing."""
    replace = msgspec.structs.replace
    open_ = state.status in ("preparing", "running")
    match event:
        case Scheduled():
            return replace(state, scheduled=True)
        case Prepared() if open_ and not state.prompt_hash:
            return replace(
                state,
                prompt_hash=event.prompt_hash,
                protocol=event.protocol,
                numbers=event.numbers,
                chosen_because=event.chosen_because,
                based_on=tuple(dict.fromkeys(event.superseded_by.get(base, base) for base in state.based_on)),
            )
        case PhaseOpened() if _may_turn(state, event.after):
            return replace(
                state,
                status="running",
                phase=event.phase,
                jobs=state.jobs + event.jobs,
                until=event.until,
                skipped=state.skipped + event.skipped,
                submitted=False,
            )
        case PhasesDone() if _may_turn(state, event.after):
            done = replace(state, skipped=state.skipped + event.skipped, detail=event.detail)
            return _close(done, event.by, event.at)
        case Announced():
            return replace(state, announced=True)
        case Submitted(phase) if open_ and phase == state.phase:
            return replace(state, submitted=True)
        case SubmissionLost() if state.status == "running" and not _at_rest(state):
            return replace(state, submitted=False)
        case JobEnded() if open_:
            # A result proves that the executor has the jobs, even when its answer has not been folded in yet.
            jobs = tuple(_ended(job, event) for job in state.jobs)
            return state if jobs == state.jobs else replace(state, jobs=jobs, submitted=True)
        case DeadlinePassed(at) if open_ and at >= state.deadline:
            return _close(state, "deadline", at)
        case Cancelled(detail, at) if open_:
            return _close(replace(state, detail=detail), "cancelled", at)
        case Broke(detail, at) if open_:
            return _close(replace(state, detail=detail), "error", at)
        case Stopped() if not open_:
            return replace(state, stopped=True)
        case OutcomePublished(decision_id, reason) if state.status == "deciding":
            status: DeliberationStatus = "completed" if decision_id else "failed"
            return replace(state, status=status, decision_id=decision_id, reason=reason)
        case Reported() if state.status in ENDED:
            return replace(state, reported=True)
        case Retired() if state.status in ENDED:
            return replace(state, retired=True, task=stub(state.task), response_schema="")
    return state


def due(state: Deliberation) -> tuple[Command, ...]:
    """What must be done now. All of it may be done at once; doing it again does no harm."""
    if state.status in ("preparing", "running"):
        return (
            *(() if state.scheduled else ("schedule",)),
            *(() if state.announced or not state.prompt_hash else ("announce",)),
            *(("prepare",) if not state.prompt_hash else ("turn",) if _at_rest(state) else ()),
            *(() if state.submitted or _at_rest(state) else ("submit",)),
        )
    stop: tuple[Command, ...] = ("stop",) if not state.stopped and _may_run(state) else ()
    if state.status == "deciding":
        return (*stop, "decide")
    told = state.reported or not state.plan_id
    if stop:
        return stop if told else (*stop, "report")
    if not state.retired:
        return ("retire",)
    return () if told else ("report",)


def waiting(state: Deliberation) -> tuple[Job, ...]:
    """The jobs that have not ended."""
    return tuple(job for job in state.jobs if job.status == "waiting")


def counted(state: Deliberation, phase: Phase = "propose") -> tuple[Job, ...]:
    """The jobs of a phase whose answers count: those that had ended with one when the set was frozen."""
    return tuple(job for job in state.jobs if job.phase == phase and job.status == "completed")


def spent(state: Deliberation) -> Budget:
    """Tokens and calls of all jobs: what those used that have ended, what those may use that wait."""
    return Budget(tokens=sum(job.tokens for job in state.jobs), calls=sum(job.calls for job in state.jobs))


def job_word(state: Deliberation, job: Job) -> str:
    """A job's state as it is told: waiting, running (the executor has it), completed or failed."""
    runs = job.status == "waiting" and state.submitted and state.status in LIVE
    return "running" if runs else job.status


def stub(task: PlanTask) -> PlanTask:
    """What is kept of a task that has ended: which it was, not its texts."""
    return msgspec.structs.replace(task, description="", requirements=[], acceptance=[])


def needed(state: Deliberation) -> int:
    """How many proposals it takes: the quorum, or that of the seats asked where not all of them are."""
    asked = sum(job.phase == "propose" for job in state.jobs)
    return state.quorum if asked in (0, len(state.seats)) else min(state.quorum, default_quorum(asked))


def default_quorum(agents: int) -> int:
    """Half the agents, rounded down, plus 1."""
    return agents // 2 + 1


def _may_run(state: Deliberation) -> bool:
    """Whether the executor may have jobs that have not ended. The first ones are submitted while they are being saved, so that a
    cancelling may come before that."""
    return bool(waiting(state)) or (state.closed_by == "cancelled" and not state.jobs)


def _at_rest(state: Deliberation) -> bool:
    """Whether no job waits: before the first phase, and between two."""
    return all(job.status != "waiting" for job in state.jobs)


def _may_turn(state: Deliberation, after: str) -> bool:
    """Whether what follows on this phase is still open: the protocol is chosen, and nobody else has turned before."""
    open_ = state.status in ("preparing", "running") and state.prompt_hash
    return bool(open_) and after == state.phase and _at_rest(state)


def _ended(job: Job, event: JobEnded) -> Job:
    if job.job_id != event.job_id or job.status != "waiting":
        return job
    status: JobStatus = "failed" if event.error else "completed"
    return msgspec.structs.replace(job, status=status, error=event.error, tokens=event.tokens, calls=event.calls)


def _close(state: Deliberation, by: FailureReason | Literal["all_ended"], at: dt.datetime) -> Deliberation:
    return msgspec.structs.replace(state, status="deciding", closed_at=at, closed_by=by)
