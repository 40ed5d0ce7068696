import asyncio
import base64
import contextlib
import dataclasses
import datetime as dt
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Optional

import pytest
from conftest import Connect, NatsServer, eventually
from nats.aio.client import Client
from nats.aio.msg import Msg

from fleet_wire import apply, consumer, events, topology, tracing
from fleet_wire.bus import Bus
from fleet_wire.consumer import DurableConsumer
from fleet_wire.errors import AlreadyExists, Conflict, Invalid, NotFound, Precondition, Unavailable

SECOND = dt.timedelta(seconds=1)


STORIES = topology.Consumer("test-stories", "PLANNING_EVENTS", "planning.story.created", 30 * SECOND, 4)


@pytest.fixture(autouse=True)
def short_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "FETCH_SECONDS", 0.3)


def spec(concurrency: int = 4, ack_wait: dt.timedelta = 30 * SECOND) -> topology.Consumer:
    return dataclasses.replace(STORIES, concurrency=concurrency, ack_wait=ack_wait)


def story(number: int) -> events.StoryCreated:
    return events.StoryCreated(story_id=f"s{number}", title="t", brief="b")


class Work:
    """A handler that writes down what it did, and does what a test says."""

    def __init__(self, do: "Optional[Callable[[str], Awaitable[None]]]" = None) -> None:
        self.do = do
        self.begun: list[str] = []
        self.done: list[str] = []
        self.running = 0
        self.most = 0

    async def __call__(self, event: events.Event) -> None:
        assert isinstance(event, events.StoryCreated)
        self.begun.append(event.story_id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.do is not None:
                await self.do(event.story_id)
        finally:
            self.running -= 1
        self.done.append(event.story_id)


@contextlib.asynccontextmanager
async def running(
    bus: Bus, handler: consumer.Handler, of: topology.Consumer = STORIES, report: Any = lambda reason: None
) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    task = asyncio.create_task(DurableConsumer(bus, of, handler, report).run(stop, grace=2 * SECOND))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


async def dead_letters(bus: Bus) -> "list[dict[str, Any]]":
    state = (await bus.js.stream_info("DEAD_LETTERS")).state
    found = []
    for sequence in range(max(1, state.first_seq), state.last_seq + 1):
        message = await bus.js.get_msg("DEAD_LETTERS", sequence)
        if str(message.subject).startswith("dead."):
            found.append(
                {**json.loads(message.data or b""), "on": message.subject, "id": (message.headers or {})["Nats-Msg-Id"]}
            )
    return found


async def pending(bus: Bus) -> "tuple[int, int]":
    """Messages in work, and messages not delivered yet."""
    info = await bus.js.consumer_info("PLANNING_EVENTS", "test-stories")
    return info.num_ack_pending or 0, info.num_pending or 0


async def settled(bus: Bus, undelivered: int = 0) -> None:
    """Returns when the server knows of nothing that is in work; acknowledgements arrive a moment after they are sent."""
    for _ in range(500):
        if await pending(bus) == (0, undelivered):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"left in work and to deliver: {await pending(bus)}")


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.PLANNING_EVENTS.test-stories.1.193.7.1796062916004725228.2",
        "$JS.ACK.hub.ACCOUNT.PLANNING_EVENTS.test-stories.1.193.7.1796062916004725228.2",
        "$JS.ACK._.ACCOUNT.PLANNING_EVENTS.test-stories.1.193.7.1796062916004725228.2.random",
    ],
)
def test_a_messages_sequence_is_read_from_where_it_is_acknowledged(reply: str) -> None:
    assert consumer.sequence_of(Msg(_client=Client(), reply=reply)) == 193


async def test_events_are_handled_in_order_and_acknowledged(bus: Bus) -> None:
    work = Work()
    for number in range(20):
        await bus.publish(story(number))
    async with running(bus, work, spec(concurrency=1)):
        await eventually(lambda: len(work.done) == 20)
        await settled(bus)
    assert work.done == [f"s{number}" for number in range(20)]


async def test_a_message_is_acknowledged_only_after_its_work(bus: Bus) -> None:
    go = asyncio.Event()

    async def wait(story_id: str) -> None:
        await go.wait()

    work = Work(wait)
    await bus.publish(story(1))
    async with running(bus, work):
        await eventually(lambda: work.running == 1)
        assert await pending(bus) == (1, 0)
        go.set()
        await settled(bus)


async def test_no_more_is_fetched_than_can_be_worked_on(bus: Bus) -> None:
    go = asyncio.Event()

    async def wait(story_id: str) -> None:
        await go.wait()

    work = Work(wait)
    for number in range(10):
        await bus.publish(story(number))
    async with running(bus, work, spec(concurrency=3)):
        await eventually(lambda: work.running == 3)
        await asyncio.sleep(0.3)
        assert await pending(bus) == (3, 7)
        go.set()
        await eventually(lambda: len(work.done) == 10)
    assert work.most == 3


async def test_one_request_brings_many_messages_and_each_is_worked_on_as_it_comes(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "FETCH_SECONDS", 60)
    requests: list[bytes] = []

    async def seen(message: Any) -> None:
        requests.append(message.data)

    await bus.client.subscribe("$JS.API.CONSUMER.MSG.NEXT.PLANNING_EVENTS.test-stories", cb=seen)
    work = Work()
    async with running(bus, work, spec(concurrency=16)):
        for number in range(15):
            await bus.publish(story(number))
            await eventually(lambda: len(work.done) == number + 1)  # noqa: B023
    assert len(requests) == 1


async def test_what_the_server_sent_to_one_that_stops_goes_to_another_replica_at_once(
    bus: Bus, connected: Connect
) -> None:
    first, second = Work(), Work()
    async with running(bus, first, spec(concurrency=64)) as stop:
        await bus.publish(story(0))
        await eventually(lambda: first.done == ["s0"])
        stop.set()
        for number in range(1, 50):
            await bus.publish(story(number))
    async with running(await connected(), second):
        await eventually(lambda: len(first.done) + len(second.done) == 50, 5)
        await settled(bus)


async def test_progress_keeps_long_work_from_coming_twice(bus: Bus) -> None:
    async def long(story_id: str) -> None:
        await asyncio.sleep(2.5)

    work = Work(long)
    await bus.publish(story(1))
    async with running(bus, work, spec(ack_wait=SECOND)):
        await eventually(lambda: work.done == ["s1"])
        await settled(bus)
    assert work.begun == ["s1"]


@pytest.mark.parametrize("error", [Unavailable("the graph is away"), Conflict("somebody else wrote")])
async def test_passing_trouble_comes_again_with_back_off_and_is_never_counted(
    bus: Bus, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "FIRST_DELAY", dt.timedelta(milliseconds=20))
    monkeypatch.setattr(consumer, "LONGEST_DELAY", dt.timedelta(milliseconds=40))
    tries = consumer.MAX_FAILURES + 5

    async def trouble(story_id: str) -> None:
        if len(work.begun) < tries:
            raise error

    work = Work(trouble)
    await bus.publish(story(1))
    async with running(bus, work):
        await eventually(lambda: work.done == ["s1"])
        await settled(bus)
    assert len(work.begun) == tries
    assert await dead_letters(bus) == []


async def test_the_pause_before_another_try_is_kept(bus: Bus) -> None:
    moments = []

    async def trouble(story_id: str) -> None:
        moments.append(asyncio.get_running_loop().time())
        if len(moments) < 3:
            raise Unavailable("away")

    work = Work(trouble)
    await bus.publish(story(1))
    async with running(bus, work):
        await eventually(lambda: work.done == ["s1"])
    assert 0.18 < moments[1] - moments[0] < 0.39
    assert 0.38 < moments[2] - moments[1] < 0.8


def test_delays_double_up_to_the_longest() -> None:
    assert [consumer.delay(tries).total_seconds() for tries in (1, 2, 3, 7, 8, 1000)] == [0.2, 0.4, 0.8, 12.8, 15, 15]


@pytest.mark.parametrize(
    "error", [Invalid("no role"), NotFound("no plan"), AlreadyExists("other"), Precondition("done")]
)
async def test_hopeless_trouble_is_a_dead_letter_at_once(bus: Bus, error: Exception) -> None:
    async def refuse(story_id: str) -> None:
        if story_id == "s1":
            raise error

    work = Work(refuse)
    sequence = await bus.publish(story(1))
    await bus.publish(story(2))
    async with running(bus, work, spec(concurrency=1)):
        await eventually(lambda: work.done == ["s2"])
        await settled(bus)
    [letter] = await dead_letters(bus)
    assert work.begun == ["s1", "s2"]
    assert letter["on"] == "dead.PLANNING_EVENTS.test-stories"
    assert letter["id"] == f"test-stories:PLANNING_EVENTS:{sequence}"
    assert letter["reason"] == f"{type(error).__name__}: {error}"
    assert (letter["stream"], letter["consumer"], letter["sequence"]) == ("PLANNING_EVENTS", "test-stories", sequence)
    assert letter["subject"] == "planning.story.created"
    assert json.loads(letter["payload"])["story_id"] == "s1"
    assert letter["headers"]["ce-type"] == "planning.story.created"
    advisory = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.PLANNING_EVENTS.test-stories"
    assert (await bus.js.get_last_msg("DEAD_LETTERS", advisory)).data, "the server tells of what was terminated"


GARBAGE = [
    b"",
    b"\xff\x00\xfe",
    b"{",
    b"null",
    b"[" * 50_000,
    b'{"schema_version":1,"story_id":"a b"}',
    b"\x01" * 600_000,
]


async def test_garbage_of_any_kind_is_a_dead_letter_and_the_rest_goes_on(bus: Bus) -> None:
    work = Work()
    for body in GARBAGE:
        await bus.js.publish("planning.story.created", body, headers={"Bad": "x" * 3000})
    await bus.publish(story(1))
    async with running(bus, work):
        await eventually(lambda: work.done == ["s1"])
        await settled(bus)
    letters = {letter["sequence"]: letter for letter in await dead_letters(bus)}
    assert len(letters) == len(GARBAGE)
    for sequence, body in enumerate(GARBAGE, 1):
        letter = letters[sequence]
        assert letter["reason"].startswith("Invalid: not a valid planning.story.created")
        assert letter["payload_bytes"] == len(body)
        kept = letter["payload"].encode() if "payload" in letter else base64.b64decode(letter["payload_base64"])
        assert kept == body[: events.MAX_MESSAGE_BYTES]


async def test_a_dead_letter_holds_no_secret(bus: Bus) -> None:
    async def refuse(story_id: str) -> None:
        raise Invalid("http://me:hunter2@host is no story")

    await bus.js.publish("planning.story.created", b'{"story_id": "s1", "password": "hunter2"}')
    await bus.publish(story(1))
    work = Work(refuse)
    async with running(bus, work, spec(concurrency=1)):
        await eventually(lambda: work.begun == ["s1"])
        await settled(bus)
    letters = await dead_letters(bus)
    assert len(letters) == 2
    assert "hunter" not in str(letters)


async def test_unforeseen_errors_are_counted_and_then_a_dead_letter_with_their_history(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "FIRST_DELAY", dt.timedelta(milliseconds=10))

    async def fail(story_id: str) -> None:
        raise KeyError(f"number {len(work.begun)}")

    work = Work(fail)
    await bus.publish(story(1))
    async with running(bus, work):
        await eventually(lambda: len(work.begun) == consumer.MAX_FAILURES)
        await settled(bus)
    [letter] = await dead_letters(bus)
    assert letter["failures"] == [f"KeyError: 'number {number}'" for number in range(1, consumer.MAX_FAILURES + 1)]
    assert letter["reason"] == letter["failures"][-1]
    assert letter["deliveries"] == consumer.MAX_FAILURES


async def test_without_dead_letters_the_message_stays_until_there_is_a_place_for_it(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "FIRST_DELAY", dt.timedelta(milliseconds=50))
    bus.js._timeout = bus.ack_seconds = 0.3
    await bus.js.delete_stream("DEAD_LETTERS")
    await bus.js.publish("planning.story.created", b"garbage")
    async with running(bus, Work()):
        await asyncio.sleep(0.3)
        assert (await pending(bus))[0] == 1
        await apply.apply(bus)
        await settled(bus)
    assert len(await dead_letters(bus)) == 1


async def test_the_handler_runs_in_the_publishers_trace(bus: Bus) -> None:
    seen = []

    async def look(story_id: str) -> None:
        seen.append(tracing.trace_id())

    with tracing.continued({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}):
        await bus.publish(story(1))
    async with running(bus, Work(look)):
        await eventually(lambda: bool(seen))
    assert seen == ["0af7651916cd43dd8448eb211c80319c"]


async def test_nothing_is_lost_when_the_server_is_killed_in_the_middle(bus: Bus, nats_server: NatsServer) -> None:
    async def briefly(story_id: str) -> None:
        await asyncio.sleep(0.01)

    work = Work(briefly)
    reports: list[Optional[str]] = []
    async with running(bus, work, spec(concurrency=4, ack_wait=2 * SECOND), reports.append):
        publishing = asyncio.gather(*(bus.publish(story(number)) for number in range(200)))
        await eventually(lambda: len(work.done) > 30)
        nats_server.kill()
        await asyncio.sleep(0.3)
        nats_server.start()
        await asyncio.wait_for(publishing, 20)
        await eventually(lambda: len(set(work.done)) == 200, 20)
        await eventually(lambda: reports[-1] is None)
        for number in range(200, 210):
            await bus.publish(story(number))
        await eventually(lambda: len(set(work.done)) == 210)
    assert await dead_letters(bus) == []


async def test_a_stream_removed_and_made_anew_is_consumed_again(bus: Bus) -> None:
    work = Work()
    reports: list[Optional[str]] = []
    async with running(bus, work, report=reports.append):
        await bus.publish(story(1))
        await eventually(lambda: work.done == ["s1"])
        await bus.js.delete_stream("PLANNING_EVENTS")
        await eventually(lambda: reports[-1] is not None)
        await apply.apply(bus)
        await bus.publish(story(2))
        await eventually(lambda: work.done == ["s1", "s2"])
        assert reports[-1] is None


async def test_it_waits_for_a_stream_that_is_not_there_yet(bare_bus: Bus) -> None:
    work = Work()
    reports: list[Optional[str]] = []
    async with running(bare_bus, work, report=reports.append):
        await eventually(lambda: bool(reports))
        assert "test-stories cannot fetch" in str(reports[0])
        await apply.apply(bare_bus)
        await bare_bus.publish(story(1))
        await eventually(lambda: work.done == ["s1"])


async def test_stopping_finishes_what_is_begun_and_takes_nothing_new(bus: Bus) -> None:
    go = asyncio.Event()

    async def wait(story_id: str) -> None:
        await go.wait()

    work = Work(wait)
    for number in range(4):
        await bus.publish(story(number))
    async with running(bus, work, spec(concurrency=2)) as stop:
        await eventually(lambda: work.running == 2)
        stop.set()
        await asyncio.sleep(0.1)
        go.set()
    assert sorted(work.done) == ["s0", "s1"]
    await settled(bus, undelivered=2)


async def test_what_outlasts_the_grace_is_cut_off_and_goes_to_another_replica_at_once(
    bus: Bus, connected: Connect
) -> None:
    cancelled = []

    async def for_ever(story_id: str) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(story_id)
            raise

    await bus.publish(story(1))
    stop = asyncio.Event()
    begun = Work(for_ever)
    first = asyncio.create_task(DurableConsumer(bus, spec(), begun).run(stop, grace=0.1 * SECOND))
    await eventually(lambda: begun.running == 1)
    stop.set()
    await asyncio.wait_for(first, 5)
    assert cancelled == ["s1"]
    second = Work()
    async with running(await connected(), second):
        await eventually(lambda: second.done == ["s1"], 5)


async def test_what_a_cancelled_run_hands_back_does_not_come_to_it_again(
    bus: Bus, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def for_ever(story_id: str) -> None:
        await asyncio.sleep(3600)

    hand_back = Msg.nak

    async def slowly(message: Msg) -> None:
        await hand_back(message)
        await asyncio.sleep(0.1)

    await bus.publish(story(1))
    await bus.publish(story(2))
    begun = Work(for_ever)
    first = asyncio.create_task(DurableConsumer(bus, spec(), begun).run(asyncio.Event()))
    await eventually(lambda: begun.running == 2)
    monkeypatch.setattr(Msg, "nak", slowly)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = Work()
    async with running(await connected(), second):
        await eventually(lambda: sorted(second.done) == ["s1", "s2"], 5)


async def test_work_of_a_crashed_replica_comes_again_after_its_ack_wait(bus: Bus, connected: Connect) -> None:
    async def for_ever(story_id: str) -> None:
        await asyncio.sleep(3600)

    other = await connected()
    await bus.publish(story(1))
    begun = Work(for_ever)
    crashed = DurableConsumer(other, spec(ack_wait=SECOND), begun)
    task = asyncio.create_task(crashed.run(asyncio.Event()))
    await eventually(lambda: begun.running == 1)
    await other.client.close()  # no word of it to the server
    second = Work()
    async with running(bus, second, spec(ack_wait=SECOND)):
        await eventually(lambda: second.done == ["s1"], 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_two_replicas_share_the_work(bus: Bus, connected: Connect) -> None:
    async def briefly(story_id: str) -> None:
        await asyncio.sleep(0.01)

    works = [Work(briefly), Work(briefly)]
    async with running(bus, works[0], spec(2)), running(await connected(), works[1], spec(2)):
        for number in range(60):
            await bus.publish(story(number))
        await eventually(lambda: sum(len(work.done) for work in works) >= 60)
        await settled(bus)
    counts = Counter([*works[0].done, *works[1].done])
    assert len(counts) == 60
    assert set(counts.values()) == {1}
    assert min(len(work.done) for work in works) >= 10


async def test_a_durable_continues_where_it_was(bus: Bus) -> None:
    first, second = Work(), Work()
    await bus.publish(story(1))
    async with running(bus, first):
        await eventually(lambda: first.done == ["s1"])
        await settled(bus)
    await bus.publish(story(2))
    async with running(bus, second):
        await eventually(lambda: second.done == ["s2"])
    assert second.begun == ["s2"]


async def test_the_memory_of_tries_is_bounded(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "MAX_RECORDS", 5)

    async def trouble(story_id: str) -> None:
        raise Unavailable("away")

    work = Work(trouble)
    stop = asyncio.Event()
    durable = DurableConsumer(bus, spec(), work)
    task = asyncio.create_task(durable.run(stop))
    for number in range(20):
        await bus.publish(story(number))
    await eventually(lambda: len(set(work.begun)) == 20)
    assert len(durable._records) <= 5
    stop.set()
    await task
