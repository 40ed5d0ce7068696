"""The orchestrator over real NATS: plans run in order, everything ends once, nothing is lost."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Any

import harness
import msgspec
import pytest
import realparts
from harness import (
    COMPLETED,
    FAILED,
    PLAN_COMPLETED,
    Peers,
    approved,
    deliberation_id,
    published,
    remember,
    replica,
    task,
    until,
)

from fleet.deliberation.prompt import Prompt
from fleet.deliberation.requests import JobRequest
from fleet.deliberation.state import Deliberation
from fleet.orchestrator import deliberations, driver, main
from fleet.orchestrator.peers import Wanted
from fleet.orchestrator.store import state_key
from fleet_wire import events, ids
from fleet_wire.bus import Bus
from fleet_wire.errors import Conflict, Unavailable


async def test_a_dependent_task_starts_only_after_the_decision_is_remembered(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers):
        await server.publish(approved("p1", task("a"), task("b", "a")))
        await until(lambda: published(server, COMPLETED))
        await asyncio.sleep(0.7)  # two sweeps and more: nothing may start it before the graph has the decision
        assert len(peers.executor.jobs) == 3
        await remember(server, peers, "p1", "a")
        [plan] = await until(lambda: published(server, PLAN_COMPLETED))
    assert plan.decided == ["a", "b"]
    second = [job for job in peers.executor.jobs.values() if "Do b" in job.messages[-1][1]]
    assert len(second) == 3
    decision = peers.memory.decisions[ids.decision_id(deliberation_id("p1", "a"))]
    assert all(decision in job.messages[-1][1] for job in second)
    assert [event.based_on for event in await published(server, COMPLETED)] == [
        [],
        [ids.decision_id(deliberation_id("p1", "a"))],
    ]


async def test_every_event_twice_decides_once(own_nats: realparts.Nats, server: Bus, peers: Peers) -> None:
    async def twice(event: events.Event) -> None:
        for copy in (1, 2):
            headers = {**server.headers(event), "Nats-Msg-Id": f"{event.message_id()}-copy-{copy}"}
            await server.js.publish(event.subject(), events.encode(event), headers=headers)

    peers.executor.publishes = False
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await twice(approved("p1", task("a")))
        await until(lambda: len(peers.executor.jobs) == 3)
        for result in list(peers.executor.known[deliberation_id("p1", "a")].values()):
            assert result is not None
            await twice(result)
        await until(lambda: published(server, PLAN_COMPLETED))
        await twice(approved("p1", task("a")))
        await asyncio.sleep(0.5)
    assert len(await published(server, COMPLETED)) == 1
    assert len(await published(server, PLAN_COMPLETED)) == 1
    assert await published(server, "orchestration.result.late") == []
    assert peers.executor.calls == 1


async def test_a_model_that_is_away_fails_visibly_and_skips_what_depends_on_it(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.fails
    async with replica(own_nats.url, peers):
        await server.publish(approved("p1", task("a"), task("b", "a")))
        [plan] = await until(lambda: published(server, PLAN_COMPLETED))
    [failed] = await published(server, FAILED)
    assert failed.reason == "quorum_missed"
    assert [agent.error.kind for agent in failed.agents] == ["unreachable"] * 3
    assert plan.decided == []
    assert [one.task_id for one in plan.failed] == ["a"]
    assert [one.task_id for one in plan.skipped] == ["b"]
    assert await published(server, COMPLETED) == []


async def test_a_role_without_a_council_fails_and_says_so(own_nats: realparts.Nats, server: Bus, peers: Peers) -> None:
    async with replica(own_nats.url, peers) as parts:
        await until(parts.requests.councils)
        await parts.requests.delete_council("QA")
        await server.publish(approved("p1", task("a", role="QA")))
        [failed] = await until(lambda: published(server, FAILED))
    assert (failed.reason, failed.detail) == ("no_council", "role QA has no council")


async def test_an_unknown_protocol_fails_and_names_the_known(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers):
        await server.publish(approved("p1", msgspec.structs.replace(task("a"), protocol="dice")))
        [failed] = await until(lambda: published(server, FAILED))
    assert failed.reason == "error"
    assert "tournament" in failed.detail


async def test_at_the_deadline_the_quorum_decides_and_the_late_answer_is_recorded(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    late: list[events.AgentResult] = []

    def two_of_three(state: Deliberation, job: JobRequest) -> events.AgentResult | None:
        answer = harness.answers(state, job)
        if job.agent_id.endswith("003"):
            assert answer is not None
            late.append(answer)
            return None
        return answer

    peers.executor.answer = two_of_three
    peers.executor.stops = False
    async with replica(own_nats.url, peers, timeout_seconds=1.5, sweep_seconds=60):
        await server.publish(approved("p1", task("a")))
        [completed] = await until(lambda: published(server, COMPLETED))
        assert [missing.agent_id for missing in completed.missing] == ["agent-DEV-003"]
        assert 1.4 <= completed.duration_seconds <= 3
        await server.publish(late[0])
        [record] = await until(lambda: published(server, "orchestration.result.late"))
    assert record.agent_id == "agent-DEV-003"
    assert len(await published(server, COMPLETED)) == 1


async def test_silence_until_the_deadline_is_a_failure(own_nats: realparts.Nats, server: Bus, peers: Peers) -> None:
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers, timeout_seconds=1, sweep_seconds=60):
        await server.publish(approved("p1", task("a")))
        [failed] = await until(lambda: published(server, FAILED))
    assert failed.reason == "deadline"


async def test_the_sweep_finds_a_deadline_whose_timer_was_lost(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers, timeout_seconds=1, sweep_seconds=60):
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
    await server.js.purge_stream("FLEET_TIMERS")
    await asyncio.sleep(1)
    async with replica(own_nats.url, peers, sweep_seconds=60):
        [failed] = await until(lambda: published(server, FAILED))
    assert failed.reason == "deadline"


async def test_an_executor_that_is_away_is_waited_for(own_nats: realparts.Nats, server: Bus, peers: Peers) -> None:
    peers.executor.away = True
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await server.publish(approved("p1", task("a")))
        await until(lambda: published(server, "orchestration.deliberation.started"))
        await asyncio.sleep(0.5)
        peers.executor.away = False
        await until(lambda: published(server, COMPLETED))
    assert len(peers.executor.jobs) == 3


async def test_results_that_no_message_brought_are_taken_from_the_executor(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.publishes = False
    async with replica(own_nats.url, peers):
        await server.publish(approved("p1", task("a")))
        await until(lambda: published(server, COMPLETED))


async def test_jobs_that_the_executor_lost_are_submitted_again(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers):
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
        peers.executor.answer = harness.answers
        peers.executor.known.clear()
        await until(lambda: published(server, COMPLETED))
    assert peers.executor.calls >= 2


async def test_a_task_that_context_does_not_know_breaks_the_deliberation_visibly(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.memory.unknown_tasks = True
    async with replica(own_nats.url, peers):
        await server.publish(approved("p1", task("a")))
        [failed] = await until(lambda: published(server, FAILED))
    assert failed.reason == "error"
    assert "has no task a" in failed.detail


async def test_a_context_that_has_not_seen_the_plan_is_asked_again_when_the_graph_has_it(
    own_nats: realparts.Nats, server: Bus, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "FIRST_DELAY_SECONDS", 3600.0)
    monkeypatch.setattr(driver, "LONGEST_DELAY_SECONDS", 3600.0)
    asked = 0
    context_for = peers.memory.context_for

    async def counted(wanted: Wanted, token_budget: int) -> Any:
        nonlocal asked
        asked += 1
        if asked <= 2:  # ahead, and when the task has started
            raise Unavailable("plan p1 is not in the graph yet")
        return await context_for(wanted, token_budget)

    monkeypatch.setattr(peers.memory, "context_for", counted)
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:
        await until(lambda: not parts.sweep.unread)  # the first sweep would wake it
        await server.publish(approved("p1", task("a")))
        await until(lambda: asked == 2)
        await server.publish(
            events.ContextUpdated(
                story_id="story-p1", plan_id="p1", deliberation_id="", changed=["p1"], version=1, hash="h"
            )
        )
        await until(lambda: published(server, PLAN_COMPLETED))
    assert asked == 3


async def test_a_task_that_starts_after_an_override_builds_on_what_supersedes(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await server.publish(approved("p1", task("a"), task("b", "a")))
        [first] = await until(lambda: published(server, COMPLETED))
        peers.memory.decisions["dec-ruling"] = "A person's word."
        peers.memory.superseded_by[first.decision_id] = "dec-ruling"
        await remember(server, peers, "p1", "a")
        await until(lambda: published(server, PLAN_COMPLETED))
    [second] = [event for event in await published(server, COMPLETED) if event.task_id == "b"]
    assert second.based_on == ["dec-ruling"]
    assert any("A person's word." in str(job) for job in peers.executor.jobs.values())


async def test_a_lost_context_update_is_asked_for(own_nats: realparts.Nats, server: Bus, peers: Peers) -> None:
    async with replica(own_nats.url, peers):
        await server.publish(approved("p1", task("a"), task("b", "a")))
        [first] = await until(lambda: published(server, COMPLETED))
        peers.memory.decisions[first.decision_id] = "kept without a word"
        await until(lambda: published(server, PLAN_COMPLETED))


async def test_approved_plans_that_the_store_lost_are_taken_from_planning_and_decided_once(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.memory.decisions[ids.decision_id(deliberation_id("p1", "a"))] = "decided before the loss"
    peers.plan_book.plans = [approved("p1", task("a"), task("b", "a"))]
    async with replica(own_nats.url, peers):
        [plan] = await until(lambda: published(server, PLAN_COMPLETED))
    assert plan.decided == ["a", "b"]
    assert [event.task_id for event in await published(server, COMPLETED)] == ["b"]


async def test_of_a_task_that_was_decided_again_before_the_loss_the_newest_decision_is_built_on(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    tries = [ids.decision_id(ids.deliberation_id("p1", "a", number)) for number in (1, 3)]
    for decision in tries:
        peers.memory.decisions[decision] = "decided before the loss"
    peers.plan_book.plans = [approved("p1", task("a"), task("b", "a"))]
    async with replica(own_nats.url, peers):
        await until(lambda: published(server, PLAN_COMPLETED))
    [second] = await published(server, COMPLETED)
    assert (second.task_id, second.based_on) == ("b", tries[1:])


async def test_garbage_on_each_subject_is_buried_and_work_goes_on(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    subjects = ["planning.plan.approved", "agent.results.t1", "context.updated", "timers.deadline.d1"]
    async with replica(own_nats.url, peers):
        for subject in subjects:
            await server.js.publish(subject, b"\x00\xffnot json")
        stranger = events.AgentResult(
            job_id="job-x",
            deliberation_id="delib-x",
            task_id="t1",
            agent_id="agent-DEV-001",
            role="DEV",
            phase="propose",
            attempt=1,
            status="completed",
            content="of a deliberation that nobody started",
        )
        await server.publish(stranger)
        await server.publish(approved("p1", task("a")))
        await until(lambda: published(server, PLAN_COMPLETED))
        info = await until(lambda: _dead(server, 5))
    assert sorted(info) == sorted(
        [
            "dead.AGENT_RESULTS.orchestrator-results",
            "dead.AGENT_RESULTS.orchestrator-results",
            "dead.CONTEXT_EVENTS.orchestrator-updates",
            "dead.FLEET_TIMERS.orchestrator-deadlines",
            "dead.PLANNING_EVENTS.orchestrator-plans",
        ]
    )


async def _dead(server: Bus, count: int) -> list[str]:
    state = (await server.js.stream_info("DEAD_LETTERS", subjects_filter="dead.>")).state
    subjects = [subject for subject, many in (state.subjects or {}).items() for _ in range(many)]
    return subjects if len(subjects) >= count else []


async def test_what_ended_is_kept_as_a_stub_with_a_time_to_live(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers) as parts:
        await server.publish(approved("p1", task("a")))
        deliberation = deliberation_id("p1", "a")

        async def retired() -> bool:
            entry = await parts.store.deliberations.get(state_key(deliberation))
            return entry is not None and entry.value.retired

        await until(retired)
        key = f"$KV.deliberations.{state_key(deliberation)}"
        message = await server.js.get_last_msg("KV_deliberations", key, direct=True)
        assert message.headers is not None
        assert message.headers["Nats-TTL"] == f"{45 * 86400}s"
        for job_id in peers.executor.jobs:
            message = await server.js.get_last_msg("KV_results", f"$KV.results.{job_id}", direct=True)
            assert message.headers is not None
            assert message.headers["Nats-TTL"] == f"{86400}s"
        with pytest.raises(Conflict):
            entry = await parts.store.deliberations.get(state_key(deliberation))
            assert entry is not None
            await parts.store.deliberations.create(state_key(deliberation), entry.value)


async def test_a_plan_that_lost_its_deliberations_starts_them_again(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
    await server.js.purge_stream("KV_deliberations")
    peers.executor.answer = harness.answers
    peers.executor.known.clear()
    async with replica(own_nats.url, peers):
        [plan] = await until(lambda: published(server, PLAN_COMPLETED))
    assert plan.decided == ["a"]


async def test_a_lost_plan_finds_the_deliberation_that_failed_meanwhile(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.fails
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await server.publish(approved("p1", task("a"), task("b")))
        await until(lambda: published(server, PLAN_COMPLETED))
    await server.js.purge_stream("KV_plans")
    peers.plan_book.plans = [approved("p1", task("a"), task("b"))]
    async with replica(own_nats.url, peers) as parts:

        async def completed() -> bool:
            entry = await parts.store.plans.get("p1")
            return entry is not None and entry.value.status == "completed"

        await until(completed)
        tasks = (await parts.requests.plan("p1")).tasks
    assert [one.status for one in tasks] == ["failed", "failed"]
    assert len(await published(server, FAILED)) == 2


async def test_answers_that_came_in_time_count_though_nobody_was_there_to_read_them(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent
    async with replica(own_nats.url, peers, timeout_seconds=2, sweep_seconds=60):
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
    known = peers.executor.known[deliberation_id("p1", "a")]
    for job in peers.executor.jobs.values():
        result = events.AgentResult(
            job_id=job.job_id,
            deliberation_id=deliberation_id("p1", "a"),
            task_id="a",
            agent_id=job.agent_id,
            role="DEV",
            phase="propose",
            attempt=1,
            status="completed",
            content=f"{job.agent_id} was in time",
        )
        known[job.job_id] = result
        await server.publish(result)
    await asyncio.sleep(2)
    async with replica(own_nats.url, peers, sweep_seconds=60):
        [completed] = await until(lambda: published(server, COMPLETED))
    assert len(completed.ranking) == 3


async def test_answers_to_a_submission_that_nobody_confirmed_count(
    own_nats: realparts.Nats, server: Bus, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = peers.executor.execute
    peers.executor.publishes = False

    async def unheard(state: Deliberation, jobs: Sequence[JobRequest]) -> None:
        await execute(state, jobs)
        raise Unavailable("ray-executor did not answer in time")

    monkeypatch.setattr(peers.executor, "execute", unheard)
    async with replica(own_nats.url, peers, timeout_seconds=5):
        await server.publish(approved("p1", task("a")))
        [completed] = await until(lambda: published(server, COMPLETED))
    assert len(completed.ranking) == 3


async def test_what_a_crash_left_unsubmitted_beside_an_answer_is_submitted_by_the_next_sweep(
    own_nats: realparts.Nats, server: Bus, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = peers.executor.execute
    peers.executor.publishes = False

    async def one_of_them(state: Deliberation, jobs: Sequence[JobRequest]) -> None:
        await execute(state, jobs[:1])
        await asyncio.Event().wait()

    def unswept(parts: main.Parts) -> None:
        parts.sweep.once = asyncio.Event().wait  # type: ignore[assignment, method-assign]

    with monkeypatch.context() as patch:
        patch.setattr(peers.executor, "execute", one_of_them)
        async with replica(own_nats.url, peers, broken=unswept) as parts:

            async def saved() -> bool:
                entry = await parts.store.deliberations.get(state_key(deliberation_id("p1", "a")))
                return entry is not None and entry.value.status == "running" and not entry.value.submitted

            await server.publish(approved("p1", task("a")))
            await until(saved)
            assert peers.executor.calls == 1
    peers.executor.publishes = True
    async with replica(own_nats.url, peers, sweep_seconds=60, broken=harness.marked_only):
        [completed] = await until(lambda: published(server, COMPLETED))
    assert len(completed.ranking) == 3


async def test_an_unforeseen_error_in_a_turn_loses_no_answer_and_stops_no_deadline(
    own_nats: realparts.Nats, server: Bus, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = deliberations.turn

    def broken(state: Deliberation, prompt: Prompt, results: dict[str, events.AgentResult], now: dt.datetime) -> object:
        if results:
            raise ValueError("nobody thought of this")
        return turn(state, prompt, results, now)

    monkeypatch.setattr(deliberations, "turn", broken)
    async with replica(own_nats.url, peers, timeout_seconds=9, sweep_seconds=0.5) as parts:

        async def counted() -> bool:
            entry = await parts.store.deliberations.get(state_key(deliberation_id("p1", "a")))
            jobs = entry.value.jobs if entry else ()
            return bool(jobs) and all(job.status == "completed" for job in jobs)

        await server.publish(approved("p1", task("a")))
        await until(counted, 5)
        assert not await published(server, COMPLETED)
        [completed] = await until(lambda: published(server, COMPLETED))
    assert len(completed.ranking) == 3


async def test_a_plan_that_could_never_run_is_buried(own_nats: realparts.Nats, server: Bus, peers: Peers) -> None:
    async with replica(own_nats.url, peers):
        await server.publish(approved("cycle", task("a", "b"), task("b", "a")))
        await server.publish(approved("unknown", task("a", "nowhere")))
        await server.publish(approved("empty"))
        assert len(await until(lambda: _dead(server, 3))) == 3
    assert await published(server, PLAN_COMPLETED) == []


async def test_one_bad_record_or_plan_ends_no_sweep(own_nats: realparts.Nats, server: Bus, peers: Peers) -> None:
    await server.js.publish("$KV.plans.bad", b"{")
    await server.js.publish("$KV.deliberations.state.bad", b"{")
    peers.plan_book.plans = [approved("bad", task("a")), approved("cycle", task("a", "a")), approved("p1", task("a"))]
    async with replica(own_nats.url, peers):
        [plan] = await until(lambda: published(server, PLAN_COMPLETED))
    assert plan.plan_id == "p1"


async def test_what_was_not_announced_or_scheduled_stays_due_while_the_agents_run(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    peers.executor.answer = harness.silent

    def no_timers(parts: main.Parts) -> None:
        async def away(event: events.Event, at: Any) -> int:
            raise Unavailable("FLEET_TIMERS is away")

        parts.handlers.bus.schedule = away  # type: ignore[method-assign, assignment]

    async with replica(own_nats.url, peers, sweep_seconds=60, broken=no_timers):
        await server.publish(approved("p1", task("a")))
        await until(lambda: peers.executor.calls)
    async with replica(own_nats.url, peers, sweep_seconds=60) as parts:

        async def scheduled() -> bool:
            entry = await parts.store.deliberations.get(state_key(deliberation_id("p1", "a")))
            return entry is not None and entry.value.scheduled and entry.value.status == "running"

        await until(scheduled)
    assert (await server.js.stream_info("FLEET_TIMERS")).state.messages == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "failed", "content": "", "error": None},
        {"status": "completed", "content": "  "},
        {"agent_id": "agent-DEV-009"},
    ],
)
async def test_a_result_that_contradicts_itself_is_buried_and_not_counted(
    own_nats: realparts.Nats, server: Bus, peers: Peers, wrong: dict[str, Any]
) -> None:
    peers.executor.publishes = False
    async with replica(own_nats.url, peers, sweep_seconds=60):
        await server.publish(approved("p1", task("a")))
        await until(lambda: len(peers.executor.jobs) == 3)
        good = list(peers.executor.known[deliberation_id("p1", "a")].values())
        assert good[0] is not None
        await server.publish(msgspec.structs.replace(good[0], **wrong))
        await until(lambda: _dead(server, 1))
        for result in good:
            assert result is not None
            headers = {**server.headers(result), "Nats-Msg-Id": f"good-{result.job_id}"}
            await server.js.publish(result.subject(), events.encode(result), headers=headers)
        [completed] = await until(lambda: published(server, COMPLETED))
    assert len(completed.ranking) == 3


async def test_endless_error_texts_do_not_keep_a_deliberation_from_ending(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    def complains(state: Deliberation, job: JobRequest) -> events.AgentResult | None:
        failed = harness.fails(state, job)
        assert failed is not None
        return msgspec.structs.replace(
            failed, error=events.JobError(kind="http", message="x" * 300_000, retryable=False)
        )

    peers.executor.answer = complains
    async with replica(own_nats.url, peers):
        await server.publish(approved("p1", task("a")))
        [failed] = await until(lambda: published(server, FAILED))
    assert all(0 < len(agent.error.message) < 3000 for agent in failed.agents)


async def test_default_councils_that_were_cut_off_are_completed_and_deleted_ones_stay_deleted(
    own_nats: realparts.Nats, server: Bus, peers: Peers
) -> None:
    async with replica(own_nats.url, peers) as parts:
        await until(lambda: parts.store.defaults.get("defaults"))
        await parts.requests.delete_council("QA")
    async with replica(own_nats.url, peers) as parts:
        await asyncio.sleep(0.5)
        assert [council.role for council in await parts.requests.councils()] == ["DEV", "ARCHITECT", "DEVOPS", "DATA"]
        await parts.store.defaults.delete("defaults")
    async with replica(own_nats.url, peers) as parts:

        async def five() -> bool:
            return len(await parts.requests.councils()) == 5

        await until(five)
