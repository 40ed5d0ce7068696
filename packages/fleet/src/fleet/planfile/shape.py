"""What a plan file may say. The types are the one source: `checking` reads files by them, `schema` makes the JSON Schema."""

from typing import Annotated

from msgspec import Meta, Struct

from fleet.deliberation.plan_rules import MAX_BRIEF, MAX_DESCRIPTION, MAX_ITEM, MAX_ITEMS, MAX_TASKS, MAX_TITLE
from fleet.deliberation.protocols import AUTO, PROTOCOLS
from fleet.planmessages import MAX_ENTRY_POINT, MAX_NUMBERS
from fleet_wire import events
from fleet_wire.events import Id, Role, StoryPhase

UNIQUE = {"uniqueItems": True}

Title = Annotated[str, Meta(min_length=1, max_length=MAX_TITLE, pattern=r"\S")]
Item = Annotated[str, Meta(min_length=1, max_length=MAX_ITEM, pattern=r"\S")]
Items = Annotated[list[Item], Meta(max_length=MAX_ITEMS)]
Protocol = Annotated[str, Meta(extra_json_schema={"enum": [AUTO, *PROTOCOLS]})]


class Story(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the team wants."""

    title: Annotated[Title, Meta(description="A short name.")]
    brief: Annotated[
        str,
        Meta(min_length=1, max_length=MAX_BRIEF, pattern=r"\S", description="What is wanted, and for whom."),
    ]
    acceptance: Annotated[Items, Meta(description="How one sees that it is done.")] = []
    phase: Annotated[StoryPhase, Meta(description="What the team is doing with the story.")] = "build"


class Budget(events.Budget, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be spent at most: tokens of prompts and answers, calls to the model, seconds. 0 sets no limit."""


class Task(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that a council decides."""

    task_id: Annotated[Id, Meta(description="Unique in the plan.")]
    title: Annotated[Title, Meta(description="A short name.")]
    description: Annotated[
        str, Meta(min_length=1, max_length=MAX_DESCRIPTION, pattern=r"\S", description="What to decide.")
    ]
    role: Annotated[Role, Meta(description="Whose council decides.")]
    requirements: Annotated[Items, Meta(description="What an answer must deal with.")] = []
    acceptance: Annotated[Items, Meta(description="How one sees that it is done.")] = []
    depends_on: Annotated[
        list[Id],
        Meta(description="Tasks of this plan that must be decided before, without a cycle.", extra_json_schema=UNIQUE),
    ] = []
    protocol: Annotated[
        Protocol | None, Meta(description="How the council decides; by its own protocol unless given.")
    ] = None
    numbers: Annotated[
        dict[str, float],
        Meta(max_length=MAX_NUMBERS, description="Of the protocol, by name; those not named have their defaults."),
    ] = {}
    budget: Annotated[Budget, Meta(description="What this task may spend.")] = Budget()
    entry_point: Annotated[
        str, Meta(max_length=MAX_ENTRY_POINT, description="The Python function that a code task asks for.")
    ] = ""


Tasks = Annotated[list[Task], Meta(max_length=MAX_TASKS)]


class Draft(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan for a story that is there already."""

    tasks: Tasks


class PlanFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan of SWE AI Fleet: a story, and tasks for its councils, or only roles: one task each on the story itself."""

    story: Story
    tasks: Annotated[Tasks, Meta(description="What the councils decide, each in the order of depends_on.")] = []
    roles: Annotated[
        list[Role],
        Meta(description="In place of tasks: one task on the story for each of these.", extra_json_schema=UNIQUE),
    ] = []
    budget: Annotated[Budget, Meta(description="What all tasks together may spend.")] = Budget()
