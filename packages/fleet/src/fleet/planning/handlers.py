"""What can be done here, one function a use case. `Ports` is all they reach."""

import dataclasses
import datetime as dt
import re
from collections.abc import Callable, Sequence

from fleet import paging
from fleet.planmessages import NO_LIMITS
from fleet.planning import domain
from fleet.planning.domain import Plan, Story, StoryWithPlans, Task, Transitioned
from fleet.planning.store import Change, Outgoing, Store, outgoing, position
from fleet_wire import events
from fleet_wire.errors import AlreadyExists, NotFound
from fleet_wire.ids import check_id, derived

_POSITION = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z~[A-Za-z0-9_-]{1,64}")


@dataclasses.dataclass(frozen=True)
class Ports:
    """`new_id` makes an id that nothing else has, from a prefix; `committed` is told when there is something to publish."""

    store: Store
    now: Callable[[], dt.datetime]
    new_id: Callable[[str], str]
    committed: Callable[[], None]


async def create_story(
    ports: Ports, request_id: str, title: str, brief: str, acceptance: Sequence[str], phase: str, actor: str
) -> StoryWithPlans:
    """Creates a story and publishes that; the same request_id gives the story it gave before."""
    story_id = _id(ports, "story", request_id)
    story = domain.new_story(story_id, title, brief, acceptance, phase, actor, ports.now())
    kept = await ports.store.create_story(story, outgoing(domain.created_event(story), story.created_at))
    if kept.content != story.content:
        raise AlreadyExists(f"request_id {request_id} made story {kept.story_id}, which has another content")
    ports.committed()
    return await get_story(ports, kept.story_id)


async def get_story(ports: Ports, story_id: str) -> StoryWithPlans:
    found = await ports.store.story(check_id("story_id", story_id))
    if found is None:
        raise NotFound(f"there is no story {story_id}")
    return found


async def list_stories(
    ports: Ports, page_size: int, page_token: str, plan_state: str, state: str = ""
) -> tuple[list[StoryWithPlans], str]:
    """A page of stories, newest first, and the token of the next one, empty on the last.

    A token names the last story of its page, so stories that come in between move nothing.
    """
    limit = paging.size(page_size)
    of_plan = domain.check_plan_state("plan_state", plan_state)
    of_story = domain.check_story_state("state", state)
    found = await ports.store.stories(limit + 1, _before(page_token), of_plan, of_story)
    page = found[:limit]
    return page, paging.token(position(page[-1].story)) if len(found) > limit else ""


async def transition_story(
    ports: Ports, request_id: str, story_id: str, event: str, actor: str, reason: str
) -> StoryWithPlans:
    """Moves a story by the named event and publishes that; the same request_id moves it once. Of two at once that lead to
    different states, one gets Precondition."""
    check_id("story_id", story_id)
    now, transition_id = ports.now(), _id(ports, "transition", request_id)

    def step(whole: StoryWithPlans) -> tuple[Story, Transitioned, Outgoing]:
        story, record = domain.transition(whole, transition_id, event, actor, reason, now)
        return story, record, outgoing(domain.transitioned_event(record), record.transitioned_at)

    kept = await ports.store.transition_story(story_id, transition_id, step)
    if kept.content != (story_id, event, actor, reason):
        raise AlreadyExists(f"request_id {request_id} made another transition: {kept.event} of {kept.story_id}")
    ports.committed()
    return await get_story(ports, story_id)


async def propose_plan(
    ports: Ports,
    request_id: str,
    story_id: str,
    roles: Sequence[str],
    tasks: Sequence[Task],
    budget: events.Budget = NO_LIMITS,
) -> Plan:
    """Adds a proposed plan to a story; the same request_id gives the plan it gave before."""
    story = (await get_story(ports, story_id)).story
    plan = domain.new_plan(_id(ports, "plan", request_id), story, roles, tasks, ports.now(), budget)
    kept = await ports.store.propose_plan(plan)
    if kept.content != plan.content:
        raise AlreadyExists(f"request_id {request_id} made plan {kept.plan_id}, which has another content")
    return kept


async def get_plan(ports: Ports, plan_id: str) -> Plan:
    found = await ports.store.plan(check_id("plan_id", plan_id))
    if found is None:
        raise NotFound(f"there is no plan {plan_id}")
    return found


async def approve_plan(ports: Ports, plan_id: str, approved_by: str) -> Plan:
    """Approves a proposed plan, which supersedes the others of its story, and publishes it. Of two at once, of this plan or of
    two of one story, one gets Precondition."""
    now = ports.now()

    def step(plan: Plan, whole: StoryWithPlans) -> Change:
        approved = domain.approve(plan, approved_by, domain.later(now, whole.story.last_event_at))
        assert approved.decided_at is not None, "an approved plan has the time of its approval"
        story = dataclasses.replace(whole.story, changed_at=approved.decided_at)
        aside = domain.superseded(approved, whole.plans)
        before = [other.plan_id for other in whole.plans if other.plan_id in aside and other.state == "approved"]
        event = outgoing(domain.approved_event(approved, before), approved.decided_at)
        return Change(story, approved, aside, event)

    approved = await ports.store.change_plan(check_id("plan_id", plan_id), step)
    ports.committed()
    return approved


async def reject_plan(ports: Ports, plan_id: str, rejected_by: str, reason: str) -> Plan:
    """Rejects a proposed plan."""
    now = ports.now()
    return await ports.store.change_plan(
        check_id("plan_id", plan_id),
        lambda plan, whole: Change(whole.story, domain.reject(plan, rejected_by, reason, now)),
    )


async def complete_plan(ports: Ports, event: events.PlanCompleted) -> Plan:
    """Notes that the orchestrator has finished an approved plan; again changes nothing."""
    now = ports.now()
    return await ports.store.change_plan(
        event.plan_id, lambda plan, whole: Change(whole.story, domain.complete(plan, event.story_id, now))
    )


def _id(ports: Ports, kind: str, request_id: str) -> str:
    return derived(kind, check_id("request_id", request_id)) if request_id else ports.new_id(kind)


def _before(page_token: str) -> str:
    text = paging.place(page_token) if page_token else ""
    if text and not _POSITION.fullmatch(text):
        raise paging.refused()
    return text
