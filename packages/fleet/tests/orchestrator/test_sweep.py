"""What a sweep finds by the markers alone, and the timers that it makes."""

import asyncio
import datetime as dt
from typing import Any

import harness
import pytest
import realparts
from harness import COMPLETED, FAILED, PLAN_COMPLETED, Peers, approved, deliberation_id, published, replica, task, until

from fleet.deliberation.state import Deliberation
from fleet.orchestrator import main
from fleet_wire import events
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable


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


async def test_an_executor_that_does_not_answer_holds_up_no_deadline_of_others(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    plans = 24
    async with replica(own_nats.url, peers, timeout_seconds=4, sweep_seconds=60):
        for number in range(plans):
            budget = events.Budget(seconds=1 if number % 2 else 4)
            await server.publish(approved(f"p{number}", task("a"), budget=budget))
        await until(lambda: peers.executor.calls == plans)

    async def unanswered(deliberation_id: str) -> dict[str, events.AgentResult | None]:
        await asyncio.sleep(1)
        raise Unavailable("no answer in time")

    peers.executor.results = unanswered  # type: ignore[method-assign]
    await asyncio.sleep(1.5)
    async with replica(own_nats.url, peers, timeout_seconds=4, sweep_seconds=0.5):
        failed = await until(lambda: _all(server, plans), 60)
    late = [event.duration_seconds - (1 if int(event.plan_id[1:]) % 2 else 4) for event in failed]
    assert max(late) < 8  # one after the other they would take half a minute


async def _all(server: Bus, count: int) -> list[Any]:
    failed = await published(server, FAILED)
    return failed if len(failed) == count else []


async def test_what_no_running_plan_names_gets_a_marker_of_its_own(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    name = deliberation_id("p1", "a")
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
        await parts.store.plans.delete("p1")
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await until(parts.sweep.live.names)
        assert list(await parts.sweep.live.names()) == [name]


async def test_a_deliberation_whose_plan_is_lost_is_tidied_up_when_that_is_back(
    own_nats: realparts.Nats, server: Bus, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tidied: list[str] = []
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        deliberations, plans = parts.handlers.deliberations, parts.handlers.plans
        tidy = deliberations.tidy

        async def noted(state: Deliberation) -> None:
            tidied.append(state.deliberation_id)
            await tidy(state)

        monkeypatch.setattr(type(deliberations), "tidy", lambda _, state: noted(state))
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
        plan = await parts.store.plans.get("p1")
        assert plan is not None
        await parts.store.plans.delete("p1")
        plans.records.forget("p1")
        await parts.use_cases.interventions.cancel_deliberation(deliberation_id("p1", "a"), "not needed")
        await until(lambda: _retired(parts, deliberation_id("p1", "a")))
        await asyncio.sleep(1)  # it tries to tell its plan, again and again
        assert tidied == []
        await parts.store.plans.create("p1", plan.value)
        await until(lambda: published(server, PLAN_COMPLETED))
    assert tidied == [deliberation_id("p1", "a")]


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


async def test_the_deliberations_of_a_plan_are_known_by_its_marker(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await server.publish(approved("p1", task("a"), task("b")))
        await until(lambda: peers.executor.calls == 2)
        assert await parts.sweep.live.names() == {}
        names = [deliberation_id("p1", "a"), deliberation_id("p1", "b")]
        assert sorted(state.deliberation_id for state in await parts.requests.running()) == sorted(names)
        assert len(await parts.requests.deliberations("running")) == 2
    for name, known in peers.executor.known.items():  # no message tells of it
        known |= {job_id: harness.answers(peers.executor.states[name], peers.executor.jobs[job_id]) for job_id in known}
    async with replica(own_nats.url, peers, sweep_seconds=0.3, broken=harness.marked_only) as parts:
        await until(lambda: published(server, PLAN_COMPLETED))
        await until(lambda: idle(parts))
        assert await parts.requests.running() == []
    assert len(await published(server, COMPLETED)) == 2


async def test_what_is_to_be_stopped_when_its_plan_ends_is_found_by_a_marker_of_its_own(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    name = deliberation_id("p1", "a")
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
        peers.executor.away = True
        await parts.use_cases.interventions.cancel_deliberation(name, "too dear")
        await until(lambda: published(server, PLAN_COMPLETED))
        await until(lambda: _plan_unmarked(parts))
        assert list(await parts.sweep.live.names()) == [name]
    peers.executor.away = False
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=harness.marked_only) as parts:
        state = await until(lambda: _retired(parts, name))
        assert state.stopped
        await until(lambda: idle(parts))
    assert peers.executor.cancelled == [name]
    assert len(await published(server, PLAN_COMPLETED)) == 1


async def _plan_unmarked(parts: main.Parts) -> bool:
    return not await parts.sweep.live_plans.names()


async def _retired(parts: main.Parts, name: str) -> Deliberation | None:
    state = await parts.handlers.deliberations.records.read(name)
    return state if state is not None and state.retired else None
