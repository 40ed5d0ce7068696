"""The timers that a sweep makes."""

import datetime as dt
from typing import Any

import harness
import realparts
from harness import FAILED, PLAN_COMPLETED, Peers, approved, published, replica, task, until

from fleet.orchestrator import main
from fleet_wire import events
from fleet_wire.bus import Bus


async def timers(server: Bus) -> int:
    return (await server.js.stream_info("FLEET_TIMERS")).state.messages


async def idle(parts: main.Parts) -> bool:
    return not await parts.sweep.live.names() and not await parts.sweep.live_plans.names()


async def test_a_deadline_becomes_a_timer_when_a_sweep_finds_it_near(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers, timeout_seconds=3, sweep_seconds=0.5):
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
        assert await timers(server) == 0
        await until(lambda: timers(server), 3)
        [failed] = await until(lambda: published(server, FAILED))
        assert failed.reason == "deadline"
        assert 2.9 <= failed.duration_seconds < 3.4


async def test_what_ends_long_before_its_deadline_has_no_timer_made_or_taken_back(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    sent: list[str] = []

    def noting(parts: main.Parts) -> None:
        bus = parts.handlers.bus

        async def schedule(event: events.Event, at: dt.datetime, *more: Any) -> int:
            sent.append("schedule")
            return 0

        async def unschedule(key: str) -> None:
            sent.append("unschedule")

        bus.schedule, bus.unschedule = schedule, unschedule  # type: ignore[method-assign]

    async with replica(own_nats.url, peers, timeout_seconds=60, sweep_seconds=0.3, broken=noting) as parts:
        await server.publish(approved("p1", task("a")))
        await until(lambda: published(server, PLAN_COMPLETED))
        await until(lambda: idle(parts))
    assert sent == []
