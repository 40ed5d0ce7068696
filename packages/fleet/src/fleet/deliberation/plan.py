"""The progress of one approved plan: a record of its own with a reducer of its own.

    task:  waiting ──all it depends on is decided and remembered──▶ running ──▶ decided | failed
              └──something it depends on failed or was skipped──▶ skipped

A task starts only when the decisions it depends on are in the graph. Whoever folds in the last task's end, the plan is closed
once: `close` is due until `orchestration.plan.completed` is published.
"""

import datetime as dt
from typing import Literal, Union

import msgspec
from msgspec import Struct

from fleet.deliberation.state import stub
from fleet_wire import ids
from fleet_wire.events import PlanTask, StoryPhase

TaskStatus = Literal["waiting", "running", "decided", "failed", "skipped"]
OVER = ("decided", "failed", "skipped")


class TaskProgress(Struct, frozen=True, kw_only=True):
    """One task. `number` is the try it is in, from 1; `remembered` says that its decision is in the graph."""

    task: PlanTask
    number: int = 1
    status: TaskStatus = "waiting"
    remembered: bool = False
    reason: str = ""


class Plan(Struct, frozen=True, kw_only=True):
    """The record. `running` until its completion is published."""

    plan_id: str
    story_id: str
    phase: StoryPhase
    tasks: tuple[TaskProgress, ...]
    started_at: dt.datetime
    status: Literal["running", "completed"] = "running"
    ended_at: dt.datetime | None = None


class TaskStarted(Struct, frozen=True):
    """The task's deliberation is saved."""

    task_id: str
    number: int


class TaskEnded(Struct, frozen=True):
    """The task's deliberation has ended; an empty `reason` means with a decision."""

    task_id: str
    number: int
    reason: str


class Remembered(Struct, frozen=True):
    """The graph holds what this deliberation decided."""

    deliberation_id: str


class Closed(Struct, frozen=True):
    """`orchestration.plan.completed` is published."""

    at: dt.datetime


PlanEvent = Union[TaskStarted, TaskEnded, Remembered, Closed]


class Start(Struct, frozen=True):
    """Start this task's deliberation."""

    task_id: str


class Close(Struct, frozen=True):
    """Publish the plan's completion."""


def advance(plan: Plan, event: PlanEvent) -> Plan:
    """The plan after the event. An event that repeats or does not fit changes nothing."""
    replace = msgspec.structs.replace
    match event:
        case TaskStarted(task_id, number):
            return _with(plan, task_id, number, ("waiting",), status="running")
        case TaskEnded(task_id, number, reason):
            status: TaskStatus = "failed" if reason else "decided"
            return _skip(_with(plan, task_id, number, ("waiting", "running"), status=status, reason=reason))
        case Remembered(deliberation):
            tasks = tuple(
                replace(task, remembered=True) if deliberation_of(plan, task) == deliberation else task
                for task in plan.tasks
            )
            return replace(plan, tasks=tasks)
        case Closed(at) if plan.status == "running":
            tasks = tuple(replace(task, task=stub(task.task)) for task in plan.tasks)
            return replace(plan, status="completed", ended_at=at, tasks=tasks)
    return plan


def due(plan: Plan) -> tuple[Start | Close, ...]:
    """What must be done now; doing it again does no harm."""
    if plan.status == "completed":
        return ()
    if all(task.status in OVER for task in plan.tasks):
        return (Close(),)
    ready = {task.task.task_id for task in plan.tasks if task.status == "decided" and task.remembered}
    return tuple(
        Start(task.task.task_id)
        for task in plan.tasks
        if task.status == "waiting" and ready.issuperset(task.task.depends_on)
    )


def task_of(plan: Plan, task_id: str) -> TaskProgress:
    """The task; raises KeyError for one that the plan does not have."""
    for task in plan.tasks:
        if task.task.task_id == task_id:
            return task
    raise KeyError(task_id)


def deliberation_of(plan: Plan, task: TaskProgress) -> str:
    """Id of the task's deliberation in its current try."""
    return ids.deliberation_id(plan.plan_id, task.task.task_id, task.number)


def decisions_below(plan: Plan, task: TaskProgress) -> tuple[str, ...]:
    """Ids of the decisions the task depends on, in the order of depends_on."""
    return tuple(ids.decision_id(deliberation_of(plan, task_of(plan, below))) for below in task.task.depends_on)


def _with(
    plan: Plan, task_id: str, number: int, only: tuple[TaskStatus, ...], status: TaskStatus, reason: str = ""
) -> Plan:
    tasks = tuple(
        msgspec.structs.replace(task, status=status, reason=reason)
        if task.task.task_id == task_id and task.number == number and task.status in only
        else task
        for task in plan.tasks
    )
    return msgspec.structs.replace(plan, tasks=tasks)


def _skip(plan: Plan) -> Plan:
    """Skips, until nothing changes, what depends on something failed or skipped."""
    while True:
        lost = {task.task.task_id for task in plan.tasks if task.status in ("failed", "skipped")}
        tasks = tuple(
            msgspec.structs.replace(task, status="skipped", reason=f"depends on {', '.join(sorted(without))}")
            if task.status == "waiting" and (without := lost.intersection(task.task.depends_on))
            else task
            for task in plan.tasks
        )
        if tasks == plan.tasks:
            return plan
        plan = msgspec.structs.replace(plan, tasks=tasks)
