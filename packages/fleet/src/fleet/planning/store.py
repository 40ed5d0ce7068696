"""Where stories, plans and what is still to be published are kept.

`Store` is the port; `graph.GraphStore` the real thing, `memory.MemoryStore` its twin for unit tests. The same contract tests
run on both. Every call raises Unavailable while the store is away.
"""

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Protocol

from fleet.planning.domain import Plan, PlanState, Story, StoryWithPlans, Transitioned
from fleet.planning.transitions import StoryState
from fleet_wire import events, tracing


@dataclasses.dataclass(frozen=True)
class Outgoing:
    """An event that was saved with the change it tells of and is to be published. `position` sorts by time, and by the order of
    the changes for those of one story; `traceparent` is the trace of the request that made it. `story_id` is empty in what was
    saved before it was kept."""

    message_id: str
    position: str
    subject: str
    body: str
    traceparent: str
    story_id: str = ""

    def event(self) -> events.Event:
        """The event; raises Invalid where what was saved cannot be read."""
        return events.decode(self.subject, self.body.encode())


def outgoing(
    event: events.StoryCreated | events.StoryTransitioned | events.PlanApproved, happened: dt.datetime
) -> Outgoing:
    """The event, ready to be saved."""
    message_id = event.message_id()
    return Outgoing(
        message_id=message_id,
        position=f"{stamp(happened)}~{message_id}",
        subject=event.subject(),
        body=events.encode(event).decode(),
        traceparent=tracing.traceparent(message_id),
        story_id=event.story_id,
    )


@dataclasses.dataclass(frozen=True)
class Change:
    """What a step makes of a story and one of its plans. `superseded` names the plans whose place the plan takes."""

    story: Story
    plan: Plan
    superseded: tuple[str, ...] = ()
    event: Outgoing | None = None


PlanStep = Callable[[Plan, StoryWithPlans], Change]
StoryStep = Callable[[StoryWithPlans], tuple[Story, Transitioned, Outgoing]]


class Store(Protocol):
    async def prepare(self) -> None:
        """Makes the store ready to be used; safe to run again and by several at once."""

    async def create_story(self, story: Story, event: Outgoing) -> Story:
        """Saves both at once. Where the id is taken, nothing is saved and the answer is what stands there."""

    async def story(self, story_id: str) -> StoryWithPlans | None:
        """The story with its plans and transitions, or None."""

    async def stories(
        self, limit: int, before: str = "", plan_state: PlanState | None = None, state: StoryState | None = None
    ) -> list[StoryWithPlans]:
        """At most `limit` stories, newest first: those whose `position` comes before the given one, that have a plan in
        the one state, and that are in the other."""

    async def transition_story(self, story_id: str, transition_id: str, step: StoryStep) -> Transitioned:
        """Moves a story by a pure function of it, and saves at once what is to be published of that. Where the id is taken,
        nothing is saved and the answer is what stands there.

        Of several changes of a story or its plans at the same time each sees what the one before it left. What `step` raises
        is raised, with nothing saved; raises NotFound where the story is not there.
        """

    async def propose_plan(self, plan: Plan) -> Plan:
        """Saves the plan under the story's next version and answers with it. Where the id is taken, nothing is saved and
        the answer is what stands there. Raises NotFound where the story is not there."""

    async def plan(self, plan_id: str) -> Plan | None:
        """The plan, or None."""

    async def change_plan(self, plan_id: str, step: PlanStep) -> Plan:
        """Moves a plan by a pure function of it and its story, with what that means for the story's other plans, and saves at
        once what is to be published of that. What a plan holds is not written again, only how far it is.

        Of several changes of a story or its plans at the same time each sees what the one before it left. What `step` raises
        is raised, with nothing saved; raises NotFound where the plan is not there.
        """

    async def pending(self, limit: int) -> list[Outgoing]:
        """The oldest events that are to be published, in order; of no story a later one without those before it."""

    async def forget(self, message_id: str) -> None:
        """Takes an event out, now that it is published."""


def position(story: Story) -> str:
    """Where a story stands in the list: by time, then by id."""
    return f"{stamp(story.created_at)}~{story.story_id}"


def stamp(moment: dt.datetime) -> str:
    """A moment as text that sorts by time: UTC, always of the same width."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
