"""Parts are killed in the middle of a deliberation; it still ends in exactly one decision."""

import asyncio

import pytest
from fleet_kit import ONE_TASK, TWO_TASKS, DecidedPlan, Fleet, deliberation_of, until

from fleet_wire import apply, events
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2
from fleet_wire.ids import decision_id

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the loop that the stack lives in


async def running_deliberation(fleet: Fleet, plan: str = ONE_TASK) -> tuple[str, str]:
    """Starts a plan and answers once its first deliberation's jobs run on Ray: plan and deliberation id."""
    plan_id = await fleet.start(plan)
    deliberation = deliberation_of(plan_id, "slug")

    async def runs() -> bool:
        request = ray_executor_pb2.GetDeliberationStatusRequest(deliberation_id=deliberation)
        jobs = (await fleet.executor.GetDeliberationStatus(request)).jobs
        return any(job.status == "running" for job in jobs)

    await until(runs, 60)
    return plan_id, deliberation


async def decided_once(fleet: Fleet, plan_id: str, deliberation: str) -> None:
    """The plan ends with this deliberation decided by one event, by three agents at most, and in the graph."""
    plan = await fleet.plan_ended(plan_id, 240)
    assert "slug" in plan.decided, plan
    [end] = await fleet.ends(deliberation)
    assert end.decision_id == decision_id(deliberation)  # type: ignore[attr-defined]
    answer = await until(lambda: fleet.explain(decision_id(deliberation)))
    agents = [proposal.agent_id for proposal in answer.proposals]
    assert 2 <= len(agents) == len(set(agents)) <= 3
    assert answer.decision.content == end.decision.content  # type: ignore[attr-defined]


async def test_a_killed_orchestrator_goes_on_where_it_was(fleet: Fleet) -> None:
    plan_id, deliberation = await running_deliberation(fleet)
    await fleet.stack.part("orchestrator").kill()
    await fleet.stack.part("orchestrator").wait_ready()
    await decided_once(fleet, plan_id, deliberation)


async def test_a_killed_executor_leaves_the_jobs_running_and_knows_them_again(fleet: Fleet) -> None:
    plan_id, deliberation = await running_deliberation(fleet)
    await fleet.stack.part("ray-executor").kill()
    await fleet.stack.part("ray-executor").wait_ready()
    request = ray_executor_pb2.GetDeliberationStatusRequest(deliberation_id=deliberation)
    assert len((await fleet.executor.GetDeliberationStatus(request)).jobs) == 3
    await decided_once(fleet, plan_id, deliberation)


async def test_a_killed_nats_server_loses_nothing(fleet: Fleet) -> None:
    plan_id, deliberation = await running_deliberation(fleet)
    await fleet.stack.part("nats").kill()
    await fleet.stack.part("nats").wait_ready()
    await decided_once(fleet, plan_id, deliberation)


async def test_a_killed_context_service_holds_the_dependent_task_until_it_remembers(fleet: Fleet) -> None:
    plan_id, deliberation = await running_deliberation(fleet, TWO_TASKS)
    await fleet.stack.part("context").kill(restart=False)

    async def ended() -> bool:
        return bool((await fleet.state(deliberation)).state == "completed")

    await until(ended, 400)
    await asyncio.sleep(3)
    progress = await fleet.progress(plan_id)
    assert [task.state for task in progress.tasks] == ["decided", "waiting"]
    await fleet.stack.part("context").start()
    await decided_once(fleet, plan_id, deliberation)


async def test_a_model_that_is_away_makes_failures_that_say_so_and_nothing_is_invented(fleet: Fleet) -> None:
    await fleet.stack.part("model").stop()
    try:
        plan_id = await fleet.start(TWO_TASKS)
        plan = await fleet.plan_ended(plan_id, 200)
    finally:
        await fleet.stack.part("model").start()
    assert plan.decided == []
    assert [task.task_id for task in plan.failed] == ["slug"]
    assert [task.task_id for task in plan.skipped] == ["check"]
    [end] = await fleet.ends(deliberation_of(plan_id, "slug"))
    assert end.reason == "quorum_missed"  # type: ignore[attr-defined]
    errors = [agent.error for agent in end.agents]  # type: ignore[attr-defined]
    assert [error.kind for error in errors] == ["unreachable"] * 3
    assert all(error.message for error in errors)


async def test_a_service_waits_for_a_stream_that_is_gone_and_says_which(fleet: Fleet) -> None:
    orchestrator = fleet.stack.part("orchestrator")
    await orchestrator.stop()
    await fleet.bus.js.delete_stream("FLEET_TIMERS")
    starting = asyncio.create_task(orchestrator.start())

    async def says_so() -> bool:
        status = await fleet.orchestrator.GetStatus(orchestrator_pb2.GetStatusRequest())
        return not status.ready and "FLEET_TIMERS" in status.reason

    try:
        await until(says_so, 30)
        await asyncio.sleep(1)
        assert not orchestrator.ready.is_set()
    finally:
        await apply.apply(fleet.bus)
    await asyncio.wait_for(starting, 60)
    plan_id = await fleet.start(ONE_TASK)
    await decided_once(fleet, plan_id, deliberation_of(plan_id, "slug"))


async def test_garbage_on_every_subject_goes_to_dead_letters_and_the_fleet_goes_on(fleet: Fleet) -> None:
    subjects = [*(sample_subject(kind) for kind in events.TYPES), "planning.nobody.knows"]
    before = await dead_letters(fleet)
    for subject in subjects:
        await fleet.bus.js.publish(subject, b"\x00\xff garbage")
    plan_id = await fleet.start(ONE_TASK)
    await decided_once(fleet, plan_id, deliberation_of(plan_id, "slug"))
    buried = await dead_letters(fleet)
    grown = {subject for subject, count in buried.items() if count > before.get(subject, 0)}
    assert grown >= {
        "dead.PLANNING_EVENTS.context-planning",
        "dead.PLANNING_EVENTS.orchestrator-plans",
        "dead.ORCHESTRATOR_EVENTS.context-decisions",
        "dead.ORCHESTRATOR_EVENTS.planning-completions",
        "dead.AGENT_RESULTS.orchestrator-results",
        "dead.CONTEXT_EVENTS.orchestrator-updates",
        "dead.FLEET_TIMERS.orchestrator-deadlines",
    }
    assert buried["dead.PLANNING_EVENTS.context-planning"] - before.get("dead.PLANNING_EVENTS.context-planning", 0) == 4


def sample_subject(kind: type[events.Event]) -> str:
    """A subject of the event type, with a token for each id that stands in it."""
    tokens = {"agent.results": 1, "vllm.streaming": 2, "timers.deadline": 1}.get(kind.TYPE, 0)
    return ".".join([kind.TYPE, *["nothing"] * tokens])


async def dead_letters(fleet: Fleet) -> dict[str, int]:
    state = (await fleet.bus.js.stream_info("DEAD_LETTERS", subjects_filter="dead.>")).state
    return dict(state.subjects or {})


async def test_every_event_delivered_twice_changes_nothing(fleet: Fleet, decided_plan: DecidedPlan) -> None:
    plan_id = decided_plan.plan_id
    deliberation = deliberation_of(plan_id, "slug")
    before = await until(lambda: fleet.explain(decision_id(deliberation)))
    for stream in ("PLANNING_EVENTS", "AGENT_RESULTS", "ORCHESTRATOR_EVENTS", "CONTEXT_EVENTS"):
        state = (await fleet.bus.js.stream_info(stream)).state
        for sequence in range(max(1, state.first_seq), state.last_seq + 1):
            message = await fleet.bus.js.get_msg(stream, sequence)
            if plan_id in str(message.data) or deliberation in str(message.data):
                kept = {key: value for key, value in (message.headers or {}).items() if "-Expected-" not in key}
                headers = {**kept, "Nats-Msg-Id": f"again-{stream}-{sequence}"}
                await fleet.bus.js.publish(str(message.subject), message.data or b"", headers=headers)
    await asyncio.sleep(3)
    assert await fleet.explain(decision_id(deliberation)) == before
    ends = await fleet.ends(deliberation)
    assert len(ends) == 2, "the one that was published again here, and no other"
    assert ends[0] == ends[1]
    assert (await fleet.progress(plan_id)).state == "completed"
