"""The states of a story and what leads from one to the next: TABLE is the whole machine, and docs/planning.md is drawn from it.

A transition is asked for by the name of its event. Guards look at who asks, why, and how far the story's plans are; each says
what is missing. Every rejection leads one state back and says why.
"""

import dataclasses
from collections.abc import Callable, Collection
from typing import Literal, get_args

from fleet.people import check_person
from fleet_wire.errors import Invalid, Precondition

StoryState = Literal["BACKLOG", "DRAFT", "DESIGN", "BUILD", "TEST", "DOCS", "DONE"]
STATES: tuple[StoryState, ...] = get_args(StoryState)
FIRST: StoryState = "BACKLOG"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What guards look at. `plans` holds the states of the story's plans."""

    actor: str
    reason: str
    plans: Collection[str]


Guard = Callable[[Asked], None]


def person(asked: Asked) -> None:
    """actor names a person, not an agent"""
    check_person("actor", asked.actor, "this is a human gate")


def reason(asked: Asked) -> None:
    """reason says why"""
    if not asked.reason.strip():
        raise Invalid("reason must not be empty: a rejection says why")


def plan_approved(asked: Asked) -> None:
    """a plan of the story is approved, or completed already"""
    if not {"approved", "completed"} & set(asked.plans):
        raise Precondition("no plan of the story is approved: approve one first")


def plan_completed(asked: Asked) -> None:
    """a plan of the story is completed, and none is still under way"""
    if "approved" in asked.plans:
        raise Precondition("the approved plan is not completed: wait for its end, or cancel it")
    if "completed" not in asked.plans:
        raise Precondition("no plan of the story is completed")


@dataclasses.dataclass(frozen=True)
class Transition:
    """What leads from one state to another. Each event leads on from one state only."""

    event: str
    from_state: StoryState
    to_state: StoryState
    guards: tuple[Guard, ...] = ()


TABLE = (
    Transition("start_draft", "BACKLOG", "DRAFT"),
    Transition("approve_scope", "DRAFT", "DESIGN", (person,)),
    Transition("reject_scope", "DRAFT", "BACKLOG", (reason,)),
    Transition("approve_design", "DESIGN", "BUILD", (person, plan_approved)),
    Transition("reject_design", "DESIGN", "DRAFT", (reason,)),
    Transition("build_done", "BUILD", "TEST", (plan_completed,)),
    Transition("reject_build", "BUILD", "DESIGN", (reason,)),
    Transition("qa_passed", "TEST", "DOCS", (person,)),
    Transition("qa_failed", "TEST", "BUILD", (reason,)),
    Transition("docs_ready", "DOCS", "DONE", (person,)),
    Transition("reject_docs", "DOCS", "TEST", (reason,)),
)
EVENTS = tuple(row.event for row in TABLE)


def allowed(state: StoryState) -> tuple[Transition, ...]:
    """What may be asked for in a state; its guards may still refuse it."""
    return tuple(row for row in TABLE if row.from_state == state)


def find(story_id: str, state: StoryState, event: str, asked: Asked) -> Transition:
    """The transition, its guards passed. Raises Invalid for an event that there is not or that lacks something, Precondition
    where the state has no such transition, naming those it has, or where the plans are not far enough."""
    if event not in EVENTS:
        raise Invalid(f"event must be one of {', '.join(EVENTS)}, not {event[:80]!r}")
    for row in allowed(state):
        if row.event == event:
            for guard in row.guards:
                guard(asked)
            return row
    ways = " and ".join(f"{row.event} (to {row.to_state})" for row in allowed(state)) or "none, it is the last state"
    raise Precondition(f"story {story_id} is in {state}, where {event} is not allowed; allowed: {ways}")
