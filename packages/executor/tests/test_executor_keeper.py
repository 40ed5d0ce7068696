"""The keeper and the reconcile loop, on actors that a test makes up."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Optional

import pytest
from samples import open_job

from fleet_executor import keeper as module
from fleet_executor.calls import ModelCalls
from fleet_executor.jobs import ActorView, OpenJob, cancelled_error, failed
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
        self.renewed: list[str] = []
        self.told: list[tuple[str, list[str]]] = []
        self.connections = 0
        self.no_probe = ""
        self.no_sandbox: dict[str, str] = {}
        self.no_jobs: dict[str, str] = {}
        self.calls = 0
        self.taking = asyncio.Event()
        self.taking.set()
        self.probing = asyncio.Event()
        self.probing.set()

    async def connect(self) -> None:
        self._fail()
        self.connections += 1

    async def disconnect(self) -> None:
        return

    async def check(self) -> None:
        self._fail()

    async def probe(self) -> Mapping[str, str]:
        await self.probing.wait()
        self._fail()
        if self.no_probe:
            raise Unavailable(self.no_probe)
        return self.no_sandbox

    async def make_pool(self) -> Sequence[str]:
        for name in self.actors:
            self.views.setdefault(name, ActorView(name=name))
        return self.actors

    async def survey(self, drain: Optional[bool]) -> Mapping[str, ActorView]:
        self._fail()
        self.drained.append(drain)
        return dict(self.views)

    async def accept(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        self.calls += 1
        await self.taking.wait()
        self._fail()
        if actor in self.no_jobs:
            return self.no_jobs[actor]
        self.taken += [(actor, job) for job in jobs]
        return ""

    async def cancel(self, actor: str, keys: Sequence[str]) -> None:
        self._fail()
        self.told.append((actor, list(keys)))

    async def kill(self, actor: str) -> None:
        self.killed.append(actor)
        del self.views[actor]

    async def renew(self, actor: str) -> None:
        self._fail()
        self.renewed.append(actor)

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
        self.readiness = Readiness("ray", "probe", "pool", "registry")
        self.calls = ModelCalls(self.registry, 64)
        self.keeper = Keeper(self.cluster, self.registry, bus, self.readiness, now, self.calls, 64)
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
    monkeypatch.setattr(module, "LOST_SECONDS", 0.2)
    made = Held(bus)
    running = asyncio.ensure_future(made.keeper.run(made.stop))
    yield made
    made.stop.set()
    await asyncio.wait_for(running, 5)


async def test_it_becomes_ready_with_its_pool_and_claims_it(held: Held) -> None:
    with pytest.raises(Unavailable):
        held.keeper.pick(1)
    await held.until(lambda: held.readiness.ready)
    current = await held.registry.current_pool()
    assert current is not None and current.pool == held.cluster.pool
    assert held.keeper.pick(1) in held.cluster.actors


async def test_jobs_go_to_the_actor_with_the_least_to_do(held: Held) -> None:
    first, second = held.cluster.actors
    held.cluster.views[first] = ActorView(name=first, held=frozenset({"a", "b"}))
    await held.until(lambda: held.readiness.ready)
    assert held.keeper.pick(3) == second
    assert held.keeper.pick(1) == first


async def test_jobs_that_follow_each_other_go_to_one_actor_while_all_are_busy(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_JOBS", 4)
    monkeypatch.setattr(module, "AHEAD_JOBS", 6)
    first, second = held.cluster.actors
    await held.until(lambda: held.readiness.ready)
    picked = [held.keeper.pick(3) for _ in range(10)]
    idle, busy = picked[:4], picked[4:]
    assert idle == [first, second, first, second]
    assert busy == [second, second, second, first, first, first]


async def test_jobs_join_others_only_where_there_is_a_free_slot(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_JOBS", 4)
    monkeypatch.setattr(held.keeper, "_slots", 12)
    first, second = held.cluster.actors
    await held.until(lambda: held.readiness.ready)
    picked = [held.keeper.pick(3) for _ in range(8)]
    assert picked == [first, second, first, second, second, second, first, first]


async def test_an_actor_that_refuses_jobs_gets_none_for_a_while(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEFT_OUT", dt.timedelta(seconds=0.5))
    first, second = held.cluster.actors
    held.cluster.views[first] = ActorView(name=first, connected=False)
    held.cluster.views[second] = ActorView(name=second, held=frozenset({"a", "b"}), connected=False)
    await held.until(lambda: held.readiness.ready)
    held.cluster.no_jobs = {first: "no route to NATS", second: "no route either"}
    assert held.keeper.pick(1) == first
    assert await held.keeper.accept(first, [open_job()]) == "no route to NATS"
    assert held.keeper.pick(1) == second
    await held.keeper.accept(second, [open_job()])
    with pytest.raises(Unavailable, match="no route to NATS; no route either"):
        held.keeper.pick(1)
    await held.until(lambda: not held.readiness.ready)
    await held.until(lambda: held.readiness.ready)
    assert held.keeper.pick(1) == first


async def only_actor_with_a_job(held: Held) -> tuple[str, OpenJob]:
    name = held.cluster.actors[0]
    held.cluster.actors = [name]
    await held.until(lambda: held.readiness.ready)
    job = open_job(1, now=now(), deadline=now() + dt.timedelta(minutes=1), actor=name)
    await held.registry.accept([job])
    return name, job


async def test_an_only_actor_that_did_not_take_jobs_gets_them_when_it_is_seen_at_work(held: Held) -> None:
    name, job = await only_actor_with_a_job(held)
    held.cluster.views[name] = ActorView(name=name, silent_seconds=3)
    held.cluster.refusal = "no answer in time"
    with pytest.raises(Unavailable):
        await held.keeper.accept(name, [job])
    held.cluster.refusal = ""
    await held.until(lambda: not held.readiness.ready)
    with pytest.raises(Unavailable, match="no answer in time"):
        held.keeper.pick(1)
    held.cluster.views[name] = ActorView(name=name)
    await held.until(lambda: held.readiness.ready)
    assert held.keeper.pick(1) == name
    await held.until(lambda: held.cluster.taken)  # within the grace: it never got it
    [(actor, moved)] = held.cluster.taken
    assert (actor, moved.key, moved.attempt) == (name, job.key, 2)


async def test_what_came_late_to_an_actor_that_was_left_out_is_not_handed_on(held: Held) -> None:
    name, job = await only_actor_with_a_job(held)
    held.cluster.no_jobs = {name: "no answer in time"}
    await held.keeper.accept(name, [job])
    held.cluster.views[name] = ActorView(name=name, held=frozenset({job.key}))
    held.cluster.no_jobs = {}
    await asyncio.sleep(0.3)
    assert held.cluster.taken == [] and held.readiness.ready


async def test_an_actor_that_is_taken_for_lost_is_started_anew(held: Held) -> None:
    first, second = held.cluster.actors
    await held.until(lambda: held.readiness.ready)
    held.cluster.views[second] = ActorView(name=second, silent_seconds=14)
    await asyncio.sleep(0.2)
    assert held.cluster.renewed == []
    held.cluster.views[second] = ActorView(name=second, silent_seconds=15)
    await held.until(lambda: held.cluster.renewed)
    assert held.keeper.pick(1) == first
    await held.registry.claim_pool("VLLMAgentJob-newer", now())
    await held.until(lambda: "another release" in held.readiness.reason)
    await asyncio.sleep(0.1)
    held.cluster.renewed.clear()
    await asyncio.sleep(0.2)
    assert held.cluster.renewed == []


async def test_a_node_that_cannot_run_our_code_keeps_new_work_out_and_holds_up_nothing_else(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    held.cluster.no_probe = "node 10.0.0.9 lacks the package msgspec"
    await held.until(lambda: held.readiness.reason == f"probe: {held.cluster.no_probe}")
    held.cluster.probing.clear()  # nor does a slow one
    await held.registry.accept([open_job(1, deadline=now() + dt.timedelta(minutes=1), actor="gone")])
    await held.until(lambda: held.cluster.taken)
    assert held.cluster.connections == 1
    held.cluster.no_probe = ""
    held.cluster.probing.set()
    await held.until(lambda: held.readiness.ready)


async def test_it_knows_which_nodes_can_make_no_sandbox_and_works_on(held: Held) -> None:
    held.cluster.no_sandbox = {"10.0.0.9": "bwrap: no permission", "10.0.0.7": "bubblewrap is not installed"}
    sentence = "node 10.0.0.7: bubblewrap is not installed; node 10.0.0.9: bwrap: no permission"
    await held.until(lambda: held.readiness.ready and held.keeper.no_sandbox == sentence)
    held.cluster.no_sandbox = {}
    await held.until(lambda: held.keeper.no_sandbox == "")


async def test_what_a_restarted_actor_had_is_handed_on_before_the_grace_is_over(held: Held) -> None:
    name = held.cluster.actors[0]
    job = open_job(1, now=now(), actor=name)
    held.cluster.views[name] = ActorView(name=name, incarnation="one", held=frozenset({job.key}))
    await held.registry.accept([job])
    await held.until(lambda: held.readiness.ready)
    held.cluster.views[name] = ActorView(name=name, incarnation="two")
    await held.until(lambda: held.cluster.taken)
    [(_, moved)] = held.cluster.taken
    assert (moved.key, moved.attempt) == (job.key, 2)


async def test_a_release_that_was_replaced_does_not_take_over_again_when_it_reconnects(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    await held.registry.claim_pool("VLLMAgentJob-newer", now())
    held.cluster.refusal = "the cluster is gone"
    await held.until(lambda: "ray: the cluster is gone" in held.readiness.reason)
    held.cluster.refusal = ""
    await held.until(lambda: held.cluster.connections == 2 and "another release" in held.readiness.reason)
    await asyncio.sleep(0.2)
    current = await held.registry.current_pool()
    assert current is not None and current.pool == "VLLMAgentJob-newer"


@pytest.mark.parametrize("change", [{"silent_seconds": 16}, {"draining": True}])
async def test_without_an_actor_that_can_take_jobs_it_is_not_ready(held: Held, change: dict[str, object]) -> None:
    await held.until(lambda: held.readiness.ready)
    held.cluster.views = {name: ActorView(name=name, **change) for name in held.cluster.actors}  # type: ignore[arg-type]
    await held.until(lambda: "no VLLMAgentJob" in held.readiness.reason)
    with pytest.raises(Unavailable):
        held.keeper.pick(1)


async def test_one_missed_answer_of_a_busy_machine_changes_nothing(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    held.cluster.views = {name: ActorView(name=name, silent_seconds=3) for name in held.cluster.actors}
    await asyncio.sleep(0.2)
    assert held.readiness.ready
    assert held.keeper.pick(1) in held.cluster.actors


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
    assert set(held.cluster.drained) <= {None, True} and held.cluster.drained[-1] is True  # None before the claim
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


async def test_an_actor_that_holds_what_has_ended_is_told_to_drop_it(held: Held) -> None:
    name = held.cluster.actors[0]
    ended, running = (open_job(number, now=now(), actor=name) for number in (1, 2))
    await held.registry.accept([ended, running])
    held.cluster.views[name] = ActorView(name=name, held=frozenset({ended.key, running.key}))
    await held.registry.end(
        failed(ended, cancelled_error(), now())
    )  # by an executor that died before it told the actor
    await held.registry.close(ended.key)
    await held.until(lambda: held.cluster.told)
    assert set(map(str, held.cluster.told)) == {str((name, [ended.key]))}
    assert held.cluster.taken == []


async def test_jobs_can_be_dropped_while_the_cluster_is_gone(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    held.cluster.refusal = "the cluster is gone"
    await held.keeper.drop([open_job(1, actor="VLLMAgentJob-new-0")])
    assert held.cluster.told == []


async def test_the_limit_of_calls_follows_what_the_model_server_says(held: Held) -> None:
    name = held.cluster.actors[0]
    jobs = [open_job(number, now=now(), actor=name) for number in range(16)]
    await held.registry.accept(jobs)
    keys = frozenset(job.key for job in jobs)
    held.cluster.views[name] = ActorView(name=name, held=keys)
    await held.until(lambda: held.calls.open == 16)
    held.cluster.views[name] = ActorView(name=name, held=keys, metrics=True, waiting=5)
    await held.until(lambda: held.calls.limit < 10)
    held.cluster.views[name] = ActorView(name=name, held=keys, metrics=False)
    await held.until(lambda: held.calls.limit == 64)


async def test_an_actor_of_the_pool_that_is_missing_is_made_again(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    del held.cluster.views["VLLMAgentJob-new-1"]
    await held.until(lambda: "VLLMAgentJob-new-1" in held.cluster.views)


async def test_jobs_that_come_while_an_actor_is_called_go_to_it_in_one_call(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    held.cluster.taking.clear()
    first = asyncio.ensure_future(held.keeper.accept("VLLMAgentJob-new-0", [open_job(1)]))
    await held.until(lambda: held.cluster.calls == 1)
    more = [asyncio.ensure_future(held.keeper.accept("VLLMAgentJob-new-0", [open_job(n)])) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    gone = more.pop(0)
    gone.cancel()  # its caller does not wait, and its job was recorded
    held.cluster.taking.set()
    assert await asyncio.gather(first, *more) == ["", "", ""]
    assert held.cluster.calls == 2
    assert [job.spec.job_id for _, job in held.cluster.taken] == ["job-1", "job-2", "job-3", "job-4"]


async def test_what_waits_for_an_actor_that_cannot_be_called_does_not_wait_on(held: Held) -> None:
    await held.until(lambda: held.readiness.ready)
    held.cluster.taking.clear()
    tasks = [asyncio.ensure_future(held.keeper.accept("VLLMAgentJob-new-0", [open_job(n)])) for n in (1, 2)]
    await held.until(lambda: held.cluster.calls == 1)
    held.cluster.refusal = "gone"
    held.cluster.taking.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["gone", "gone"]
    assert held.cluster.calls == 1
    held.cluster.refusal = ""
    assert await held.keeper.accept("VLLMAgentJob-new-1", [open_job(3)]) == ""
