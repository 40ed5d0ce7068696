"""Cancelling, trying again and budgets, over real NATS."""

import asyncio

import harness
import msgspec
import pytest
import realparts
from harness import COMPLETED, FAILED, PLAN_COMPLETED, Peers, approved, deliberation_id, published, replica, task, until

from fleet.deliberation.plan import Plan
from fleet.deliberation.requests import JobRequest
from fleet.deliberation.state import Deliberation
from fleet.orchestrator import main
from fleet.orchestrator import store as stores
from fleet.orchestrator.live import Markers
from fleet.orchestrator.messages import plan_message
from fleet_wire import ids
from fleet_wire.bus import Bus
from fleet_wire.errors import NotFound, Precondition
from fleet_wire.events import AgentResult, Budget, ContextUpdated, PlanCompleted


async def plan_of(parts: main.Parts, plan_id: str) -> Plan | None:
    try:
        return await parts.requests.plan(plan_id)
    except NotFound:
        return None


async def retired(parts: main.Parts, name: str) -> Deliberation | None:
    state = await parts.handlers.deliberations.records.read(name)
    return state if state is not None and state.retired else None


async def test_a_cancelled_deliberation_stops_its_calls_and_fails_once(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    name = deliberation_id("p1", "a")
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
        cancel = parts.use_cases.interventions.cancel_deliberation
        first, second = await asyncio.gather(cancel(name, "too dear"), cancel(name, "too dear"))
        assert first.closed_by == second.closed_by == "cancelled"
        [plan] = await until(lambda: published(server, PLAN_COMPLETED))
        state = await until(lambda: retired(parts, name))
        with pytest.raises(NotFound):
            await cancel("delib-unknown", "")
        assert (await cancel(name, "again")).status == "failed"
    [failed] = await published(server, FAILED)
    assert (failed.reason, failed.detail) == ("cancelled", "too dear")
    assert plan.failed[0].reason == "cancelled: too dear"
    assert state.stopped
    assert set(peers.executor.cancelled) == {name}
    assert await published(server, "orchestration.result.late") == []


async def test_what_is_decided_cannot_be_cancelled(own_nats: realparts.Nats, server: Bus, peers: Peers) -> None:
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await server.publish(approved("p1", task("a")))
        await until(lambda: published(server, PLAN_COMPLETED))
        with pytest.raises(Precondition, match="nothing to cancel"):
            await parts.use_cases.interventions.cancel_deliberation(deliberation_id("p1", "a"), "")


async def test_an_executor_that_is_away_keeps_no_cancelled_deliberation_from_its_end(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    name = deliberation_id("p1", "a")
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
        peers.executor.away = True
        await parts.use_cases.interventions.cancel_deliberation(name, "")
        await until(lambda: published(server, PLAN_COMPLETED))
        assert peers.executor.cancelled == []
        peers.executor.away = False
        await until(lambda: retired(parts, name))
    assert peers.executor.cancelled == [name]


async def test_a_cancelled_plan_closes_when_what_ran_has_ended_and_keeps_what_was_decided(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    def only_a(state: Deliberation, job: JobRequest) -> AgentResult | None:
        return harness.answers(state, job) if state.task.task_id == "a" else None

    peers.executor.answer = only_a
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await server.publish(approved("p1", task("a"), task("b"), task("c", "b")))
        await until(lambda: published(server, COMPLETED))
        await until(lambda: peers.executor.calls == 2)
        cancelled, skipped = await parts.use_cases.interventions.cancel_plan("p1", "no money")
        assert (cancelled, skipped) == (["b"], ["c"])
        [plan] = await until(lambda: published(server, PLAN_COMPLETED))
        await until(lambda: retired(parts, deliberation_id("p1", "b")))
        with pytest.raises(Precondition, match="ended"):
            await until(lambda: parts.use_cases.interventions.cancel_plan("p1", "again"))
    assert plan.decided == ["a"]
    assert [(one.task_id, one.reason) for one in plan.failed] == [("b", "cancelled: no money")]
    assert [(one.task_id, one.reason) for one in plan.skipped] == [("c", "cancelled: no money")]


async def test_a_plan_that_another_supersedes_is_cancelled_while_the_other_runs(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    def only_new(state: Deliberation, job: JobRequest) -> AgentResult | None:
        return harness.answers(state, job) if state.plan_id == "p2" else None

    peers.executor.answer = only_new
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await server.publish(approved("p1", task("a"), task("b", "a")))
        await until(lambda: peers.executor.calls)
        newer = msgspec.structs.replace(approved("p2", task("a")), supersedes=["p1", "plan-unknown"])
        await server.publish(newer)
        plans = await until(lambda: ended(server, 2))
    assert plans["p2"].decided == ["a"]
    assert [(one.task_id, one.reason) for one in plans["p1"].failed] == [("a", "cancelled: superseded by p2")]
    assert [(one.task_id, one.reason) for one in plans["p1"].skipped] == [("b", "cancelled: superseded by p2")]


async def test_a_superseded_plan_whose_event_comes_after_its_successors_runs_nothing(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    late = approved("p1", task("a"))
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await server.publish(msgspec.structs.replace(approved("p2", task("a")), supersedes=["p1"]))
        await until(lambda: ended(server, 1))
        await server.publish(late)
        await server.publish(approved("p3", task("a")))
        await until(lambda: ended(server, 2))
        superseded = await plan_of(parts, "p1")
        assert superseded is not None
        assert (superseded.status, superseded.tasks) == ("completed", ())
        assert await parts.requests.deliberations(plan_id="p1") == []
        await until(lambda: _no_markers(parts))
    assert {state.plan_id for state in peers.executor.states.values()} == {"p2", "p3"}


async def ended(server: Bus, count: int) -> dict[str, PlanCompleted]:
    found = await published(server, PLAN_COMPLETED)
    return {plan.plan_id: plan for plan in found} if len(found) == count else {}


async def test_a_retry_after_the_plan_was_closed_decides_with_its_texts_and_closes_it_again(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    event = approved("p1", task("a"), task("b", "a"))
    peers.executor.answer = harness.fails
    async with replica(own_nats.url, peers, sweep_seconds=0.3) as parts:
        await server.publish(event)
        await until(lambda: published(server, PLAN_COMPLETED))

        async def closed() -> bool:
            return (await parts.requests.plan("p1")).status == "completed"

        await until(closed)
        peers.executor.answer = harness.answers
        retry = parts.use_cases.interventions.retry_task
        with pytest.raises(Precondition, match="try a again"):
            await retry("p1", "b")
        with pytest.raises(Precondition, match="planning does not know"):
            await retry("p1", "a")
        peers.plan_book.plans = [event]
        plan, waiting = await retry("p1", "a")
        again, _ = await retry("p1", "a")
        assert waiting == ["b"]
        assert plan.tasks[0].number == again.tasks[0].number == 2
        second = ids.deliberation_id("p1", "a", 2)
        await until(lambda: retired(parts, second))
        [decided] = await published(server, COMPLETED)
        peers.memory.decisions[decided.decision_id] = decided.decision.content
        both = await until(lambda: _of(server, 2))
    assert decided.deliberation_id == second
    assert all("Do a" in job.messages[-1][1] for job in peers.executor.of_phase("propose")[:6])
    assert [event.round for event in both] == [1, 2]
    assert both[1].decided == ["a", "b"]
    assert not both[1].failed
    assert not both[1].skipped


async def _of(server: Bus, wanted: int) -> list[object]:
    found = await published(server, PLAN_COMPLETED)
    return found if len(found) == wanted else []


async def test_a_plans_budget_holds_for_all_its_tasks_together(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    """The first takes its three calls, the third shares what is left, and the second finds too little when both have ended."""
    tasks = [task("a", budget={"calls": 3}), task("b", budget={"calls": 3}), task("c", protocol="auto")]
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await server.publish(approved("p1", *tasks, budget=Budget(calls=5)))
        [event] = await until(lambda: published(server, PLAN_COMPLETED))
        plan = await plan_of(parts, "p1")
    assert plan is not None
    assert plan.spent.calls == sum(1 for job in peers.executor.jobs.values() if not job.dry_run) <= 5
    reasons = {one.task_id: one.reason for one in event.failed}
    assert list(reasons) == ["b"]
    assert reasons["b"].startswith("budget: the plan's budget of 5 calls has ")
    assert event.decided == ["a", "c"]


async def test_a_deliberations_budget_is_never_exceeded_and_says_what_it_left_out(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await server.publish(approved("p1", task("a", protocol="tournament", budget={"calls": 5})))
        [event] = await until(lambda: published(server, COMPLETED))
    assert event.calls == len(peers.executor.jobs) <= 5
    assert "budget" in event.skipped[-1].reason


async def test_a_model_that_takes_no_more_is_waited_for(own_nats: realparts.Nats, server: Bus, peers: Peers) -> None:
    peers.executor.full = True
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await server.publish(approved("p1", task("a")))
        await until(lambda: published(server, "orchestration.deliberation.started"))
        await asyncio.sleep(0.5)
        assert peers.executor.jobs == {}
        peers.executor.full = False
        await until(lambda: published(server, PLAN_COMPLETED))
    assert peers.executor.calls == 1


async def test_a_protocol_that_needs_a_sandbox_fails_its_task_and_says_why(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.no_sandbox = "user namespaces are forbidden"
    wanted = task("a", protocol="best_of_n", description=harness.CODE)
    open_to_all = task("b", protocol="auto", description=harness.CODE)
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await server.publish(approved("p1", wanted, open_to_all))
        [plan] = await until(lambda: published(server, PLAN_COMPLETED))
    [failed] = await published(server, FAILED)
    assert failed.reason == "error"
    assert "user namespaces are forbidden" in failed.detail
    [completed] = await published(server, COMPLETED)
    assert (plan.decided, completed.protocol) == (["b"], "tournament")
    assert "no sandbox" in completed.chosen_because


async def test_the_marker_of_what_has_ended_is_gone_and_a_stray_one_is_swept(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers, sweep_seconds=0.3) as parts:
        await server.publish(approved("p1", task("a")))
        await until(lambda: published(server, PLAN_COMPLETED))
        await until(lambda: _no_markers(parts))
        old = parts.handlers.deliberations.clock() - main.dt.timedelta(minutes=5)
        await parts.sweep.live.mark(deliberation_id("p1", "a"), old)
        await parts.sweep.live.mark("delib-never-saved", old)
        await parts.sweep.live_plans.mark("p1", old)
        await until(lambda: _no_markers(parts))
        assert await parts.requests.running() == []


async def test_a_marker_made_again_for_a_retry_is_not_taken_for_the_one_before(
    own_nats: realparts.Nats, server: Bus
) -> None:
    store = stores.jetstream_store(server)
    markers, others = Markers(store.live, "liveplan"), Markers(store.live, "liveplan")
    now = main.clock.now()
    await markers.mark("p1", now)
    before = markers.own("p1")
    await others.mark_again("p1", now + main.dt.timedelta(seconds=1))
    await markers.unmark("p1", before)
    await server.js.purge_stream("KV_deliberations", subject="nothing")  # answered after that
    assert await markers.revision("p1") > before
    await others.unmark("p1", await others.revision("p1"))
    await until(lambda: _unmarked(markers))


async def _unmarked(markers: Markers) -> bool:
    return not await markers.names()


async def _no_markers(parts: main.Parts) -> bool:
    return not await parts.sweep.live.names() and not await parts.sweep.live_plans.names()


async def test_a_decision_on_superseded_ground_is_shown_and_runs_again_only_when_a_person_asks(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers) as parts:
        await server.publish(approved("p1", task("a"), task("b")))
        await until(lambda: published(server, PLAN_COMPLETED))
        ruled = ids.decision_id(deliberation_id("p1", "a"))
        told = ContextUpdated(
            story_id="another-story",
            plan_id="",
            deliberation_id="",
            changed=["dec-ruling"],
            version=7,
            hash="h7",
            superseded=["dec-base"],
            flagged=[ruled, "dec-ruling", "dec-delib-of-nobody"],
        )
        await server.publish(told)

        async def relying() -> dict[str, list[str]]:
            answer = plan_message(await parts.requests.plan("p1"))
            return {one.task_id: list(one.relies_on_superseded) for one in answer.tasks if one.relies_on_superseded}

        await until(relying)
        assert await relying() == {"a": ["dec-base"]}
        assert await harness.count(server, COMPLETED) == 2
        with pytest.raises(Precondition, match="task b is decided"):
            await parts.use_cases.interventions.retry_task("p1", "b")
        peers.plan_book.plans = [approved("p1", task("a"), task("b"))]
        plan, _ = await parts.use_cases.interventions.retry_task("p1", "a")
        assert plan.tasks[0].number == 2
        await until(lambda: _twice(server))
        assert await relying() == {}
        told_of = {event.deliberation_id: event.supersedes for event in await published(server, COMPLETED)}
        assert told_of == {
            deliberation_id("p1", "a"): [],
            deliberation_id("p1", "b"): [],
            ids.deliberation_id("p1", "a", 2): [ruled],
        }


async def test_a_task_that_a_person_overruled_is_not_tried_again(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers) as parts:
        await server.publish(approved("p1", task("a"), task("b"), task("c")))
        await until(lambda: published(server, PLAN_COMPLETED))
        decided = {name: ids.decision_id(deliberation_id("p1", name)) for name in "abc"}
        relying = {"story_id": "s", "plan_id": "p1", "changed": [], "version": 7, "superseded": ["dec-base"]}
        flagged = ContextUpdated(**relying, deliberation_id="", hash="h7", flagged=list(decided.values()))
        ruled = ContextUpdated(**{**relying, "superseded": [decided["a"]]}, deliberation_id="", hash="h8")
        late = ContextUpdated(
            **{**relying, "superseded": ["dec-base", decided["b"], decided["c"]]},
            deliberation_id=deliberation_id("p1", "b"),
            hash="h9",
        )
        for told in (flagged, ruled, late):
            await parts.handlers.on_context_updated(told)
        for name in "ab":
            with pytest.raises(Precondition, match=f"task {name} was overruled"):
                await parts.use_cases.interventions.retry_task("p1", name)
        peers.plan_book.plans = [approved("p1", task("a"), task("b"), task("c"))]
        plan, _ = await parts.use_cases.interventions.retry_task("p1", "c")
        assert plan.tasks[2].number == 2


async def test_a_decision_that_was_overruled_on_arrival_is_not_said_to_rely_on_itself(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers) as parts:
        await server.publish(approved("p1", task("a")))
        await until(lambda: published(server, PLAN_COMPLETED))
        own = ids.decision_id(deliberation_id("p1", "a"))
        told = ContextUpdated(
            story_id="s",
            plan_id="p1",
            deliberation_id=deliberation_id("p1", "a"),
            changed=[own],
            version=7,
            hash="h7",
            superseded=["dec-base", own],
            flagged=[own],
        )
        await parts.handlers.on_context_updated(told)
        [shown] = (await parts.requests.plan("p1")).tasks
    assert (shown.relies_on_superseded, shown.overruled) == (("dec-base",), True)


async def _twice(server: Bus) -> bool:
    return await harness.count(server, PLAN_COMPLETED) == 2
