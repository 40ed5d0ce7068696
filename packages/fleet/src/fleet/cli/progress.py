"""What has been observed of a plan on its way through the eight steps. Pure: observations in, progress out.

Five steps show themselves as events; `submitted` and `running` are what the executor answers of the deliberation's jobs,
`shown` is what the dashboard answers, and a decision counts as remembered only when it could also be read from the graph.
Nothing is concluded: a step that was not observed is missing, even where a later one was.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence

from fleet.describe import failure
from fleet.steps import STEPS, JobSeen, Step, StepName, proposers, step_of, steps_of_jobs
from fleet_wire import events, ids


@dataclasses.dataclass(frozen=True)
class Jobs:
    """The executor's answer on a deliberation."""

    deliberation_id: str
    jobs: Sequence[JobSeen]


@dataclasses.dataclass(frozen=True)
class Shown:
    """The dashboard's answer on a deliberation."""

    deliberation_id: str
    decision_id: str


@dataclasses.dataclass(frozen=True)
class Explained:
    """A decision as it was read from the graph."""

    deliberation_id: str
    decision_id: str
    content: str


Observation = events.Event | Jobs | Shown | Explained


@dataclasses.dataclass(frozen=True)
class TaskView:
    """One task. `times` holds the moment of each step that was observed; `seats` are the agents that propose, `ended` those
    whose proposal has ended, `later` the jobs of later phases that have, by phase in the order of their first end."""

    task_id: str
    title: str
    role: str
    deliberation_id: str
    depends_on: tuple[str, ...] = ()
    times: Mapping[StepName, dt.datetime] = dataclasses.field(default_factory=dict)
    seats: tuple[str, ...] = ()
    ended: frozenset[str] = frozenset()
    later: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    protocol: str = ""
    decision_id: str = ""
    winner: str = ""
    score: float | None = None
    in_graph: bool = False
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether each of the eight steps was observed and the decision read from the graph."""
        return self.in_graph and all(step.name in self.times for step in STEPS)


@dataclasses.dataclass(frozen=True)
class Progress:
    """A plan. `approved_at` is the zero of all times shown; `first_token_at` the first text of any agent."""

    plan_id: str
    tasks: tuple[TaskView, ...]
    approved_at: dt.datetime | None = None
    first_token_at: dt.datetime | None = None

    @property
    def complete(self) -> bool:
        return all(task.complete for task in self.tasks)

    @property
    def settled(self) -> bool:
        """Whether nothing more will come: each task is complete, or has failed or been skipped."""
        return all(task.complete or task.failure for task in self.tasks)

    def seconds(self, task: TaskView, step: StepName) -> float | None:
        """Seconds from the approval to the step, where it was observed."""
        at = task.times.get(step)
        return None if at is None or self.approved_at is None else (at - self.approved_at).total_seconds()


@dataclasses.dataclass(frozen=True)
class Missing:
    """A step that was not observed for a task, and what is known of why."""

    task_id: str
    step: Step
    why: str


def begin(plan_id: str, tasks: Iterable[tuple[str, str, str, Sequence[str]]]) -> Progress:
    """A plan of which nothing was observed; `tasks` are (task_id, title, role, depends_on)."""
    return Progress(
        plan_id,
        tuple(
            TaskView(task, title, role, ids.deliberation_id(plan_id, task, 1), tuple(needs))
            for task, title, role, needs in tasks
        ),
    )


def observe(progress: Progress, seen: Observation, at: dt.datetime) -> Progress:
    """The progress with one more observation, made at `at`. What belongs to other plans, or was seen before, changes nothing."""
    if isinstance(seen, events.PlanApproved):
        return _approved(progress, seen, at)
    if isinstance(seen, events.PlanCompleted):
        return _closed(progress, seen)
    deliberation_id = getattr(seen, "deliberation_id", "")
    for index, task in enumerate(progress.tasks):
        if task.deliberation_id == deliberation_id:
            changed = _observe_task(task, seen, at)
            if isinstance(seen, events.TokenChunk) and seen.text and progress.first_token_at is None:
                progress = dataclasses.replace(progress, first_token_at=at)
            if changed is not task:
                tasks = (*progress.tasks[:index], changed, *progress.tasks[index + 1 :])
                progress = dataclasses.replace(progress, tasks=tasks)
    return progress


def missing(progress: Progress) -> list[Missing]:
    """For each task that is not complete the first step that was not observed."""
    found = []
    undecided = {task.task_id for task in progress.tasks if "decided" not in task.times}
    for task in progress.tasks:
        if task.complete:
            continue
        for step in STEPS:
            if step.name not in task.times:
                waits = [need for need in task.depends_on if need in undecided] if step.name == "started" else []
                unseen = f"it waits for {', '.join(waits)}" if waits else f"not observed: {step.what}"
                found.append(Missing(task.task_id, step, task.failure or unseen))
                break
            if step.name == "remembered" and not task.in_graph:
                found.append(Missing(task.task_id, step, "the decision could not be read from the graph"))
                break
    return found


def steps_table(progress: Progress) -> list[tuple[Step, list[float | None]]]:
    """Each step with its seconds since approval, one for each task; None where it was not observed."""
    return [(step, [progress.seconds(task, step.name) for task in progress.tasks]) for step in STEPS]


def _observe_task(task: TaskView, seen: Observation, at: dt.datetime) -> TaskView:
    if isinstance(seen, Jobs):
        for step, moment in steps_of_jobs(seen.jobs, task.seats).items():
            task = _timed(task, step, moment)
        return task
    if isinstance(seen, Shown):
        # Only with the decision: a page that knows the deliberation but not how it ended does not show it yet.
        known = bool(task.decision_id) and seen.decision_id == task.decision_id
        return _timed(task, "shown", at) if known else task
    if isinstance(seen, Explained):
        same = bool(seen.decision_id) and seen.decision_id == task.decision_id
        return dataclasses.replace(task, in_graph=True) if same and not task.in_graph else task
    if isinstance(seen, events.AgentResult):
        task = _job_ended(task, seen)
    if isinstance(seen, events.DeliberationStarted):
        task = dataclasses.replace(task, seats=proposers(seen), protocol=seen.protocol)
    if isinstance(seen, events.DeliberationCompleted):
        score = next((ranked.score for ranked in seen.ranking if ranked.agent_id == seen.winner), None)
        task = dataclasses.replace(task, decision_id=seen.decision_id, winner=seen.winner, score=score)
    if isinstance(seen, events.DeliberationFailed):
        return dataclasses.replace(task, failure=failure(seen))
    name = step_of(seen)
    return _timed(task, name, at) if name is not None else task


def _job_ended(task: TaskView, result: events.AgentResult) -> TaskView:
    if result.phase == "propose":
        ended = task.ended | {result.agent_id}
        return task if ended == task.ended else dataclasses.replace(task, ended=ended)
    before = task.later.get(result.phase, frozenset())
    if result.job_id in before:
        return task
    return dataclasses.replace(task, later={**task.later, result.phase: before | {result.job_id}})


def _approved(progress: Progress, event: events.PlanApproved, at: dt.datetime) -> Progress:
    if event.plan_id != progress.plan_id:
        return progress
    named = {task.task_id for task in event.tasks}
    tasks = tuple(_timed(task, "approved", at) if task.task_id in named else task for task in progress.tasks)
    return dataclasses.replace(progress, tasks=tasks, approved_at=progress.approved_at or event.approved_at)


def _closed(progress: Progress, event: events.PlanCompleted) -> Progress:
    if event.plan_id != progress.plan_id:
        return progress
    why = {task.task_id: f"skipped: {task.reason}" for task in event.skipped}
    why |= {task.task_id: f"failed: {task.reason}" for task in event.failed}
    tasks = tuple(
        dataclasses.replace(task, failure=why[task.task_id]) if task.task_id in why and not task.failure else task
        for task in progress.tasks
    )
    return dataclasses.replace(progress, tasks=tasks)


def _timed(task: TaskView, step: StepName, at: dt.datetime) -> TaskView:
    """A step has the time of its first observation."""
    if step in task.times:
        return task
    return dataclasses.replace(task, times={**task.times, step: at})
