import asyncio
import base64
import datetime as dt

import pytest
from opentelemetry import trace
from planning_samples import NOON, ports, task

from fleet.planning import handlers, outbox
from fleet.planning.handlers import Ports
from fleet.planning.memory import MemoryStore
from fleet_wire import events, tracing
from fleet_wire.errors import AlreadyExists, Conflict, Invalid, NotFound, Precondition, Unavailable

STORY = {"title": "Search", "brief": "Find.", "acceptance": ["fast"], "phase": "", "actor": "ana"}


@pytest.fixture
def kept() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def here(kept: MemoryStore) -> Ports:
    moments = iter(NOON + dt.timedelta(seconds=n) for n in range(1000))
    return ports(kept, now=lambda: next(moments))


async def test_the_same_request_makes_one_story_and_one_event(here: Ports, kept: MemoryStore) -> None:
    first = await handlers.create_story(here, "req-1", **STORY)
    second = await handlers.create_story(here, "req-1", **{**STORY, "actor": "ben"})
    assert first == second
    assert len(await kept.pending(10)) == 1


async def test_requests_without_an_id_make_a_story_each(here: Ports) -> None:
    first = await handlers.create_story(here, "", **STORY)
    second = await handlers.create_story(here, "", **STORY)
    assert first.story.story_id != second.story.story_id


@pytest.mark.parametrize("change", [{"title": "B"}, {"brief": "B"}, {"acceptance": ["B"]}, {"phase": "test"}])
async def test_a_request_id_with_another_story_is_taken(here: Ports, change: dict[str, object]) -> None:
    await handlers.create_story(here, "req-1", **STORY)
    with pytest.raises(AlreadyExists, match="req-1"):
        await handlers.create_story(here, "req-1", **{**STORY, **change})


async def test_a_request_id_gives_the_plan_it_gave_before_also_when_that_is_approved(here: Ports) -> None:
    made = await handlers.create_story(here, "", **STORY)
    first = await handlers.propose_plan(here, "req-1", made.story.story_id, [], [task()])
    approved = await handlers.approve_plan(here, first.plan_id, "ana")
    assert await handlers.propose_plan(here, "req-1", made.story.story_id, [], [task()]) == approved
    with pytest.raises(AlreadyExists, match="req-1"):
        await handlers.propose_plan(here, "req-1", made.story.story_id, [], [task(title="Other")])
    with pytest.raises(AlreadyExists, match="req-1"):
        await handlers.propose_plan(here, "req-1", made.story.story_id, ["DEV"], [task()])
    other = await handlers.create_story(here, "", **STORY)
    with pytest.raises(AlreadyExists, match="req-1"):
        await handlers.propose_plan(here, "req-1", other.story.story_id, [], [task()])


async def test_ids_that_are_none_are_refused_by_name(here: Ports) -> None:
    with pytest.raises(Invalid, match="request_id"):
        await handlers.create_story(here, "a b", **STORY)
    for call, field in [
        (handlers.get_story(here, ""), "story_id"),
        (handlers.get_plan(here, "a b"), "plan_id"),
        (handlers.propose_plan(here, "", "é", [], [task()]), "story_id"),
        (handlers.transition_story(here, "", "a b", "start_draft", "ana", ""), "story_id"),
        (handlers.transition_story(here, "a b", "story-1", "start_draft", "ana", ""), "request_id"),
        (handlers.approve_plan(here, "x" * 65, "ana"), "plan_id"),
        (handlers.reject_plan(here, "", "ana", "no"), "plan_id"),
    ]:
        with pytest.raises(Invalid, match=field):
            await call


async def test_what_is_not_there_is_not_found(here: Ports) -> None:
    for call in [
        handlers.get_story(here, "story-9"),
        handlers.get_plan(here, "plan-9"),
        handlers.propose_plan(here, "", "story-9", [], [task()]),
        handlers.transition_story(here, "", "story-9", "start_draft", "ana", ""),
        handlers.approve_plan(here, "plan-9", "ana"),
        handlers.reject_plan(here, "plan-9", "ana", "no"),
        handlers.complete_plan(here, events.PlanCompleted(plan_id="plan-9", story_id="s", decided=[])),
    ]:
        with pytest.raises(NotFound, match="-9"):
            await call


async def test_a_request_id_moves_a_story_once(here: Ports, kept: MemoryStore) -> None:
    story_id = (await handlers.create_story(here, "", **STORY)).story.story_id
    first = await handlers.transition_story(here, "req-1", story_id, "start_draft", "ana", "")
    again = await handlers.transition_story(here, "req-1", story_id, "start_draft", "ana", "")
    assert again == first
    assert (first.story.state, len(first.transitions), len(await kept.pending(10))) == ("DRAFT", 1, 2)
    with pytest.raises(AlreadyExists, match="req-1 made another transition: start_draft"):
        await handlers.transition_story(here, "req-1", story_id, "approve_scope", "ana", "")
    with pytest.raises(Precondition, match="start_draft is not allowed; allowed: approve_scope"):
        await handlers.transition_story(here, "", story_id, "start_draft", "ana", "")


async def test_a_story_is_led_to_its_end_with_its_plan(here: Ports, kept: MemoryStore) -> None:
    story_id = (await handlers.create_story(here, "", **STORY)).story.story_id

    async def move(event: str) -> str:
        return (await handlers.transition_story(here, "", story_id, event, "ana", "")).story.state

    assert [await move(event) for event in ("start_draft", "approve_scope")] == ["DRAFT", "DESIGN"]
    with pytest.raises(Precondition, match="no plan of the story is approved"):
        await move("approve_design")
    plan_id = (await handlers.propose_plan(here, "", story_id, [], [task()])).plan_id
    await handlers.approve_plan(here, plan_id, "ana")
    assert await move("approve_design") == "BUILD"
    with pytest.raises(Precondition, match="the approved plan is not completed"):
        await move("build_done")
    await handlers.complete_plan(here, events.PlanCompleted(plan_id=plan_id, story_id=story_id, decided=["t1"]))
    assert [await move(event) for event in ("build_done", "qa_passed", "docs_ready")] == ["TEST", "DOCS", "DONE"]
    told = [item.event() for item in await kept.pending(20)]
    assert [event.version for event in told if isinstance(event, events.StoryTransitioned)] == [1, 2, 3, 4, 5, 6]
    assert [type(event).__name__ for event in told[:4]] == [
        "StoryCreated",
        "StoryTransitioned",
        "StoryTransitioned",
        "PlanApproved",
    ]


async def test_an_approval_tells_which_approved_plan_it_supersedes(here: Ports, kept: MemoryStore) -> None:
    story_id = (await handlers.create_story(here, "", **STORY)).story.story_id
    first = (await handlers.propose_plan(here, "", story_id, [], [task()])).plan_id
    await handlers.approve_plan(here, first, "ana")
    _, third = [(await handlers.propose_plan(here, "", story_id, [], [task()])).plan_id for _ in range(2)]
    await handlers.approve_plan(here, third, "ana")
    told = [item.event() for item in await kept.pending(20)]
    approvals = {event.plan_id: event.supersedes for event in told if isinstance(event, events.PlanApproved)}
    assert approvals == {first: [], third: [first]}


async def test_the_events_of_a_story_keep_their_order_where_the_clock_goes_back(kept: MemoryStore) -> None:
    moments = iter(NOON - dt.timedelta(seconds=n) for n in range(1000))
    here = ports(kept, now=lambda: next(moments))
    story_id = (await handlers.create_story(here, "", **STORY)).story.story_id
    plan_id = (await handlers.propose_plan(here, "", story_id, [], [task()])).plan_id
    await handlers.transition_story(here, "", story_id, "start_draft", "ana", "")
    await handlers.approve_plan(here, plan_id, "ana")
    await handlers.transition_story(here, "", story_id, "approve_scope", "ana", "")
    assert [item.message_id for item in await kept.pending(10)] == [
        f"planning.story.created:{story_id}",
        f"planning.story.transitioned:{story_id}:1",
        f"planning.plan.approved:{plan_id}",
        f"planning.story.transitioned:{story_id}:2",
    ]


async def test_pages_join_without_a_gap_though_stories_come_in_between(here: Ports) -> None:
    made = [(await handlers.create_story(here, "", **STORY)).story.story_id for _ in range(5)]
    page, token = await handlers.list_stories(here, 2, "", "")
    seen = [item.story.story_id for item in page]
    await handlers.create_story(here, "", **STORY)
    while token:
        page, token = await handlers.list_stories(here, 2, token, "")
        seen += [item.story.story_id for item in page]
    assert seen == made[::-1]


async def test_a_full_last_page_has_no_token(here: Ports) -> None:
    for _ in range(2):
        await handlers.create_story(here, "", **STORY)
    page, token = await handlers.list_stories(here, 2, "", "")
    assert (len(page), token) == (2, "")


@pytest.mark.parametrize("token", ["x", "%%%", "é", base64.urlsafe_b64encode(b"2026~x' OR 1").decode(), "AAAA"])
async def test_a_token_of_ones_own_is_refused(here: Ports, token: str) -> None:
    with pytest.raises(Invalid, match="page_token"):
        await handlers.list_stories(here, 2, token, "")


async def test_a_page_too_large_or_an_unknown_state_is_refused(here: Ports) -> None:
    with pytest.raises(Invalid, match="page_size"):
        await handlers.list_stories(here, 501, "", "")
    with pytest.raises(Invalid, match="plan_state"):
        await handlers.list_stories(here, 0, "", "done")
    with pytest.raises(Invalid, match="state must be one of BACKLOG, DRAFT"):
        await handlers.list_stories(here, 0, "", "", "draft")


class Wire:
    """A stream that takes what is published; `away` makes it refuse."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.traces: list[str] = []
        self.away = False

    async def last(self, stream: str) -> tuple[int, str]:
        return len(self.taken), self.taken[-1] if self.taken else ""

    async def publish(self, event: events.Event, timeout: dt.timedelta, after: int | None) -> int:
        if self.away:
            raise Unavailable("no NATS")
        if after != len(self.taken):
            raise Conflict("another event follows on it")
        self.taken.append(event.message_id())
        self.traces.append(tracing.trace_id())
        return len(self.taken)


async def approved_plan(here: Ports) -> tuple[str, str]:
    made = await handlers.create_story(here, "", **STORY)
    plan = await handlers.propose_plan(here, "", made.story.story_id, [], [task()])
    await handlers.approve_plan(here, plan.plan_id, "ana")
    return f"planning.story.created:{made.story.story_id}", f"planning.plan.approved:{plan.plan_id}"


async def test_events_are_published_once_in_order_and_then_forgotten(here: Ports, kept: MemoryStore) -> None:
    wire = Wire()
    ids = [*await approved_plan(here), *await approved_plan(here)]
    await outbox.publish_pending(kept, wire, asyncio.Event())
    await outbox.publish_pending(kept, wire, asyncio.Event())
    assert wire.taken == ids
    assert await kept.pending(10) == []


async def test_an_event_is_published_in_the_trace_of_the_request_that_made_it(here: Ports, kept: MemoryStore) -> None:
    wire = Wire()
    span = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(span)):
        await handlers.create_story(here, "", **STORY)
    await outbox.publish_pending(kept, wire, asyncio.Event())
    assert wire.traces == [format(0xABC, "032x")]


async def test_the_relay_keeps_what_it_cannot_publish_says_so_and_wakes_at_once(kept: MemoryStore) -> None:
    wire, woken, stop = Wire(), asyncio.Event(), asyncio.Event()
    here = ports(kept, woken=woken)
    reports: list[str | None] = []
    wire.away = True
    running = asyncio.create_task(outbox.relay(kept, wire, woken, reports.append, stop))
    await asyncio.sleep(0.05)
    assert reports == [None]
    ids = await approved_plan(here)
    await asyncio.sleep(0.05)
    assert reports[-1] == "no NATS"
    assert len(await kept.pending(10)) == 2
    wire.away = False
    woken.set()
    await asyncio.sleep(0.05)
    assert wire.taken == list(ids)
    assert reports[-1] is None
    stop.set()
    await asyncio.wait_for(running, 1)


async def test_the_relay_finds_what_another_replica_left(kept: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PAUSE_SECONDS", 0.05)
    wire, stop = Wire(), asyncio.Event()
    running = asyncio.create_task(outbox.relay(kept, wire, asyncio.Event(), lambda reason: None, stop))
    await asyncio.sleep(0.02)
    ids = await approved_plan(ports(kept))
    await asyncio.sleep(0.2)
    assert wire.taken == list(ids)
    stop.set()
    await asyncio.wait_for(running, 1)


async def test_a_store_that_is_away_does_not_end_the_relay() -> None:
    class Away(MemoryStore):
        async def pending(self, limit: int) -> list[object]:  # type: ignore[override]
            raise Conflict("busy")

    stop, reports = asyncio.Event(), list[str | None]()
    running = asyncio.create_task(outbox.relay(Away(), Wire(), asyncio.Event(), reports.append, stop))
    await asyncio.sleep(0.05)
    assert (reports, running.done()) == (["busy"], False)
    stop.set()
    await asyncio.wait_for(running, 1)
