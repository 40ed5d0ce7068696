import asyncio
import datetime as dt
import re

import nats.errors
import nats.js.errors
import pytest
from conftest import Connect, NatsServer, eventually, free_port
from nats.aio.msg import Msg
from opentelemetry import trace

from fleet_wire import events, tracing
from fleet_wire.bus import WRONG_LAST_SEQUENCE, Bus, connect
from fleet_wire.direct import subscribe
from fleet_wire.errors import Conflict, Invalid, Unavailable

STORY = events.StoryCreated(story_id="story-1", title="Login", brief="Let people in")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def count(bus: Bus, stream: str) -> int:
    return (await bus.js.stream_info(stream)).state.messages


def in_(seconds: float) -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=seconds)


async def test_an_event_is_stored_with_its_headers(bus: Bus) -> None:
    sequence = await bus.publish(STORY)
    stored = await bus.js.get_msg("PLANNING_EVENTS", sequence)
    assert stored.subject == "planning.story.created"
    assert events.decode(str(stored.subject), stored.data or b"") == STORY
    headers = stored.headers or {}
    assert headers["Nats-Msg-Id"] == headers["ce-id"] == "planning.story.created:story-1"
    assert headers["ce-type"] == "planning.story.created"
    assert headers["ce-source"] == "fleet/test"
    assert headers["ce-subject"] == "story-1"
    assert headers["ce-specversion"] == "1.0"
    assert dt.datetime.fromisoformat(headers["ce-time"]).tzinfo is not None
    assert re.match(r"^00-[0-9a-f]{32}-[0-9a-f]{16}-01$", headers["traceparent"])


async def test_the_same_event_twice_is_stored_once(bus: Bus) -> None:
    assert await bus.publish(STORY) == await bus.publish(STORY)
    assert await count(bus, "PLANNING_EVENTS") == 1


async def test_an_event_that_is_to_follow_on_another_is_refused_where_a_third_came_between(bus: Bus) -> None:
    others = [events.StoryCreated(story_id=f"story-{n}", title="", brief="") for n in range(2, 5)]
    assert await bus.last("PLANNING_EVENTS") == (0, "")
    first = await bus.publish(STORY, after=0)
    assert await bus.last("PLANNING_EVENTS") == (first, STORY.message_id())
    second = await bus.publish(others[0], after=first)
    with pytest.raises(Conflict, match="does not follow on"):
        await bus.publish(others[1], after=first)
    assert await bus.last("PLANNING_EVENTS") == (second, others[0].message_id())
    assert await bus.publish(others[1], after=second) == second + 1


async def test_where_the_last_message_is_gone_its_sequence_stays(bus: Bus) -> None:
    sequence = await bus.publish(STORY)
    await bus.js.purge_stream("PLANNING_EVENTS")
    assert await bus.last("PLANNING_EVENTS") == (sequence, "")


async def test_the_last_message_of_a_stream_that_is_not_there_or_cannot_be_reached_is_unavailable(
    bus: Bus, nats_server: NatsServer
) -> None:
    with pytest.raises(Unavailable, match="stream NO_SUCH does not exist"):
        await bus.last("NO_SUCH")
    nats_server.kill()
    with pytest.raises(Unavailable, match="stream PLANNING_EVENTS cannot be reached"):
        await bus.last("PLANNING_EVENTS")


async def test_an_event_belongs_to_the_trace_it_is_published_in(bus: Bus) -> None:
    with tracing.continued({"traceparent": TRACE}):
        assert bus.headers(STORY)["traceparent"] == TRACE
        assert tracing.trace_id() == TRACE[3:35]
    assert tracing.trace_id() == ""


async def test_a_trace_is_continued_with_its_state_and_none_from_what_names_none(bus: Bus) -> None:
    with tracing.continued({"traceparent": TRACE, "tracestate": "vendor=1"}):
        assert tracing.trace_id() == TRACE[3:35]
        assert trace.get_current_span().get_span_context().trace_state.get("vendor") == "1"
        for headers in (None, {}, {"traceparent": "00-0-0-01"}, {"ce-id": "x"}):
            with tracing.continued(headers):
                assert tracing.trace_id() == ""
        with tracing.continued({"traceparent": TRACE}):
            assert not trace.get_current_span().get_span_context().trace_state
            assert bus.headers(STORY)["traceparent"] == TRACE


async def test_outside_a_trace_a_repeated_event_starts_the_same_one(bus: Bus) -> None:
    other = events.StoryCreated(story_id="story-2", title="", brief="")
    assert bus.headers(STORY)["traceparent"] == bus.headers(STORY)["traceparent"]
    assert bus.headers(STORY)["traceparent"] != bus.headers(other)["traceparent"]


async def test_an_event_published_while_the_server_is_down_arrives_once(bus: Bus, nats_server: NatsServer) -> None:
    nats_server.kill()
    publishing = asyncio.create_task(bus.publish(STORY))
    await asyncio.sleep(0.3)
    assert not publishing.done()
    nats_server.start()
    await asyncio.wait_for(publishing, 10)
    assert await count(bus, "PLANNING_EVENTS") == 1
    assert bus.connected


async def test_publishing_gives_up_with_unavailable(bus: Bus, nats_server: NatsServer) -> None:
    nats_server.kill()
    with pytest.raises(Unavailable, match=r"planning.story.created:story-1 could not be published"):
        await bus.publish(STORY, timeout=dt.timedelta(seconds=0.2))


async def test_publishing_waits_for_a_stream_that_is_not_there_yet(bare_bus: Bus) -> None:
    from fleet_wire import apply

    publishing = asyncio.create_task(bare_bus.publish(STORY))
    await asyncio.sleep(0.2)
    assert not publishing.done()
    await apply.apply(bare_bus)
    await asyncio.wait_for(publishing, 5)


async def test_core_publish_reaches_the_stream_too(bus: Bus) -> None:
    chunk = events.TokenChunk(deliberation_id="d", agent_id="a", job_id="j", attempt=1, seq=0, text="x")
    await bus.publish_core(chunk)
    await bus.client.flush()
    for _ in range(50):
        if await count(bus, "VLLM_STREAMING"):
            break
        await asyncio.sleep(0.1)  # the server has it now, and stores it when it comes to it
    stored = await bus.js.get_last_msg("VLLM_STREAMING", "vllm.streaming.d.a")
    assert events.decode("vllm.streaming.d.a", stored.data or b"") == chunk


@pytest.mark.parametrize(("redacted", "brief"), [(False, "pwd=[redacted:password]"), (True, "pwd=hunter2")])
async def test_an_event_is_redacted_unless_it_is_said_to_be(bus: Bus, redacted: bool, brief: str) -> None:
    story = events.StoryCreated(story_id="story-1", title="", brief="pwd=hunter2")
    seen = await bus.client.subscribe(story.subject())
    await bus.publish(story, redacted=redacted)
    await bus.publish_core(story, redacted=redacted)
    for _ in range(2):
        event = events.decode(story.subject(), (await seen.next_msg(timeout=5)).data)
        assert isinstance(event, events.StoryCreated) and event.brief == brief


async def timers(bus: Bus) -> "asyncio.Queue[tuple[float, Msg]]":
    """Every delivered timer with the moment of its delivery."""
    queue: asyncio.Queue[tuple[float, Msg]] = asyncio.Queue()

    async def on_message(message: Msg) -> None:
        queue.put_nowait((asyncio.get_running_loop().time(), message))

    await bus.js.subscribe("timers.deadline.>", cb=on_message, ordered_consumer=True)
    return queue


async def test_a_scheduled_event_comes_at_its_moment(bus: Bus) -> None:
    queue = await timers(bus)
    event = events.DeadlineReached(deliberation_id="d1")
    started = asyncio.get_running_loop().time()
    await bus.schedule(event, in_(1.3))
    moment, message = await asyncio.wait_for(queue.get(), 5)
    assert 1.2 < moment - started < 2.0
    assert events.decode(message.subject, message.data) == event


async def test_a_later_schedule_replaces_the_earlier(bus: Bus) -> None:
    queue = await timers(bus)
    event = events.DeadlineReached(deliberation_id="d1")
    await bus.schedule(event, in_(60))
    await bus.schedule(event, in_(0.5))
    await asyncio.wait_for(queue.get(), 5)
    await asyncio.sleep(0.3)
    assert queue.empty()


async def test_what_was_taken_back_does_not_come(bus: Bus) -> None:
    queue = await timers(bus)
    await bus.schedule(events.DeadlineReached(deliberation_id="d1"), in_(0.8))
    await bus.schedule(events.DeadlineReached(deliberation_id="d2"), in_(0.8))
    await bus.unschedule("d1")
    _, message = await asyncio.wait_for(queue.get(), 5)
    assert message.subject == "timers.deadline.d2"
    await asyncio.sleep(0.3)
    assert queue.empty()


async def test_a_schedule_survives_the_servers_crash_and_an_overdue_one_comes_at_once(
    bus: Bus, nats_server: NatsServer
) -> None:
    await bus.schedule(events.DeadlineReached(deliberation_id="d1"), in_(0.5))
    nats_server.kill()
    await asyncio.sleep(0.7)
    nats_server.start()
    again = await connect(nats_server.url, "test")
    queue = await timers(again)
    _, message = await asyncio.wait_for(queue.get(), 10)
    assert message.subject == "timers.deadline.d1"
    await again.close()


async def test_an_acknowledgement_that_does_not_come_is_waited_for_so_long_and_no_longer(bus: Bus) -> None:
    asked: list[Msg] = []

    async def note(message: Msg) -> None:
        asked.append(message)

    await bus.client.subscribe("nobody.answers", cb=note)
    with pytest.raises(nats.errors.TimeoutError):
        await bus.append("nobody.answers", b"", {}, 0.2)
    await bus.client.publish(asked[0].reply, b'{"stream": "X", "seq": 7}')  # it comes after all
    first, second = await asyncio.gather(
        *(bus.append("planning.story.created", b"{}", {"Nats-Msg-Id": name}) for name in "ab")
    )
    assert (await bus.last("PLANNING_EVENTS")) == (max(first, second), "b" if second > first else "a")


async def test_what_no_stream_takes_and_what_a_stream_refuses_is_told_apart(bus: Bus) -> None:
    with pytest.raises(nats.js.errors.NoStreamResponseError):
        await bus.append("nobody.listens", b"", {})
    with pytest.raises(nats.js.errors.APIError) as refused:
        await bus.append("planning.story.created", b"{}", {"Nats-Expected-Last-Sequence": "77"})
    assert refused.value.err_code in WRONG_LAST_SEQUENCE


@pytest.mark.parametrize(
    "headers",
    [
        {"ce-id": "story:1"},
        {"ce-id": "story:1", "ce-source": "fleet/test", "Nats-Msg-Id": "äöü €", "ce-time": ""},
        {"ce-id": "story:1", "ce-type": "one\r\nNats-Msg-Id: two"},
        {"ce-id": "one\r\nNats-Msg-Id: two"},
        {"ce-id": "one\ntwo", "ce-type": "three\rfour"},
    ],
)
async def test_each_header_arrives_by_itself_and_none_begins_another(bus: Bus, headers: dict[str, str]) -> None:
    came: list[Msg] = []
    await subscribe(bus.client, "planning.story.created", came.append)
    await bus.append("planning.story.created", b"{}", headers)
    await bus.send("planning.story.created", b"{}", headers)
    await eventually(lambda: len(came) == 2)
    one_line = {name: value.replace("\r", " ").replace("\n", " ") for name, value in headers.items()}
    assert [message.headers for message in came] == [one_line, one_line]
    assert [message.data for message in came] == [b"{}", b"{}"]


async def test_a_name_that_no_header_can_have_is_refused(bus: Bus) -> None:
    for name in ("ce id", "ce-id:", "ce\r\nid"):
        with pytest.raises(nats.errors.Error):
            await bus.append("planning.story.created", b"{}", {"ce-type": "x", name: "y"})


async def test_a_message_that_cannot_be_taken_hides_no_other(bus: Bus) -> None:
    taken: list[bytes] = []

    def take(message: Msg) -> None:
        taken.append(message.data)
        if message.data == b"1":
            raise ValueError("not this one")

    subscription = await subscribe(bus.client, "taken.here", take)
    for number in range(3):
        await bus.client.publish("taken.here", str(number).encode())
    await eventually(lambda: len(taken) == 3)
    await subscription.drain()  # type: ignore[no-untyped-call, unused-ignore]
    await bus.client.publish("taken.here", b"3")
    await bus.append("planning.story.created", b"{}", {})
    assert taken == [b"0", b"1", b"2"]


async def test_what_is_discarded_up_to_a_sequence_leaves_what_came_after_it(bus: Bus) -> None:
    first = await bus.append("$KV.plans.p1", b"{}", {})
    second = await bus.append("$KV.plans.p1", b"[]", {})
    await bus.append("$KV.plans.p2", b"{}", {})
    await bus.append("$KV.plans.p3", b"{}", {})
    await bus.discard("KV_plans", "$KV.plans.p1", first)
    await bus.js.purge_stream("KV_plans", subject="$KV.plans.p0")  # answered after what was asked before it
    assert (await bus.js.get_last_msg("KV_plans", "$KV.plans.p1")).seq == second
    await bus.discard("KV_plans", "$KV.plans.p1", second)
    await bus.discard("KV_plans", "$KV.plans.p3")
    await bus.js.purge_stream("KV_plans", subject="$KV.plans.p0")
    left = (await bus.js.stream_info("KV_plans", subjects_filter=">")).state
    assert left.subjects == {"$KV.plans.p2": 1}


async def test_what_is_sent_over_an_ended_connection_raises_unavailable(bus: Bus) -> None:
    await bus.close()
    with pytest.raises(Unavailable, match="could not be sent to"):
        await bus.send("ended.here", b"")


async def test_connecting_gives_up_after_its_wait_without_showing_a_password() -> None:
    with pytest.raises(Unavailable, match="no NATS server answers") as caught:
        await connect(f"nats://ann:hunter2@127.0.0.1:{free_port()}", "test", wait=dt.timedelta(seconds=0.3))
    assert "hunter2" not in str(caught.value)


async def test_connecting_waits_for_a_server_that_comes_later(nats_server: NatsServer) -> None:
    nats_server.kill()
    connecting = asyncio.create_task(connect(nats_server.url, "test"))
    await asyncio.sleep(0.3)
    assert not connecting.done()
    nats_server.start()
    bus = await asyncio.wait_for(connecting, 10)
    assert bus.connected
    await bus.close()


async def test_credentials_that_cannot_be_read_are_said_at_once(nats_server: NatsServer) -> None:
    with pytest.raises(Invalid, match="NATS_CREDS names /nowhere/creds"):
        await asyncio.wait_for(connect(nats_server.url, "test", creds="/nowhere/creds"), 2)


async def test_closed_is_set_when_the_connection_ended_for_good(connected: Connect) -> None:
    bus = await connected()
    assert not bus.closed.is_set()
    await bus.close()
    await bus.close()
    await asyncio.wait_for(bus.closed.wait(), 2)
    with pytest.raises(Unavailable):
        await bus.publish_core(STORY)
