"""Approved plans that have come and are not in the graph yet: prompts are made of what their events say, and wait for no write.

The event is durable in its stream and will be written. What is shown of it meanwhile is made of the very rows that will be, so
that a context is the same before the write and after it; where the graph has the plan, only the graph counts.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from fleet.context import projection
from fleet.context.projection import Arriving, Row
from fleet_wire import events

_UNKNOWN_STORY = {"text_version": None, "text_plan": None, "state_version": None}


class Arrivals:
    """What this replica is writing; another asks the graph, and waits for it."""

    def __init__(self) -> None:
        self._plans: dict[str, Arriving] = {}

    @contextlib.contextmanager
    def held(self, arriving: Arriving) -> Iterator[None]:
        """Shows an approved plan for as long as the block runs; no other event is shown, and no second one of a plan: the graph
        keeps the first."""
        event = arriving.event
        if not isinstance(event, events.PlanApproved) or event.plan_id in self._plans:
            yield
            return
        self._plans[event.plan_id] = arriving
        try:
            yield
        finally:
            del self._plans[event.plan_id]

    def of(self, plan_id: str) -> Arriving | None:
        """The event of a plan that is being written; None for any other."""
        return self._plans.get(plan_id)


def story(arriving: Arriving, node: Mapping[str, Any]) -> Row:
    """The story's properties once the plan is written; `node` are those it has, none for a story that the graph does not know."""
    known = {**_UNKNOWN_STORY, "story_id": arriving.story_id, **node}
    return {**known, **projection.writing(arriving.event, known).story}


def plan(arriving: Arriving) -> Row:
    """The plan's row as it will be written."""
    [row] = projection.writing(arriving.event, _UNKNOWN_STORY).plans
    return row


def entry(arriving: Arriving) -> Row:
    """The event's entry in the story's timeline."""
    return {**arriving.milestone, "event_id": arriving.name}
