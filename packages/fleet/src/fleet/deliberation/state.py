"""One deliberation as a small record, moved only by `advance`; what must be done next is derived from it by `due`.

    preparing ──prompt frozen, jobs accepted──▶ running ──every seat ended | deadline──▶ deciding ──▶ completed | failed
        └────────────── no council | broke | deadline ───────────────────────────────────────┘

A command stays due until the event that confirms its effect has been folded in, so that a crash between saving the state and
carrying a command out loses nothing. `deciding` freezes what is counted: from there on the outcome is a function of the record
and of the results it names.
"""

import datetime as dt
from typing import Literal, Union

import msgspec
from msgspec import Struct

from fleet_wire.events import FailureReason, JobError, PlanTask, StoryPhase

DeliberationStatus = Literal["preparing", "running", "deciding", "completed", "failed"]
SeatStatus = Literal["waiting", "completed", "failed"]
ENDED = ("completed", "failed")
LIVE = ("preparing", "running", "deciding")


class Seat(Struct, frozen=True, kw_only=True):
    """One agent of the council with its one job in this deliberation."""

    agent_id: str
    job_id: str
    status: SeatStatus = "waiting"
    error: JobError | None = None


class Deliberation(Struct, frozen=True, kw_only=True):
    """The record. `plan_id` and `story_id` are empty for an ad-hoc request; `request_hash` tells such requests apart.

    `closed_at` is the moment the counted set was frozen, `closed_by` why: the failure it is where that set misses the quorum.
    """

    deliberation_id: str
    plan_id: str
    story_id: str
    phase: StoryPhase
    task: PlanTask
    number: int
    protocol: str
    seats: tuple[Seat, ...]
    quorum: int
    created_at: dt.datetime
    deadline: dt.datetime
    based_on: tuple[str, ...] = ()
    request_hash: str = ""
    status: DeliberationStatus = "preparing"
    announced: bool = False
    scheduled: bool = False
    prompt_hash: str = ""
    submitted: bool = False
    closed_at: dt.datetime | None = None
    closed_by: FailureReason | Literal["all_ended"] | None = None
    detail: str = ""
    decision_id: str = ""
    reason: FailureReason | None = None
    reported: bool = False
    retired: bool = False


class Announced(Struct, frozen=True):
    """`orchestration.deliberation.started` is published."""


class Scheduled(Struct, frozen=True):
    """The deadline is a scheduled message."""


class Prepared(Struct, frozen=True):
    """The prompt is frozen under this hash."""

    prompt_hash: str


class Submitted(Struct, frozen=True):
    """The executor has accepted every job."""


class SubmissionLost(Struct, frozen=True):
    """The executor does not know a job whose seat still waits: submit again, which repeats none that it knows."""


class SeatEnded(Struct, frozen=True):
    """A result has been saved. `error` is None for an answer."""

    job_id: str
    error: JobError | None
    at: dt.datetime


class DeadlinePassed(Struct, frozen=True):
    """Somebody looked at the clock. Nothing happens where it is still before the deadline."""

    at: dt.datetime


class Broke(Struct, frozen=True):
    """It cannot go on, and no repetition mends that."""

    detail: str
    at: dt.datetime


class OutcomePublished(Struct, frozen=True):
    """`completed` (with its decision) or `failed` (with its reason) is published."""

    decision_id: str
    reason: FailureReason | None


class Reported(Struct, frozen=True):
    """The plan knows the outcome."""


class Retired(Struct, frozen=True):
    """The timer is taken back, and results and outcome have been given their time to live: what stays is a stub."""


DeliberationEvent = Union[
    Announced,
    Scheduled,
    Prepared,
    Submitted,
    SubmissionLost,
    SeatEnded,
    DeadlinePassed,
    Broke,
    OutcomePublished,
    Reported,
    Retired,
]
Command = Literal["announce", "schedule", "prepare", "submit", "decide", "report", "retire"]


def advance(state: Deliberation, event: DeliberationEvent) -> Deliberation:
    """The state after the event. An event that repeats, comes late or does not fit changes nothing."""
    changed = _advance(state, event)
    if changed.status == "preparing" and changed.submitted:
        changed = msgspec.structs.replace(changed, status="running")
    if (
        isinstance(event, SeatEnded)
        and changed.status == "running"
        and all(seat.status != "waiting" for seat in changed.seats)
    ):
        # Workers end their jobs at the deadline too: whoever looks first, the reason is the same.
        return _close(changed, "deadline" if event.at >= changed.deadline else "all_ended", event.at)
    return changed


def due(state: Deliberation) -> tuple[Command, ...]:
    """What must be done now. All of it may be done at once; doing it again does no harm."""
    if state.status in ("preparing", "running"):
        return (
            *(() if state.announced else ("announce",)),
            *(() if state.scheduled else ("schedule",)),
            *(() if state.submitted else ("submit",) if state.prompt_hash else ("prepare",)),
        )
    if state.status == "deciding":
        return ("decide",)
    if not state.reported and state.plan_id:
        return ("report",)
    return () if state.retired else ("retire",)


def counted(state: Deliberation) -> tuple[Seat, ...]:
    """The seats whose answers count: those that had answered when the set was frozen."""
    return tuple(seat for seat in state.seats if seat.status == "completed")


def seat_word(state: Deliberation, seat: Seat) -> str:
    """A seat's state as it is told: waiting, running (the executor has its job), completed or failed."""
    runs = seat.status == "waiting" and state.submitted and state.status in LIVE
    return "running" if runs else seat.status


def stub(task: PlanTask) -> PlanTask:
    """What is kept of a task that has ended: which it was, not its texts."""
    return msgspec.structs.replace(task, description="", requirements=[], acceptance=[])


def default_quorum(agents: int) -> int:
    """Half the agents, rounded down, plus 1."""
    return agents // 2 + 1


def _advance(state: Deliberation, event: DeliberationEvent) -> Deliberation:
    replace = msgspec.structs.replace
    open_ = state.status in ("preparing", "running")
    match event:
        case Announced():
            return replace(state, announced=True)
        case Scheduled():
            return replace(state, scheduled=True)
        case Prepared(prompt_hash) if not state.prompt_hash:
            return replace(state, prompt_hash=prompt_hash)
        case Submitted() if open_:
            return replace(state, submitted=True)
        case SubmissionLost() if state.status == "running":
            return replace(state, submitted=False)
        case SeatEnded() if open_:
            # A result proves that the executor has the jobs, even when its answer has not been folded in yet.
            seats = tuple(_ended(seat, event) for seat in state.seats)
            return state if seats == state.seats else replace(state, seats=seats, submitted=True)
        case DeadlinePassed(at) if open_ and at >= state.deadline:
            return _close(state, "deadline", at)
        case Broke(detail, at) if open_:
            return _close(replace(state, detail=detail), "error", at)
        case OutcomePublished(decision_id, reason) if state.status == "deciding":
            status: DeliberationStatus = "completed" if decision_id else "failed"
            return replace(state, status=status, decision_id=decision_id, reason=reason)
        case Reported() if state.status in ENDED:
            return replace(state, reported=True)
        case Retired() if state.status in ENDED:
            return replace(state, retired=True, task=stub(state.task))
    return state


def _ended(seat: Seat, event: SeatEnded) -> Seat:
    if seat.job_id != event.job_id or seat.status != "waiting":
        return seat
    return msgspec.structs.replace(seat, status="failed" if event.error else "completed", error=event.error)


def _close(state: Deliberation, by: FailureReason | Literal["all_ended"], at: dt.datetime) -> Deliberation:
    return msgspec.structs.replace(state, status="deciding", closed_at=at, closed_by=by)
