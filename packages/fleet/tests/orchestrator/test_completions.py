"""`orchestration.plan.completed`: each round of a plan is published, whatever comes between its closing and that."""

import asyncio
from typing import Any

import harness
import pytest
import realparts
from harness import PLAN_COMPLETED, Peers, approved, published, replica, task, until

from fleet.orchestrator import main
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.events import PlanCompleted


class Cut:
    """Ends a replica when it is about to publish a plan's completion."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    def __call__(self, parts: main.Parts) -> None:
        bus = parts.handlers.bus
        publish = bus.publish

        async def cut(event: Any) -> None:
            if isinstance(event, PlanCompleted):
                self.reached.set()
            if self.reached.is_set():
                await asyncio.Event().wait()
            await publish(event)

        bus.publish = cut  # type: ignore[method-assign]


def without_sweep(parts: main.Parts) -> None:
    async def nothing() -> None:
        return

    parts.sweep.once = nothing  # type: ignore[method-assign]


async def sweep(parts: main.Parts) -> None:
    """One sweep, after all that the replica has sent before."""
    await parts.handlers.bus.js.purge_stream("KV_deliberations", subject="nothing")
    await type(parts.sweep).once(parts.sweep)


async def closed_unpublished(url: str, peers: Peers, server: Bus, event: Any) -> None:
    """Runs the plan to its closing, by a replica that dies before it publishes that."""
    cut = Cut()
    async with replica(url, peers, sweep_seconds=60, broken=cut):
        await server.publish(event)
        await asyncio.wait_for(cut.reached.wait(), 20)
    assert await published(server, PLAN_COMPLETED) == []


async def unmarked(parts: main.Parts) -> bool:
    return not await parts.sweep.live_plans.names()


async def test_an_approval_that_comes_again_leaves_the_trace_of_an_unpublished_completion(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    event = approved("p1", task("a"))
    await closed_unpublished(own_nats.url, peers, server, event)
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=without_sweep) as parts:
        await parts.handlers.on_plan_approved(event)
        await sweep(parts)
        [completed] = await published(server, PLAN_COMPLETED)
        await until(lambda: unmarked(parts))
        await parts.handlers.on_plan_approved(event)
        await until(lambda: unmarked(parts))
    assert (completed.decided, completed.round) == (["a"], 1)
    assert len(await published(server, PLAN_COMPLETED)) == 1


async def test_a_retry_after_the_closing_publishes_that_round_before_it_opens_the_next(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    event = approved("p1", task("a"))
    peers.plan_book.plans = [event]
    peers.executor.answer = harness.fails
    await closed_unpublished(own_nats.url, peers, server, event)
    peers.executor.answer = harness.answers
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=without_sweep) as parts:
        await parts.use_cases.interventions.retry_task("p1", "a")
        await until(lambda: _second_round(server))
    first, second = await published(server, PLAN_COMPLETED)
    assert ([one.task_id for one in first.failed], first.round) == (["a"], 1)
    assert (second.decided, second.round) == (["a"], 2)


async def test_a_retry_runs_though_its_marker_could_not_be_made_a_second_time(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    event = approved("p1", task("a"))
    peers.plan_book.plans = [event]
    peers.executor.answer = harness.fails
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=without_sweep) as parts:
        await server.publish(event)
        await until(lambda: published(server, PLAN_COMPLETED))
        peers.executor.answer = harness.answers
        markers = parts.sweep.live_plans
        mark_again = markers.mark_again
        made: list[str] = []

        async def once(name: str, now: Any) -> None:
            made.append(name)
            if len(made) > 1:
                raise Unavailable("NATS does not answer")
            await mark_again(name, now)

        markers.mark_again = once  # type: ignore[method-assign]
        with pytest.raises(Unavailable):
            await parts.use_cases.interventions.retry_task("p1", "a")
        await until(lambda: _second_round(server))


async def _second_round(server: Bus) -> bool:
    return any(event.round == 2 for event in await published(server, PLAN_COMPLETED))


async def test_of_a_plan_that_was_superseded_before_it_came_no_completion_is_told(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=without_sweep) as parts:
        await parts.handlers.plans.supersede("p1", approved("p2", task("a")))
        await parts.sweep.live_plans.mark("p1", main.clock.now())  # its own event came late, and was cut off
        await sweep(parts)
        await until(lambda: unmarked(parts))
    assert await published(server, PLAN_COMPLETED) == []
