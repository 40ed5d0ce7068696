"""The keeper and the reconcile loop, on actors that a test makes up."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Optional

import pytest
from samples import open_job

from fleet_executor import keeper as module
from fleet_executor.jobs import ActorView, OpenJob
from fleet_executor.keeper import Keeper
from fleet_executor.ports import ClusterStats
from fleet_executor.registry import Registry
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.kv import MemoryBucket
from fleet_wire.rpc import Readiness


class Actors:
    """A cluster in memory: actors are what stands in `views`."""

    pool = "VLLMAgentJob-new"
    actors: Sequence[str] = ("VLLMAgentJob-new-0", "VLLMAgentJob-new-1")

    def __init__(self) -> None:
        self.views: dict[str, ActorView] = {}
        self.refusal = ""
        self.drained: list[Optional[bool]] = []
        self.taken: list[tuple[str, OpenJob]] = []
        self.killed: list[str] = []
        self.connections = 0

    async def connect(self) -> None:
        self._fail()
        self.connections += 1

    async def disconnect(self) -> None:
        return

    async def check(self) -> None:
        self._fail()

    async def probe(self) -> None:
        self._fail()

    async def make_pool(self) -> None:
        for name in self.actors:
            self.views.setdefault(name, ActorView(name=name))

    async def survey(self, drain: Optional[bool]) -> Mapping[str, ActorView]:
        self._fail()
        self.drained.append(drain)
        return dict(self.views)

    async def accept(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        self.taken += [(actor, job) for job in jobs]
        return ""

    async def kill(self, actor: str) -> None:
        self.killed.append(actor)
        del self.views[actor]

    async def stats(self) -> ClusterStats:
        raise Unavailable("not asked here")

    def _fail(self) -> None:
        if self.refusal:
            raise Unavailable(self.refusal)


class Held:
    """A keeper that runs, and what it works on."""

    def __init__(self, bus: Bus) -> None:
        self.cluster = Actors()
        self.registry = Registry(MemoryBucket(), MemoryBucket(), MemoryBucket(), MemoryBucket())
        self.readiness = Readiness("ray", "pool", "registry")
        self.keeper = Keeper(self.cluster, self.registry, bus, self.readiness, now)
        self.stop = asyncio.Event()

    async def until(self, check) -> None:  # type: ignore[no-untyped-def]
        for _ in range(200):
            if check():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"it did not come; {self.readiness.reason!r}")


def now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


@pytest.fixture
async def held(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Held]:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.05)
    made = Held(bus)
    running = asyncio.ensure_future(made.keeper.run(made.stop))
    yield made
    made.stop.set()
    await asyncio.wait_for(running, 5)


async def test_it_becomes_ready_with_its_pool_and_claims_it(held: Held) -> None:
    with pytest.raises(Unavailable):
        held.keeper.pick()
    await held.until(lambda: held.readiness.ready)
    current = await held.registry.current_pool()
    assert current is not None and current.pool == held.cluster.pool
    assert held.keeper.pick() in held.cluster.actors


async def test_jobs_go_to_the_actor_with_the_least_to_do(held: Held) -> None:
    first, second = held.cluster.actors
    held.cluster.views[first] = ActorView(name=first, held=frozenset({"a", "b"}))
    await held.until(lambda: held.readiness.ready)
    assert held.keeper.pick() == second
    await held.keeper.accept(second, [open_job(number) for number in range(3)])
    assert held.keeper.pick() == first


@pytest.mark.parametrize("change", [{"silent_seconds": 1}, {"draining": True}])
async def test_without_an_actor_that_can_take_jobs_it_is_not_ready(held: Held, change: dict[str, object]) -> None:
    await held.until(lambda: held.readiness.ready)
    held.cluster.views = {name: ActorView(name=name, **change) for name in held.cluster.actors}  # type: ignore[arg-type]
    await held.until(lambda: "no VLLMAgentJob" in held.readiness.reason)
    with pytest.raises(Unavailable):
        held.keeper.pick()


async def test_a_cluster_that_is_lost_is_the_reason_and_is_taken_up_again(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    held.cluster.refusal = "the cluster is gone"
    await held.until(lambda: "ray: the cluster is gone" in held.readiness.reason)
    held.cluster.refusal = ""
    await held.until(lambda: held.readiness.ready and held.cluster.connections == 2)


async def test_an_older_pool_drains_and_is_ended_when_it_is_empty(held: Held) -> None:
    busy = ActorView(name="VLLMAgentJob-old-0", held=frozenset({"a"}), draining=True)
    held.cluster.views = {"VLLMAgentJob-old-1": ActorView(name="VLLMAgentJob-old-1", draining=True), busy.name: busy}
    await held.until(lambda: held.cluster.killed == ["VLLMAgentJob-old-1"])
    assert set(held.cluster.drained) == {True}
    held.cluster.views[busy.name] = ActorView(name=busy.name, draining=True)
    await held.until(lambda: held.cluster.killed == ["VLLMAgentJob-old-1", busy.name])


async def test_it_steps_back_when_another_release_takes_over(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    await held.registry.claim_pool("VLLMAgentJob-newer", now())
    held.cluster.views["VLLMAgentJob-newer-0"] = ActorView(name="VLLMAgentJob-newer-0", draining=True)
    await held.until(lambda: "VLLMAgentJob-newer" in held.readiness.reason)
    await held.until(lambda: held.cluster.drained[-1] is None)
    assert held.cluster.killed == []


async def test_a_job_that_its_actor_lost_goes_to_another_attempt(held: Held) -> None:
    long_ago = now() - dt.timedelta(minutes=1)
    lost = open_job(1, now=long_ago, deadline=now() + dt.timedelta(minutes=1), actor="VLLMAgentJob-new-0")
    await held.registry.accept([lost])
    await held.until(lambda: held.cluster.taken)
    [(actor, job)] = held.cluster.taken
    assert (job.key, job.attempt, job.actor) == (lost.key, 2, actor)
    await asyncio.sleep(0.3)
    assert len(held.cluster.taken) == 1  # within the grace it is not handed on again


async def test_an_actor_of_the_pool_that_is_missing_is_made_again(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    del held.cluster.views["VLLMAgentJob-new-1"]
    await held.until(lambda: "VLLMAgentJob-new-1" in held.cluster.views)
