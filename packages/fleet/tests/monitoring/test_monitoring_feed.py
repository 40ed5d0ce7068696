"""The feed on a real server: history, then live; garbage; outages; streams removed and made again."""

import asyncio
import contextlib
import datetime as dt
import itertools
from collections.abc import AsyncIterator, Callable

import monitoring_kit as kit
import pytest
import realparts
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from fleet.monitoring import feed
from fleet.monitoring.domain import Seen
from fleet_wire import apply
from fleet_wire import bus as bus_module
from fleet_wire.bus import Bus
from fleet_wire.rpc import Readiness


class Fed:
    """A running feed, what it has taken, and what it lacks."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.readiness = Readiness(*(followed.stream for followed in feed.FOLLOWED))

    def of(self, stream: str) -> list[int]:
        return [one.sequence for one in self.seen if one.stream == stream]

    async def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():  # noqa: ASYNC110 (what is waited for is in a server)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"waited in vain; missing: {self.readiness.reason!r}, seen: {self.seen}") from None

    async def live(self) -> None:
        await self.until(lambda: self.readiness.ready)


@contextlib.asynccontextmanager
async def feeding(url: str) -> AsyncIterator[Fed]:
    connection = await bus_module.connect(url, "monitoring")
    fed, stop = Fed(), asyncio.Event()
    running = asyncio.create_task(feed.follow_all(connection, fed.seen.append, fed.readiness.report, stop))
    try:
        yield fed
    finally:
        stop.set()
        await asyncio.wait_for(running, 10)
        await connection.close()


@pytest.fixture
async def own_bus(own_nats: realparts.Nats) -> AsyncIterator[Bus]:
    connection = await bus_module.connect(own_nats.url, "tests")
    await apply.apply(connection)
    yield connection
    await connection.close()


async def test_it_reads_history_then_what_comes_each_once_and_in_order(own_nats: realparts.Nats, own_bus: Bus) -> None:
    for number in range(120):
        await own_bus.publish(kit.approved(f"old-{number}"))
    await own_bus.publish_core(kit.chunk(0, "before"))
    async with feeding(own_nats.url) as fed:
        await fed.live()
        assert fed.of("PLANNING_EVENTS") == list(range(1, 121))
        await own_bus.publish(kit.approved("new"))
        await own_bus.publish_core(kit.chunk(1, "after"))
        await fed.until(lambda: len(fed.seen) == 122)
        texts = [one.event.text for one in fed.seen if isinstance(one.event, feed.events.TokenChunk)]
        assert texts == ["after"]  # of the streamed text only what is new
        age = dt.datetime.now(dt.timezone.utc) - fed.seen[-1].at
        assert abs(age) < dt.timedelta(seconds=5)


async def test_history_is_bounded(own_nats: realparts.Nats, own_bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "HISTORY_MESSAGES", 10)
    for number in range(25):
        await own_bus.publish(kit.approved(f"p-{number}"))
    async with feeding(own_nats.url) as fed:
        await fed.live()
        assert fed.of("PLANNING_EVENTS") == list(range(16, 26))


async def test_what_the_client_had_no_room_for_is_read_again(
    own_nats: realparts.Nats, own_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "PENDING_MESSAGES", 5)
    for number in range(12):
        await own_bus.publish(kit.approved(f"p-{number}"))
    async with feeding(own_nats.url) as fed:
        await fed.live()
        assert fed.of("PLANNING_EVENTS") == list(range(1, 13))


async def test_a_message_lost_on_the_way_is_read_again_before_the_next_one(
    own_nats: realparts.Nats, own_bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, count = JetStreamContext.PushSubscription.next_msg, itertools.count(1)

    async def lossy(subscription: JetStreamContext.PushSubscription, timeout: float) -> Msg:
        message = await receive(subscription, timeout)
        planning = message.subject.startswith("planning.")
        return await receive(subscription, timeout) if planning and next(count) == 2 else message

    monkeypatch.setattr(JetStreamContext.PushSubscription, "next_msg", lossy)
    for number in range(5):
        await own_bus.publish(kit.approved(f"p-{number}"))
    async with feeding(own_nats.url) as fed:
        await fed.live()
        assert fed.of("PLANNING_EVENTS") == [1, 2, 3, 4, 5]


async def test_garbage_on_each_subject_is_shown_as_malformed_and_the_feed_goes_on(
    own_nats: realparts.Nats, own_bus: Bus
) -> None:
    subjects = [
        "planning.plan.approved",
        "planning.no.such.event",
        "orchestration.deliberation.completed",
        "orchestration.x",
        "context.updated",
        "agent.results.t1",
        "vllm.streaming.d1.agent-DEV-001",
    ]
    async with feeding(own_nats.url) as fed:
        await fed.live()
        for subject in subjects:
            for body in (b"", b"\xff\xfe", b"[]", b'{"story_id": 7}', b"{" * 5000):
                await own_bus.client.publish(subject, body)
        await fed.until(lambda: len(fed.seen) == 5 * len(subjects))
        assert all(one.event is None and one.reason for one in fed.seen)
        assert {one.subject for one in fed.seen} == set(subjects)
        await own_bus.publish(kit.started())
        await fed.until(lambda: fed.seen[-1].event == kit.started())
        assert fed.readiness.ready


async def test_streams_that_are_not_there_are_waited_for(own_nats: realparts.Nats) -> None:
    async with feeding(own_nats.url) as fed:
        await fed.until(lambda: "does not exist" in fed.readiness.reason)
        connection = await bus_module.connect(own_nats.url, "tests")
        await apply.apply(connection)
        await connection.publish(kit.approved())
        await fed.until(lambda: bool(fed.seen))
        await fed.live()
        await connection.close()


async def test_a_stream_removed_and_made_again_is_read_from_its_beginning(
    own_nats: realparts.Nats, own_bus: Bus
) -> None:
    async with feeding(own_nats.url) as fed:
        await fed.live()
        for number in range(3):
            await own_bus.publish(kit.approved(f"p-{number}"))
        await fed.until(lambda: len(fed.seen) == 3)
        await own_bus.js.delete_stream("PLANNING_EVENTS")
        await fed.until(lambda: "PLANNING_EVENTS" in fed.readiness.reason)
        assert "CONTEXT_EVENTS" not in fed.readiness.reason
        await apply.apply(own_bus)
        await own_bus.publish(kit.approved("again"))
        await fed.until(lambda: len(fed.seen) == 4)
        assert fed.seen[-1].sequence == 1
        await fed.live()


async def test_it_goes_on_after_the_server_was_killed_without_losing_or_repeating(
    own_nats: realparts.Nats, own_bus: Bus
) -> None:
    async with feeding(own_nats.url) as fed:
        await own_bus.publish(kit.approved("before"))
        await fed.until(lambda: len(fed.seen) == 1)
        own_nats.process.kill()
        await fed.until(lambda: "not connected" in fed.readiness.reason)
        own_nats.process.start()
        await apply.apply(own_bus)  # the stream that lives in memory is gone with the server
        for number in range(3):
            await own_bus.publish(kit.approved(f"after-{number}"))
        await fed.until(lambda: len(fed.seen) == 4)
        assert fed.of("PLANNING_EVENTS") == [1, 2, 3, 4]
        await fed.live()
        await own_bus.publish_core(kit.chunk(0, "text"))
        await fed.until(lambda: len(fed.seen) == 5)


async def test_a_lost_consumer_is_made_again_and_nothing_is_missed(own_nats: realparts.Nats, own_bus: Bus) -> None:
    async with feeding(own_nats.url) as fed:
        await fed.live()
        consumers = [info.name for info in await own_bus.js.consumers_info("PLANNING_EVENTS")]
        await own_bus.js.delete_consumer("PLANNING_EVENTS", consumers[0])
        await own_bus.publish(kit.approved())
        await fed.until(lambda: fed.of("PLANNING_EVENTS") == [1])


async def test_its_consumer_is_ephemeral_and_acknowledges_nothing(own_nats: realparts.Nats, own_bus: Bus) -> None:
    async with feeding(own_nats.url) as fed:
        await fed.live()
        [info] = await own_bus.js.consumers_info("PLANNING_EVENTS")
        assert info.config.durable_name is None
        assert info.config.inactive_threshold == 30
        assert info.config.ack_policy == "none"
