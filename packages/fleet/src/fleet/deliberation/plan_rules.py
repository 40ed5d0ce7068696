"""What the tasks of a plan are and must keep: the same in a plan's file, at planning, and in the event of its approval."""

import graphlib
from collections.abc import Mapping, Sequence

from fleet_wire.errors import Invalid
from fleet_wire.events import PlanApproved, PlanTask

# Limits, in characters unless said otherwise: they keep texts readable and prompts finite.
MAX_TITLE = 200
MAX_BRIEF = 20_000
MAX_DESCRIPTION = 20_000
MAX_ITEM = 2_000
"""Of a requirement, or of one thing by which one sees that it is done."""
MAX_ITEMS = 50
MAX_TASKS = 64


def check_text(field: str, value: str, limit: int, needed: bool = False) -> None:
    """Raises Invalid naming the field for a text of more than `limit` characters, and, where one is needed, for a blank one."""
    if needed and not value.strip():
        raise Invalid(f"{field} must not be empty")
    if len(value) > limit:
        raise Invalid(f"{field} has {len(value)} characters, above the limit of {limit}")


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
    tasks = tasks_of(event)
    if not tasks:
        raise Invalid(f"plan {event.plan_id} has neither tasks nor roles")
    needs = {task.task_id: task.depends_on for task in tasks}
    if len(needs) != len(tasks):
        raise Invalid(f"tasks of plan {event.plan_id}: a task_id stands twice")
    check_order(needs)


def check_order(needs: Mapping[str, Sequence[str]]) -> None:
    """Raises Invalid, naming the place, where a task waits for one that is not there, or for itself by way of others.

    `needs` has the depends_on of each task_id, in the order of the plan's tasks.
    """
    for index, (task_id, wanted) in enumerate(needs.items()):
        for other in wanted:
            if other not in needs:
                raise Invalid(
                    f"tasks[{index}].depends_on names {other[:80]!r}, which is no task of this plan (task {task_id[:80]})"
                )
    if cycle := cycle_of(needs):
        raise Invalid(f"tasks wait for each other in a cycle of depends_on: {' → '.join(cycle)}")


def cycle_of(needs: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Tasks that wait for each other, each followed by one that it waits for, the first once more at the end; else none."""
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        # The sorter lists each task before the one that waits for it.
        return tuple(error.args[1][::-1])
    return ()
