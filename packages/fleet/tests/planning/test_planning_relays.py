"""Several replicas on one graph database and one NATS server: each event of a story once, in order; each approval once.

The server's own memory of message ids, which hides a second publication for two minutes, is cut to a moment here.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import pytest
import pytest_asyncio
import realparts
from planning_samples import NOON, eventually, on_stream, ports, task

from fleet.bolt import Graph
from fleet.planning import handlers, outbox
from fleet.planning.graph import GraphStore
from fleet.planning.handlers import Ports
from fleet.planning.store import Outgoing, outgoing
from fleet.settings import GraphSettings
from fleet_wire import apply, clock, events
from fleet_wire.bus import Bus, connect
from fleet_wire.errors import Precondition

WINDOW_SECONDS = 0.1
"""The least that the server takes."""
STORY: dict[str, Any] = {"title": "Search", "brief": "Find.", "acceptance": [], "phase": "", "actor": "ana"}
BACK_AND_FORTH = ["start_draft", *["approve_scope", "reject_design"] * 2]


@dataclasses.dataclass
class Replica:
    """What one process of planning has of its own: its connections, and what wakes its relay."""

    graph: Graph
    store: GraphStore
    bus: Bus
    here: Ports
    woken: asyncio.Event


class Start(Protocol):
    async def __call__(self) -> Replica: ...


@pytest_asyncio.fixture
async def replica(graph_settings: GraphSettings, own_nats: realparts.Nats) -> AsyncIterator[Start]:
    """Connects one more replica."""
    async with contextlib.AsyncExitStack() as stack:

        async def start() -> Replica:
            graph = Graph(graph_settings)
            stack.push_async_callback(graph.close)
            store = GraphStore(graph)
            await store.prepare()
            bus = await connect(own_nats.url, "planning")
            stack.push_async_callback(bus.close)
            await apply.apply(bus)
            config = (await bus.js.stream_info(outbox.STREAM)).config
            await bus.js.update_stream(config=dataclasses.replace(config, duplicate_window=WINDOW_SECONDS))
            woken = asyncio.Event()
            return Replica(graph, store, bus, ports(store, clock.now, woken), woken)

        yield start


@contextlib.asynccontextmanager
async def relaying(one: Replica, stream: outbox.Stream | None = None) -> AsyncIterator[asyncio.Task[None]]:
    """The replica's relay, until the block ends."""
    stop = asyncio.Event()
    task_ = asyncio.create_task(outbox.relay(one.store, stream or one.bus, one.woken, lambda reason: None, stop))
    yield task_
    stop.set()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.wait_for(task_, 10)


async def led(one: Replica, other: Replica) -> str:
    """A story that two replicas lead back and forth by turns; its id."""
    story_id = (await handlers.create_story(one.here, "", **STORY)).story.story_id
    for number, event in enumerate(BACK_AND_FORTH):
        who = other if number % 2 else one
        await handlers.transition_story(who.here, "", story_id, event, "ana", "so")
    return story_id


async def told(bus: Bus) -> dict[str, list[str]]:
    """The message ids on the stream by story, in their order."""
    found = defaultdict(list)
    for subject in ("planning.story.created", "planning.story.transitioned"):
        for body in await on_stream(bus, subject):
            event = events.decode(subject, body)
            assert isinstance(event, events.StoryCreated | events.StoryTransitioned)
            found[event.story_id].append(event.message_id())
    return found


def wanted(story_id: str, transitions: int = len(BACK_AND_FORTH)) -> list[str]:
    moved = [f"planning.story.transitioned:{story_id}:{n}" for n in range(1, transitions + 1)]
    return [f"planning.story.created:{story_id}", *moved]


async def emptied(*replicas: Replica) -> None:
    async def empty() -> bool:
        return not await replicas[0].store.pending(1)

    await eventually(empty, 60)


async def until_forgotten() -> None:
    """Longer than the server remembers message ids: nothing tells when it has forgotten one."""
    await asyncio.sleep(WINDOW_SECONDS * 3)


async def test_two_relays_at_once_publish_each_event_once_and_in_order(
    replica: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PAUSE_SECONDS", 0.01)
    one, other = await replica(), await replica()
    async with relaying(one), relaying(other):
        made = await asyncio.gather(*(led(*pair) for pair in [(one, other), (other, one)] * 2))
        await emptied(one)
    found = await told(one.bus)
    assert {story_id: found[story_id] for story_id in made} == {story_id: wanted(story_id) for story_id in made}


class Held:
    """A stream whose publications wait at a gate, before or after the server has taken them."""

    def __init__(self, bus: Bus, after: bool) -> None:
        self._bus = bus
        self._after = after
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()

    async def last(self, stream: str) -> tuple[int, str]:
        return await self._bus.last(stream)

    async def publish(self, event: events.Event, timeout: dt.timedelta, after: int | None) -> int:
        if self._after:
            sequence = await self._bus.publish(event, timeout, after)
        self.reached.set()
        await self.gate.wait()
        return sequence if self._after else await self._bus.publish(event, timeout, after)


async def test_what_a_cancelled_relay_published_and_did_not_take_out_is_not_published_again(replica: Start) -> None:
    one, other = await replica(), await replica()
    await emptied_by(one)
    story_id = await led(one, other)
    held = Held(one.bus, after=True)
    async with relaying(one, held) as running:
        await asyncio.wait_for(held.reached.wait(), 10)
        running.cancel()
    assert (await told(one.bus))[story_id] == wanted(story_id)[:1]
    await until_forgotten()
    async with relaying(other):
        await emptied(other)
    assert (await told(one.bus))[story_id] == wanted(story_id)


async def test_a_relay_that_stood_still_while_another_went_on_publishes_nothing_late(replica: Start) -> None:
    one, other = await replica(), await replica()
    await emptied_by(one)
    story_id = await led(one, other)
    held = Held(one.bus, after=False)
    async with relaying(one, held):
        await asyncio.wait_for(held.reached.wait(), 10)
        async with relaying(other):
            await emptied(other)
        await until_forgotten()
        held.gate.set()
        await handlers.transition_story(one.here, "", story_id, "approve_scope", "ana", "")
        await emptied(one)
    assert (await told(one.bus))[story_id] == wanted(story_id, len(BACK_AND_FORTH) + 1)


async def test_a_message_of_somebody_else_on_the_stream_holds_nothing_up(replica: Start) -> None:
    one, other = await replica(), await replica()
    await emptied_by(one)
    story_id = (await handlers.create_story(one.here, "", **STORY)).story.story_id
    last = await outbox.publish_pending(one.store, one.bus, asyncio.Event())
    await other.bus.js.publish("planning.somebody.else", b"?")
    await handlers.transition_story(one.here, "", story_id, "start_draft", "ana", "")
    await outbox.publish_pending(one.store, one.bus, asyncio.Event(), last)
    assert (await told(one.bus))[story_id] == wanted(story_id, 1)


async def emptied_by(one: Replica) -> None:
    """Publishes what other tests left."""
    await outbox.publish_pending(one.store, one.bus, asyncio.Event())


class Readings:
    """A database that answers each reading with the next of these."""

    def __init__(self, readings: list[list[Outgoing]]) -> None:
        self._readings = readings

    async def read(self, work: Callable[..., object]) -> list[Outgoing]:
        return self._readings.pop(0)


def item(of: str, number: int) -> Outgoing:
    """The event of a story's `number`-th transition."""
    event = events.StoryTransitioned(story_id=of, from_state="A", to_state="B", actor="ana", version=number)
    return outgoing(event, NOON + dt.timedelta(seconds=number))


async def test_of_a_story_no_event_is_taken_without_those_before_it() -> None:
    """A reading that runs beside two commits may find the later one only; so may the second reading, of another story."""

    readings = [[item("s1", 2)], [item("s1", 1), item("s1", 2), item("s1", 3), item("s2", 2)]]
    found = await GraphStore(Readings(readings)).pending(16)  # type: ignore[arg-type]
    assert [(one.story_id, one.event().key()) for one in found] == [("s1", "s1:1"), ("s1", "s1:2")]


async def test_what_another_relay_took_out_meanwhile_does_not_look_like_an_empty_outbox() -> None:
    first, second = item("s1", 1), item("s2", 1)
    readings = [[first], [second], [second], [second]]
    assert await GraphStore(Readings(readings)).pending(1) == [second]  # type: ignore[arg-type]


async def test_people_who_approve_over_two_connections_at_once_are_told_of_the_one_who_won(replica: Start) -> None:
    one, other = await replica(), await replica()
    for _ in range(5):
        story_id = (await handlers.create_story(one.here, "", **STORY)).story.story_id
        plans = [(await handlers.propose_plan(one.here, "", story_id, [], [task()])).plan_id for _ in range(2)]
        tries = [(where, plan_id, who) for plan_id in plans for where, who in ((one, "ana"), (other, "ben"))]
        answers = await asyncio.gather(
            *(handlers.approve_plan(where.here, plan_id, who) for where, plan_id, who in tries), return_exceptions=True
        )
        [won] = [answer for answer in answers if not isinstance(answer, BaseException)]
        refused = {plan_id: answer for answer, (_, plan_id, _) in zip(answers, tries, strict=True) if answer != won}
        assert all(isinstance(answer, Precondition) for answer in answers if answer != won)
        [lost] = set(plans) - {won.plan_id}
        assert str(refused[won.plan_id]) == (
            f"plan {won.plan_id} is approved, not proposed: {won.decided_by} decided on it"
        )
        assert str(refused[lost]) == (
            f"plan {lost} is superseded, not proposed: {won.plan_id} was approved in its place"
        )
        kept = await handlers.get_story(other.here, story_id)
        assert {plan.plan_id: plan.state for plan in kept.plans} == {won.plan_id: "approved", lost: "superseded"}


async def test_a_plan_proposed_while_another_is_approved_is_counted_and_stays_or_is_superseded(replica: Start) -> None:
    one, other = await replica(), await replica()
    for _ in range(5):
        story_id = (await handlers.create_story(one.here, "", **STORY)).story.story_id
        first = await handlers.propose_plan(one.here, "", story_id, [], [task()])
        await asyncio.gather(
            handlers.approve_plan(one.here, first.plan_id, "ana"),
            *(handlers.propose_plan(other.here, "", story_id, [], [task()]) for _ in range(3)),
        )
        plans = (await handlers.get_story(one.here, story_id)).plans
        assert [plan.version for plan in plans] == [1, 2, 3, 4]
        assert plans[0].state == "approved"
        assert {plan.state for plan in plans[1:]} <= {"proposed", "superseded"}
