"""The tasks of an approved plan. Whoever acts on a plan takes them from here, so that all name the same tasks."""

from fleet_wire.events import PlanApproved, PlanTask


def tasks_of(event: PlanApproved) -> tuple[PlanTask, ...]:
    """The plan's own tasks; with `roles` and no tasks, one per role (each role once) on the story itself.

    Such a task is called as its role in lower case and has the story's title, brief and acceptance, and no dependencies.
    """
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
