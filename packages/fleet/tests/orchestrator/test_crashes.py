"""Crashes: after any write, and of one replica of two under load. Every deliberation ends once, and nothing is asked twice."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import harness
import pytest
import realparts
from harness import COMPLETED, PLAN_COMPLETED, Peers, approved, count, deliberation_id, published, replica, task, until

from fleet.orchestrator import main
from fleet_wire.bus import Bus


class Crash:
    """Ends a replica right after its `steps`-th write to its store or publish: done, and nothing known of it since."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.happened = asyncio.Event()

    def __call__(self, parts: main.Parts) -> None:
        store, bus = parts.store, parts.handlers.bus
        buckets = (store.plans, store.deliberations, store.live, store.prompts, store.outcomes, store.results)
        for bucket in buckets:
            bucket.create = self.counting(bucket.create)  # type: ignore[method-assign]
            bucket.update = self.counting(bucket.update)  # type: ignore[method-assign]
        bus.publish = self.counting(bus.publish)  # type: ignore[method-assign]
        bus.schedule = self.counting(bus.schedule)  # type: ignore[method-assign]
        bus.send = self.counting(bus.send)  # type: ignore[method-assign]

    def counting(self, step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.happened.is_set():
                await asyncio.Event().wait()
            answer = await step(*args, **kwargs)
            self.steps -= 1
            if self.steps <= 0:
                self.happened.set()
                await asyncio.Event().wait()
            return answer

        return wrapped


@pytest.mark.parametrize(
    ("protocol", "jobs", "least"),
    [("vote", 3, 20), ("peer_review", 3 + 2 + 3 + 6 + 3 + 3 + 6, 60)],
)
async def test_a_crash_right_after_any_write_loses_nothing_and_repeats_no_decision(
    own_nats: realparts.Nats, server: Bus, protocol: str, jobs: int, least: int
) -> None:
    """The crash comes one write later each time, until one run needs no more writes than it had."""
    steps = 0
    while True:
        # Every write of the short one, and the further ones of the long one in leaps: the phases are alike.
        steps += 1 if steps < 25 else 5
        plan_id = f"p{steps}"
        peers = Peers(server)
        crash = Crash(steps)
        async with replica(own_nats.url, peers, sweep_seconds=60, broken=crash):
            await server.publish(approved(plan_id, task("a", protocol=protocol, description=harness.CODE)))
            reached = asyncio.create_task(crash.happened.wait())
            over = asyncio.create_task(until(gone(server, plan_id)))
            await asyncio.wait({reached, over}, return_when=asyncio.FIRST_COMPLETED)
            for one in (reached, over):
                one.cancel()
            await asyncio.gather(reached, over, return_exceptions=True)
        if not crash.happened.is_set():
            break
        async with replica(own_nats.url, peers, sweep_seconds=60, broken=harness.marked_only):
            await until(gone(server, plan_id), 40)
        assert len(peers.executor.jobs) == jobs, steps
        for job_id in peers.executor.jobs:
            result = await server.js.get_last_msg("KV_results", f"$KV.results.{job_id}")
            assert (result.headers or {}).get("Nats-TTL") == f"{86400}s", steps
        assert await _subjects(server, "FLEET_TIMERS", "timers.schedule.*") == [], steps
    assert steps >= least
    decided = [event.deliberation_id for event in await published(server, COMPLETED)]
    assert len(decided) == len(set(decided))
    plans = [event.plan_id for event in await published(server, PLAN_COMPLETED)]
    assert len(plans) == len(set(plans)) == len(decided)


def gone(server: Bus, plan_id: str) -> Callable[[], Awaitable[bool]]:
    return lambda: _gone(server, plan_id)


async def _gone(server: Bus, plan_id: str) -> bool:
    """Whether the plan has ended with a decision, and no marker of a live record is left: all that was due is done."""
    names = [subject.split(".")[2] for subject in await _subjects(server, "KV_deliberations", "$KV.deliberations.*.*")]
    if "live" in names or "liveplan" in names:
        return False
    last = await server.js.get_last_msg("ORCHESTRATOR_EVENTS", PLAN_COMPLETED) if await _any(server) else None
    return last is not None and f'"{plan_id}"'.encode() in (last.data or b"")


async def _subjects(server: Bus, stream: str, pattern: str) -> list[str]:
    return list((await server.js.stream_info(stream, subjects_filter=pattern)).state.subjects or {})


async def _any(server: Bus) -> bool:
    return await count(server, PLAN_COMPLETED) > 0


async def test_two_replicas_under_load_and_one_killed_end_each_deliberation_once(
    own_nats: realparts.Nats, server: Bus
) -> None:
    peers = Peers(server)
    protocols = ["vote", "tournament", "peer_review", "auto"]
    plans = [f"p{number}" for number in range(30)]
    async with replica(own_nats.url, peers, sweep_seconds=1):
        crash = Crash(random.randint(100, 1500))
        async with replica(own_nats.url, peers, sweep_seconds=1, broken=crash):
            for number, plan_id in enumerate(plans):
                more = {"protocol": protocols[number % 4], "description": harness.CODE}
                await server.publish(approved(plan_id, task("a", **more), task("b", **more)))
            await asyncio.wait_for(crash.happened.wait(), 60)
        await until(lambda: _all(server, len(plans)), 90)
    decided = [event.deliberation_id for event in await published(server, COMPLETED)]
    assert sorted(decided) == sorted(deliberation_id(plan, one) for plan in plans for one in "ab")
    closed = [event.plan_id for event in await published(server, PLAN_COMPLETED)]
    assert sorted(closed) == sorted(plans)


async def _all(server: Bus, wanted: int) -> bool:
    return await count(server, PLAN_COMPLETED) >= wanted
