"""The tasks of an approved plan, the same wherever they are asked for, and checked the same."""

import graphlib

from fleet_wire.errors import Invalid
from fleet_wire.events import PlanApproved, PlanTask


def tasks_of(event: PlanApproved) -> tuple[PlanTask, ...]:
    """The plan's tasks; where it names only roles, one task per role on the story itself, its id the role in lower case."""
    if event.tasks:
        return tuple(event.tasks)
    return tuple(
        PlanTask(
            task_id=role.lower(),
            title=event.story.title,
            description=event.story.brief,
            role=role,
            acceptance=list(event.story.acceptance),
        )
        for role in dict.fromkeys(event.roles)
    )


def check_plan(event: PlanApproved) -> None:
    """Raises Invalid for a plan that could never be run: without tasks, with one twice, or waiting for what never comes."""
    names = [task.task_id for task in tasks_of(event)]
    if not names:
        raise Invalid(f"plan {event.plan_id} has neither tasks nor roles")
    if len(set(names)) != len(names):
        raise Invalid(f"tasks of plan {event.plan_id}: a task_id stands twice")
    for task in event.tasks:
        unknown = sorted(set(task.depends_on) - set(names))
        if unknown:
            raise Invalid(f"depends_on of task {task.task_id}: plan {event.plan_id} has no task {', '.join(unknown)}")
    try:
        graphlib.TopologicalSorter({task.task_id: task.depends_on for task in event.tasks}).prepare()
    except graphlib.CycleError as error:
        raise Invalid(
            f"tasks of plan {event.plan_id} wait for each other: {' → '.join(error.args[1][::-1])}"
        ) from error
