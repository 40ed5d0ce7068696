"""A plan through all eight steps on real parts, with a real small model."""

import asyncio
import functools
import os
import sys
from pathlib import Path

import grpc
import pytest
from fleet_kit import DecidedPlan, Fleet, deliberation_of, until

from fleet.orchestrator.store import prompt_key
from fleet_wire import ids
from fleet_wire.fence import harmless
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.gen.planning.v1 import planning_pb2
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the loop that the stack lives in


async def test_the_executor_runs_on_the_reference_cluster_and_the_control_plane_on_its_own_python(fleet: Fleet) -> None:
    stats = await fleet.executor.GetClusterStats(ray_executor_pb2.GetClusterStatsRequest())
    if not stats.python_version.startswith("3.9."):
        pytest.skip(
            f"no Python 3.9 on this machine: the executor runs on {stats.python_version}, Ray {stats.ray_version}"
        )
    assert stats.ray_version == "2.49.2"
    assert sys.version_info >= (3, 11)
    status = await fleet.executor.GetStatus(ray_executor_pb2.GetStatusRequest())
    assert status.ready, status.reason
    assert (status.python_version, status.ray_version) == (stats.python_version, stats.ray_version)
    assert [node.alive for node in stats.nodes] == [True]
    assert stats.cpus.total > 0


async def test_two_dependent_tasks_are_decided_by_three_real_proposals_each(
    fleet: Fleet, decided_plan: DecidedPlan
) -> None:
    assert decided_plan.completed.decided == ["slug", "check"]
    for task_id in decided_plan.completed.decided:
        deliberation = deliberation_of(decided_plan.plan_id, task_id)
        assert len(await fleet.ends(deliberation)) == 1
        decision = await until(functools.partial(fleet.explain, ids.decision_id(deliberation)))
        contents = [proposal.content for proposal in decision.proposals]
        assert len(contents) == 3
        assert all(content.strip() for content in contents)
        assert len(set(contents)) == 3, "three agents that sample with three seeds do not write the same"
        best = next(proposal for proposal in decision.proposals if proposal.rank == 1)
        assert best.agent_id == decision.decision.winner
        assert best.score == max(proposal.score for proposal in decision.proposals)


async def test_a_dependent_task_starts_after_the_decision_is_in_the_graph_and_its_prompt_holds_it(
    fleet: Fleet, decided_plan: DecidedPlan
) -> None:
    first, second = (deliberation_of(decided_plan.plan_id, task_id) for task_id in ("slug", "check"))
    started = {
        event.deliberation_id: message.headers["ce-time"]
        for message, event in await fleet.events("orchestration.deliberation.started")
    }
    remembered = {
        event.deliberation_id: message.headers["ce-time"] for message, event in await fleet.events("context.updated")
    }
    assert remembered[first] <= started[second]
    prompt = await fleet.store.prompts.get(prompt_key(second))
    assert prompt is not None
    decided = (await until(functools.partial(fleet.explain, ids.decision_id(first)))).decision.content
    assert harmless(decided).strip() in prompt.value.shared
    explained = await until(functools.partial(fleet.explain, ids.decision_id(second)))
    assert list(explained.based_on) == [ids.decision_id(first)]


async def test_the_trace_of_the_approval_goes_on_in_the_deliberation(fleet: Fleet, decided_plan: DecidedPlan) -> None:
    traces = {
        event.task_id if hasattr(event, "task_id") else "plan": str(message.headers["traceparent"]).split("-")[1]
        for subject in ("planning.plan.approved", "orchestration.deliberation.started")
        for message, event in await fleet.events(subject)
        if event.plan_id == decided_plan.plan_id
    }
    assert traces["plan"] == traces["slug"]


async def test_an_approval_counts_once(fleet: Fleet, decided_plan: DecidedPlan) -> None:
    refused = [answer for answer in decided_plan.approvals if answer is not None]
    assert len(refused) == 3
    assert {error.code() for error in refused} == {grpc.StatusCode.FAILED_PRECONDITION}  # type: ignore[attr-defined]

    async def completed() -> bool:
        answer = await fleet.planning.GetPlan(planning_pb2.GetPlanRequest(plan_id=decided_plan.plan_id))
        return bool(answer.plan.state == "completed")

    await until(completed)


async def test_an_ad_hoc_deliberation_is_judged_by_a_third_seat_and_reaches_the_graph(fleet: Fleet) -> None:
    request = orchestrator_pb2.DeliberateRequest(
        role="ARCHITECT", description="How should a retry back off?", protocol="tournament", numbers={"agents": 2}
    )
    started = await fleet.orchestrator.Deliberate(request)

    async def ended() -> bool:
        return bool((await fleet.state(started.deliberation_id)).state == "completed")

    await until(ended, 240)
    jobs = (await fleet.state(started.deliberation_id)).jobs
    assert [job.agent_id for job in jobs if job.phase == "judge"] == ["agent-ARCHITECT-003"] * 2
    answer = await until(lambda: fleet.explain(f"dec-{started.deliberation_id}"))
    assert answer.decision.role == "ARCHITECT"
    assert answer.decision.story_id == ""


async def test_the_demo_observes_all_eight_steps_and_says_so_by_its_exit_code(fleet: Fleet) -> None:
    command = [str(Path(sys.executable).parent / "fleet"), "demo", "--timeout", "700"]
    env = {**os.environ, "FLEET_HOME": str(fleet.stack.home.path)}
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output = (await asyncio.wait_for(process.communicate(), 720))[0].decode()
    assert process.returncode == 0, output
    assert "dec-delib-" in output
    for step in ("approved", "started", "submitted", "running", "answered", "decided", "remembered", "shown"):
        assert step in output
