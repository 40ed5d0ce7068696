"""The progress of one approved plan: a record of its own with a reducer of its own.

    task:  waiting ──all it depends on is decided and remembered, and the budget allows it──▶ running ──▶ decided | failed
              ├──something it depends on failed or was skipped, or the plan was cancelled──▶ skipped
              └──the budget never will──▶ failed
           failed | skipped ──retried──▶ waiting, as its next try, and with it what depends on it and was skipped
           decided, and relies on what was superseded ──retried──▶ waiting, as its next try
           decided, and overruled by a person: never retried

A task starts only when the decisions it depends on are in the graph. That it runs stands in the record before its deliberation
is saved, so that no cancelling and no second replica can miss it. Whoever folds in the last task's end, the plan is closed
once; `orchestration.plan.completed` follows on that, and the plan's marker goes after it. A retry opens a completed plan for
another round.
"""

import datetime as dt
from typing import Literal, Union

import msgspec
from msgspec import Struct

from fleet.deliberation import plan_budget
from fleet.deliberation.state import stub
from fleet_wire import ids
from fleet_wire.events import Budget, PlanTask, StoryPhase

TaskStatus = Literal["waiting", "running", "decided", "failed", "skipped"]
OVER = ("decided", "failed", "skipped")
LOST = ("failed", "skipped")


class TaskProgress(Struct, frozen=True, kw_only=True):
    """One task. `number` is the try it is in, from 1; `remembered` says that its decision is in the graph, and
    `relies_on_superseded` which decisions below that one were superseded since; `overruled` that a person's ruling stands in the
    place of what one of its tries decided.

    While it runs, `started` says that its deliberation is saved, `reserved` is what that may use, and `cancelling`, where it
    is not empty, is why it is still to be cancelled.
    """

    task: PlanTask
    number: int = 1
    status: TaskStatus = "waiting"
    started: bool = False
    reserved: Budget = Budget()
    cancelling: str = ""
    remembered: bool = False
    relies_on_superseded: tuple[str, ...] = ()
    overruled: bool = False
    reason: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """The record. `running` until all of it is over; `round` counts those, the one under way included. `spent` is
    what all tasks that have ended used, all their tries included; `budget` is the limit of it."""

    plan_id: str
    story_id: str
    phase: StoryPhase
    tasks: tuple[TaskProgress, ...]
    started_at: dt.datetime
    budget: Budget = Budget()
    spent: Budget = Budget()
    round: int = 1
    status: Literal["running", "completed"] = "running"
    ended_at: dt.datetime | None = None


class TaskStarted(Struct, frozen=True):
    """The task's deliberation is saved."""

    task_id: str
    number: int


class TaskEnded(Struct, frozen=True):
    """The task's deliberation has ended; an empty `reason` means with a decision. `spent` is what it used."""

    task_id: str
    number: int
    reason: str
    spent: Budget = Budget()


class Remembered(Struct, frozen=True):
    """The graph holds what this deliberation decided."""

    deliberation_id: str


class Flagged(Struct, frozen=True):
    """What this deliberation decided relies on decisions that were superseded. It stays decided: a person may have it retried."""

    deliberation_id: str
    superseded: tuple[str, ...]


class Overruled(Struct, frozen=True):
    """A person's ruling stands in the place of what these deliberations decided."""

    deliberation_ids: frozenset[str]


class Cancelled(Struct, frozen=True):
    """A person wants no more of the plan: what runs is to be cancelled, what waits is skipped."""

    detail: str


class CancelSent(Struct, frozen=True):
    """The task's deliberation knows that it is cancelled."""

    task_id: str
    number: int


class Retried(Struct, frozen=True):
    """A person wants the task tried again. `tasks` are the plan's with their texts, which a completed plan keeps no longer:
    without them it stays as it is."""

    task_id: str
    number: int
    tasks: tuple[PlanTask, ...] = ()


class Closed(Struct, frozen=True):
    """All of this round is over: `orchestration.plan.completed` is published next."""

    at: dt.datetime
    round: int


PlanEvent = Union[TaskStarted, TaskEnded, Remembered, Flagged, Overruled, Cancelled, CancelSent, Retried, Closed]


class Start(Struct, frozen=True):
    """Save this task's deliberation."""

    task_id: str


class Cancel(Struct, frozen=True):
    """Cancel this task's deliberation."""

    task_id: str


class Close(Struct, frozen=True):
    """Complete the plan."""


def opened(plan: Plan) -> Plan:
    """The plan at its start: what depends on nothing runs."""
    return _admit(_skip(plan))


def advance(plan: Plan, event: PlanEvent) -> Plan:
    """The plan after the event. An event that repeats or does not fit changes nothing."""
    replace = msgspec.structs.replace
    match event:
        case TaskStarted(task_id, number):
            return _with(plan, task_id, number, ("running",), started=True)
        case TaskEnded(task_id, number, reason, spent):
            ended: TaskStatus = "failed" if reason else "decided"
            changed = _with(
                plan, task_id, number, ("running",), status=ended, started=True, reason=reason, cancelling=""
            )
            if changed == plan:
                return plan
            return _admit(_skip(replace(changed, spent=plan_budget.plus(plan.spent, spent))))
        case Remembered(deliberation):
            tasks = tuple(
                replace(task, remembered=True) if deliberation_of(plan, task) == deliberation else task
                for task in plan.tasks
            )
            return _admit(replace(plan, tasks=tasks))
        case Flagged(deliberation, superseded):
            tasks = tuple(
                replace(task, relies_on_superseded=tuple(sorted({*task.relies_on_superseded, *superseded})))
                if deliberation_of(plan, task) == deliberation
                else task
                for task in plan.tasks
            )
            return replace(plan, tasks=tasks)
        case Overruled(deliberations):
            tasks = tuple(
                replace(task, overruled=task.overruled or not deliberations.isdisjoint(tries_of(plan, task)))
                for task in plan.tasks
            )
            return replace(plan, tasks=tasks)
        case Cancelled(detail) if plan.status == "running":
            return replace(plan, tasks=tuple(_cancelled(task, detail) for task in plan.tasks))
        case CancelSent(task_id, number):
            return _with(plan, task_id, number, ("running",), started=True, cancelling="")
        case Retried(task_id, number, texts) if plan.status == "running" or texts:
            if any(task.task.task_id == task_id and task.number == number for task in plan.tasks):
                return plan if retry_refused(plan, task_id) else _admit(_skip(_retried(plan, task_id, texts)))
        case Closed(at, round_) if round_ == plan.round and due(plan) == (Close(),):
            tasks = tuple(replace(task, task=stub(task.task)) for task in plan.tasks)
            return replace(plan, status="completed", ended_at=at, tasks=tasks)
    return plan


def due(plan: Plan) -> tuple[Start | Cancel | Close, ...]:
    """What must be done now; doing it again does no harm."""
    if plan.status == "completed":
        return ()
    if all(task.status in OVER for task in plan.tasks):
        return (Close(),)
    return tuple(
        Cancel(task.task.task_id) if task.cancelling else Start(task.task.task_id)
        for task in plan.tasks
        if task.status == "running" and (task.cancelling or not task.started)
    )


def retry_refused(plan: Plan, task_id: str) -> str:
    """Why the task cannot be retried, as a sentence; empty where it can. Raises KeyError for one the plan does not have."""
    task = task_of(plan, task_id)
    if task.overruled and task.status not in LOST:
        return (
            f"task {task_id} was overruled: what a person ruled stands in the place of whatever its council decides; only "
            "another ruling takes that place"
        )
    if task.status not in LOST and not (task.status == "decided" and task.relies_on_superseded):
        return (
            f"task {task_id} is {task.status}: only what failed, was cancelled, or was decided on what is superseded can be "
            "tried again"
        )
    below = [one for one in task.task.depends_on if task_of(plan, one).status in LOST]
    if below:
        return f"task {task_id} was skipped: try {', '.join(below)} again, which it depends on"
    return ""


def reserved(plan: Plan) -> Budget:
    """What is set aside for the tasks that run."""
    total = Budget()
    for task in plan.tasks:
        if task.status == "running":
            total = plan_budget.plus(total, task.reserved)
    return total


def above(plan: Plan, task_id: str) -> frozenset[str]:
    """Ids of the tasks that depend on it, directly or by way of others."""
    found = {task_id}
    while True:
        more = {task.task.task_id for task in plan.tasks if found.intersection(task.task.depends_on)} - found
        if not more:
            return frozenset(found - {task_id})
        found |= more


def task_of(plan: Plan, task_id: str) -> TaskProgress:
    """The task; raises KeyError for one that the plan does not have."""
    for task in plan.tasks:
        if task.task.task_id == task_id:
            return task
    raise KeyError(task_id)


def deliberation_of(plan: Plan, task: TaskProgress) -> str:
    """Id of the task's deliberation in its current try."""
    return ids.deliberation_id(plan.plan_id, task.task.task_id, task.number)


def tries_of(plan: Plan, task: TaskProgress) -> tuple[str, ...]:
    """Ids of the task's deliberations, those of its earlier tries too."""
    tries = range(1, task.number + 1)
    return tuple(ids.deliberation_id(plan.plan_id, task.task.task_id, number) for number in tries)


def decisions_below(plan: Plan, task: TaskProgress) -> tuple[str, ...]:
    """Ids of the decisions the task depends on, in the order of depends_on."""
    return tuple(ids.decision_id(deliberation_of(plan, task_of(plan, below))) for below in task.task.depends_on)


def _with(plan: Plan, task_id: str, number: int, only: tuple[TaskStatus, ...], **fields: str | bool | Budget) -> Plan:
    tasks = tuple(
        msgspec.structs.replace(task, **fields)
        if task.task.task_id == task_id and task.number == number and task.status in only
        else task
        for task in plan.tasks
    )
    return msgspec.structs.replace(plan, tasks=tasks)


def _skip(plan: Plan) -> Plan:
    """Skips, until nothing changes, what depends on something failed or skipped."""
    while True:
        lost = {task.task.task_id for task in plan.tasks if task.status in LOST}
        tasks = tuple(
            msgspec.structs.replace(task, status="skipped", reason=f"depends on {', '.join(sorted(without))}")
            if task.status == "waiting" and (without := lost.intersection(task.task.depends_on))
            else task
            for task in plan.tasks
        )
        if tasks == plan.tasks:
            return plan
        plan = msgspec.structs.replace(plan, tasks=tasks)


def _ready(plan: Plan) -> tuple[TaskProgress, ...]:
    there = {task.task.task_id for task in plan.tasks if task.status == "decided" and task.remembered}
    return tuple(task for task in plan.tasks if task.status == "waiting" and there.issuperset(task.task.depends_on))


def _admit(plan: Plan) -> Plan:
    """Lets run, one after the other, what waits for nothing and has its part of the budget. What the budget will never allow
    fails; what it does not allow now waits for others to end and give back what they did not use."""
    ready = _ready(plan)
    for place, task in enumerate(ready):
        own, name = task.task.budget, task.task.task_id
        why = plan_budget.exhausted(plan.budget, plan.spent, own)
        if why:
            plan = _skip(_with(plan, name, task.number, ("waiting",), status="failed", reason=f"budget: {why}"))
            continue
        used = plan_budget.plus(plan.spent, reserved(plan))
        part = plan_budget.allot(plan.budget, used, own, len(ready) - place)
        if part is not None:
            plan = _with(plan, name, task.number, ("waiting",), status="running", reserved=part, started=False)
    return plan


def _cancelled(task: TaskProgress, detail: str) -> TaskProgress:
    if task.status == "waiting":
        return msgspec.structs.replace(task, status="skipped", reason=f"cancelled: {detail}".rstrip(": "))
    if task.status == "running":
        return msgspec.structs.replace(task, cancelling=detail or "the plan was cancelled")
    return task


def _retried(plan: Plan, task_id: str, texts: tuple[PlanTask, ...]) -> Plan:
    """The task waits as its next try, and with it what depends on it and was skipped."""
    again = above(plan, task_id)
    known = {task.task_id: task for task in texts}

    def changed(task: TaskProgress) -> TaskProgress:
        text = known.get(task.task.task_id, task.task)
        if task.task.task_id == task_id:
            return TaskProgress(task=text, number=task.number + 1)
        if task.task.task_id in again and task.status == "skipped":
            return TaskProgress(task=text, number=task.number)
        return msgspec.structs.replace(task, task=text)

    return msgspec.structs.replace(
        plan,
        tasks=tuple(changed(task) for task in plan.tasks),
        status="running",
        # A closing of the round before that is on its way then changes nothing.
        round=plan.round + all(task.status in OVER for task in plan.tasks),
        ended_at=None,
    )
