"""`fleet watch` with a real NATS server; the feed it reads over its restart."""

import asyncio
import datetime as dt
import json
import os
import signal
import sys
from collections.abc import Callable

import clievents
import cliservers
import pytest
import realparts
from cliservers import Fleet

from fleet.cli.feed import Feed, Seen
from fleet_wire import apply, events, ids
from fleet_wire import bus as bus_module
from fleet_wire.bus import Bus
from fleet_wire.gen.planning.v1 import planning_pb2

Unique = Callable[[str], str]


async def take(feed: Feed, count: int, seconds: float = 15) -> list[Seen]:
    found: list[Seen] = []
    async with asyncio.timeout(seconds):
        while len(found) < count:
            seen = await feed.next()
            if seen is not None:
                found.append(seen)
    return found


async def test_watch_prints_the_events_of_a_plan_and_ends_with_it(
    fleet: Fleet, services: cliservers.Services, bus: Bus, unique: Unique
) -> None:
    plan = unique("plan")
    name, retry = ids.deliberation_id(plan, "one", 1), ids.deliberation_id(plan, "one", 2)
    services.planning.plans[plan] = planning_pb2.Plan(plan_id=plan, state="approved", tasks=[{"task_id": "one"}])
    services.planning.plans[plan].proposed_at.GetCurrentTime()
    await bus.publish(clievents.started(name, plan))  # before the watching begins
    await bus.publish_core(clievents.chunk(name, 0, "text"))
    running = asyncio.create_task(fleet("watch", plan, "--json"))
    await asyncio.sleep(1)
    await bus.publish(clievents.completed(retry, plan))
    await bus.publish(clievents.completed(unique("delib"), unique("plan")))
    await bus.publish(clievents.plan_completed(plan))
    await asyncio.sleep(0.5)
    assert not running.done(), "its last decision is not in the graph yet"
    await bus.publish(clievents.updated(retry, plan))
    result = await asyncio.wait_for(running, 15)
    assert result.exit_code == 0, result.output
    seen = [json.loads(line) for line in result.stdout.splitlines()]
    assert {event["type"] for event in seen} == {
        "orchestration.deliberation.started",
        "orchestration.deliberation.completed",
        "orchestration.plan.completed",
        "context.updated",
    }
    assert len(seen) == 4 and all(event["event"]["plan_id"] == plan for event in seen)


async def test_watch_prints_what_already_happened_by_its_time(
    fleet: Fleet, services: cliservers.Services, bus: Bus, unique: Unique
) -> None:
    plan = unique("plan")
    names = [ids.deliberation_id(plan, f"task-{number}", 1) for number in range(5)]
    services.planning.plans[plan] = planning_pb2.Plan(plan_id=plan, state="completed")
    services.planning.plans[plan].proposed_at.GetCurrentTime()
    for name in names:
        await bus.publish(clievents.started(name, plan))
        await bus.publish(clievents.completed(name, plan))
        await bus.publish(clievents.updated(name, plan))
    result = await fleet("watch", plan, "--json")
    seen = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"]["deliberation_id"] for event in seen] == [name for name in names for _ in range(3)]
    assert result.exit_code == 0


async def test_watch_ends_at_once_where_nothing_is_to_come_of_a_plan(
    fleet: Fleet, services: cliservers.Services, unique: Unique
) -> None:
    never, ended = unique("plan"), unique("plan")
    for plan, decided_by in ((never, ""), (ended, "ana")):
        services.planning.plans[plan] = planning_pb2.Plan(plan_id=plan, state="superseded", decided_by=decided_by)
        services.planning.plans[plan].proposed_at.GetCurrentTime()
    services.planning.plans[ended].completed_at.GetCurrentTime()
    for plan in (never, ended):
        assert (await asyncio.wait_for(fleet("watch", plan), 15)).exit_code == 0


async def test_watch_with_all_prints_each_chunk_harmlessly(
    fleet: Fleet, services: cliservers.Services, bus: Bus, unique: Unique
) -> None:
    name = services.orchestrator.deliberation_id = unique("delib")
    services.orchestrator.outcomes[name] = ("failed", b"")
    await bus.publish_core(clievents.chunk(name, 0, "a\x1b[2Jb"))
    await bus.publish(clievents.failed(name))
    result = await fleet("watch", name, "--all")
    assert result.exit_code == 0
    assert "a␛[2Jb" in result.stdout and "quorum_missed" in result.stdout and "\x1b" not in result.stdout
    assert "vllm.streaming" not in (await fleet("watch", name)).stdout


async def test_watch_of_nothing_known_is_exit_1(fleet: Fleet) -> None:
    result = await fleet("watch", "plan-none")
    assert result.exit_code == 1 and "plan-none is no plan, story or deliberation" in result.stderr


async def test_ctrl_c_ends_watch_with_0(bus: Bus, nats_url: str, unique: Unique) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import typer; from fleet.cli.watch import watch; typer.run(watch)",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "NATS_URL": nats_url},
    )
    assert process.stdout is not None
    name = unique("delib")
    reading = asyncio.create_task(process.stdout.readline())
    async with asyncio.timeout(30):
        for number in range(1000):
            await bus.publish(clievents.started(f"{name}-{number}"))
            if reading.done() or (await asyncio.wait({reading}, timeout=0.3))[0]:
                break
    assert name in (await reading).decode()
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0 and b"Traceback" not in errors, errors.decode()


async def test_the_feed_begins_where_it_is_told(bus: Bus, unique: Unique) -> None:
    before, after = unique("delib"), unique("delib")
    since = dt.datetime.now(dt.timezone.utc)
    await bus.publish(clievents.started(before))
    async with Feed(bus, streams=["ORCHESTRATOR_EVENTS"]) as fresh, Feed(bus, since, ["ORCHESTRATOR_EVENTS"]) as old:
        await bus.publish(clievents.started(after))
        [first] = await take(fresh, 1)
        assert first.event == clievents.started(after)
        names = [seen.event.key() for seen in await take(old, 2)]
        assert names == [before, after]
        async with asyncio.timeout(5):
            while not old.caught_up:
                assert await old.next(timeout=0.1) is None
    consumers = await bus.js.consumers_info("ORCHESTRATOR_EVENTS")
    assert not [info for info in consumers if info.config.ack_policy == "none"], "the feeds left consumers behind"


async def test_the_feed_reports_garbage_and_goes_on(bus: Bus, unique: Unique) -> None:
    said: list[str] = []
    async with Feed(bus, streams=["ORCHESTRATOR_EVENTS"], report=said.append) as feed:
        await bus.js.publish("orchestration.deliberation.started", b"{garbage")
        await bus.publish(clievents.started(unique("delib")))
        assert isinstance((await take(feed, 1))[0].event, events.DeliberationStarted)
    assert len(said) == 1 and "cannot be read" in said[0]


@pytest.mark.timeout(90)
async def test_the_feed_survives_a_restart_of_the_server_without_loss_or_repetition(
    own_nats: realparts.Nats, unique: Unique
) -> None:
    bus = await bus_module.connect(own_nats.url, "tests")
    try:
        await apply.apply(bus)
        names = [unique("delib") for _ in range(6)]
        async with Feed(bus) as feed:
            for name in names[:3]:
                await bus.publish(clievents.started(name))
            await bus.publish_core(clievents.chunk(names[0], 0, "before"))
            first = await take(feed, 4)
            await asyncio.to_thread(own_nats.process.kill)
            await asyncio.sleep(0.5)
            # What starts again is the same server with its data, but without what it held in memory.
            await asyncio.to_thread(own_nats.process.start)
            await apply.apply(bus)
            for name in names[3:]:
                await bus.publish(clievents.started(name))
            second = await take(feed, 3)
            async with asyncio.timeout(20):
                while (seen := await feed.next(timeout=1)) is None:
                    await bus.publish_core(clievents.chunk(names[0], 1, "after"))
        keys = [
            seen.event.deliberation_id for seen in first + second if isinstance(seen.event, events.DeliberationStarted)
        ]
        assert keys == names
        assert isinstance(seen.event, events.TokenChunk) and seen.event.text == "after"
    finally:
        await bus.close()
