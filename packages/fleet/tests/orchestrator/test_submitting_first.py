"""The first jobs are submitted while the record that names them is being saved: whatever happens between the two, and after a
crash there, each deliberation has the same jobs, ends once, and leaves nothing running that nobody wants."""

import asyncio
import datetime as dt
from typing import Any

import harness
import pytest
import realparts
from harness import COMPLETED, FAILED, PLAN_COMPLETED, Peers, approved, deliberation_id, published, replica, task, until

from fleet.deliberation.prompt import ContextText
from fleet.deliberation.state import Cancelled, DeadlinePassed, Deliberation, DeliberationEvent, Stopped
from fleet.orchestrator import main
from fleet.orchestrator import store as stores
from fleet.orchestrator.live import DeliberationRecords
from fleet.orchestrator.peers import Given, Wanted
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable

NAME = deliberation_id("p1", "a")
LATE = "orchestration.result.late"


class Held:
    """A replica whose records of deliberations are not saved before `free` is set."""

    def __init__(self) -> None:
        self.free = asyncio.Event()

    def __call__(self, parts: main.Parts) -> None:
        update = parts.store.deliberations.update

        async def held(*args: Any) -> int:
            await self.free.wait()
            return await update(*args)

        parts.store.deliberations.update = held  # type: ignore[method-assign]


def elsewhere(server: Bus) -> DeliberationRecords:
    """The records as another replica moves them."""
    return main.deliberation_records(stores.jetstream_store(server))


async def saved(server: Bus) -> Deliberation:
    state = await elsewhere(server).read(NAME)
    assert state is not None
    return state


async def submitted(server: Bus, peers: Peers) -> None:
    """Approves a plan of one task, and waits until the executor has its jobs."""
    await server.publish(approved("p1", task("a")))
    await until(lambda: len(peers.executor.jobs) == 3)


async def answer(server: Bus, peers: Peers) -> None:
    """Has every agent answer what it was asked."""
    for job in peers.executor.jobs.values():
        result = harness.answers(peers.executor.states[NAME], job)
        assert result is not None
        await server.publish(result)


async def dead_letters(server: Bus) -> int:
    return (await server.js.stream_info("DEAD_LETTERS")).state.messages


async def came_again(server: Bus) -> bool:
    """Whether a result was refused for now, and delivered once more."""
    return any(info.num_redelivered for info in await server.js.consumers_info("AGENT_RESULTS"))


async def is_retired(server: Bus) -> bool:
    return (await saved(server)).retired


async def test_the_executor_has_the_jobs_before_the_record_that_names_them_is_saved(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    held = Held()
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=held):
        await submitted(server, peers)
        assert (await saved(server)).status == "preparing"
        assert (await saved(server)).jobs == ()
        held.free.set()
        await until(lambda: _running(server))
        await answer(server, peers)
        await until(lambda: published(server, PLAN_COMPLETED))
    assert peers.executor.cancelled == []
    [completed] = await published(server, COMPLETED)
    assert len(completed.ranking) == 3


async def _running(server: Bus) -> bool:
    return (await saved(server)).status == "running"


async def test_a_result_that_is_quicker_than_its_record_comes_again_and_counts(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    held = Held()
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=held):
        await server.publish(approved("p1", task("a")))
        await until(lambda: came_again(server))
        assert (await saved(server)).status == "preparing"
        held.free.set()
        await until(lambda: published(server, PLAN_COMPLETED))
    [completed] = await published(server, COMPLETED)
    assert len(completed.ranking) == 3
    assert completed.missing == []
    assert await dead_letters(server) == 0
    assert await published(server, LATE) == []


async def test_what_a_replica_submitted_and_died_another_submits_again_word_for_word(
    own_nats: realparts.Nats, server: Bus, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def another_each_time(wanted: Wanted, token_budget: int) -> Given:
        nonlocal asked
        asked += 1
        return Given((ContextText(kind="task", title="Task a", text=f"as it stood at {asked}"),))

    monkeypatch.setattr(peers.memory, "context_for", another_each_time)
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=Held()):
        await submitted(server, peers)
    first = dict(peers.executor.jobs)
    assert (await saved(server)).jobs == ()
    peers.executor.answer = harness.answers
    peers.executor.known.clear()  # so that the played executor answers now
    async with replica(own_nats.url, peers, sweep_seconds=60):
        [completed] = await until(lambda: published(server, COMPLETED))
        await until(lambda: published(server, PLAN_COMPLETED))
    assert peers.executor.calls >= 2
    assert peers.executor.jobs == first
    assert len(completed.ranking) == 3
    assert peers.executor.cancelled == []
    assert len(await published(server, COMPLETED)) == 1


async def test_a_replica_whose_record_another_saved_first_leaves_the_jobs_alone(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    held = Held()
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=held) as slow:
        await submitted(server, peers)
        async with replica(own_nats.url, peers, sweep_seconds=60):
            await until(lambda: _running(server))
            held.free.set()
            await asyncio.wait_for(slow.deliberation_driver.idle(), 20)
            assert peers.executor.cancelled == []
            assert len((await saved(server)).jobs) == 3
            await answer(server, peers)
            await until(lambda: published(server, PLAN_COMPLETED))
    assert len(peers.executor.jobs) == 3
    assert len(await published(server, COMPLETED)) == 1


async def test_a_record_that_could_not_be_saved_is_saved_with_the_same_jobs(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    away = [Unavailable("the store is away")] * 2

    def store_away(parts: main.Parts) -> None:
        update = parts.store.deliberations.update

        async def refusing(*args: Any) -> int:
            if away:
                raise away.pop()
            return await update(*args)

        parts.store.deliberations.update = refusing  # type: ignore[method-assign]

    async with replica(own_nats.url, peers, sweep_seconds=60, broken=store_away):
        await server.publish(approved("p1", task("a")))
        await until(lambda: published(server, PLAN_COMPLETED))
    assert peers.executor.calls >= 3
    assert len(peers.executor.jobs) == 3
    assert peers.executor.cancelled == []
    assert len(await published(server, COMPLETED)) == 1
    assert await dead_letters(server) == 0


@pytest.mark.parametrize("by", ["cancelled", "deadline"])
async def test_what_another_replica_closed_before_its_jobs_were_saved_is_stopped_by_who_submitted_them(
    own_nats: realparts.Nats, server: Bus, peers: Peers, by: str
) -> None:
    """The other one had stopped it already, when there was nothing to be stopped yet."""
    peers.executor.answer = harness.silent
    held = Held()
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=held):
        await submitted(server, peers)
        now = dt.datetime.now(dt.UTC)
        event: DeliberationEvent = (
            Cancelled("too dear", now) if by == "cancelled" else DeadlinePassed(now.replace(year=9999))
        )
        closed = await elsewhere(server).fold(NAME, (event, Stopped()))
        assert closed is not None
        assert (closed.closed_by, closed.jobs, closed.stopped) == (by, (), True)
        held.free.set()
        await until(lambda: published(server, PLAN_COMPLETED))
        await until(lambda: _all_taken(server))
    assert set(peers.executor.cancelled) == {NAME}
    assert all(result is not None for result in peers.executor.known[NAME].values())
    [failed] = await published(server, FAILED)
    assert failed.reason == by
    assert await dead_letters(server) == 0
    assert await published(server, LATE) == []


async def _all_taken(server: Bus) -> bool:
    """Whether every result has been read and dealt with."""
    info = await server.js.consumer_info("AGENT_RESULTS", "orchestrator-results")
    sent = (await server.js.stream_info("AGENT_RESULTS")).state.messages
    return sent == 3 and info.num_pending == 0 and info.num_ack_pending == 0


async def test_what_is_cancelled_after_its_replica_died_between_submitting_and_saving_is_stopped(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=Held()):
        await submitted(server, peers)
    await elsewhere(server).fold(NAME, (Cancelled("too dear", dt.datetime.now(dt.UTC)),))
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await until(lambda: published(server, PLAN_COMPLETED))
        await until(lambda: is_retired(server))
        await until(lambda: _all_taken(server))
    assert set(peers.executor.cancelled) == {NAME}
    assert all(result is not None for result in peers.executor.known[NAME].values())
    [failed] = await published(server, FAILED)
    assert (failed.reason, failed.detail) == ("cancelled", "too dear")
    assert await dead_letters(server) == 0
    assert await published(server, LATE) == []


async def test_an_answer_to_jobs_that_were_never_saved_is_late_and_no_dead_letter(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    peers.executor.stops = False
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=Held()):
        await submitted(server, peers)
    await elsewhere(server).fold(NAME, (Cancelled("too dear", dt.datetime.now(dt.UTC)),))
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await until(lambda: published(server, PLAN_COMPLETED))
        await answer(server, peers)
        await until(lambda: _all_taken(server))
    assert len(await published(server, LATE)) == 3
    assert len(await published(server, FAILED)) == 1
    assert await dead_letters(server) == 0
