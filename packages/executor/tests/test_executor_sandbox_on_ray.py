"""Dry runs on a real cluster: what its nodes say of sandboxes, and what a job brings back."""

import datetime as dt
import uuid
from pathlib import Path

import msgspec
import pytest
import stack
from integration import Client

from fleet_wire import events
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb


def dry_run(program: str, **tests: str) -> pb.ExecuteDeliberationRequest:
    name = uuid.uuid4().hex[:12]
    made = pb.ExecuteDeliberationRequest(deliberation_id=f"delib-{name}", task_id=f"task-{name}")
    made.deadline.FromDatetime(dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=60))
    run = pb.DryRun(program=program, tests=[pb.Test(test_id=key, code=code) for key, code in tests.items()])
    made.jobs.add(job_id=f"job-{name}", agent_id="agent-DEV-001", role="DEV", phase="dry_run", dry_run=run)
    return made


async def runs(client: Client, asked: pb.ExecuteDeliberationRequest) -> list[tuple[str, str, str]]:
    await client.execute(asked)
    [job] = (await client.ended(asked)).values()
    result = msgspec.json.decode(job.result, type=events.AgentResult)
    assert (result.status, result.content, result.calls) == ("completed", "", 0)
    return [(run.test_id, run.status, run.detail) for run in result.runs]


async def test_a_dry_run_runs_on_ray_and_its_nodes_say_that_they_can(executor: stack.Executor) -> None:
    async with Client(executor.address) as client:
        status = await client.ready()
        assert (status.sandbox, status.sandbox_reason) == (True, "")
        stats = await client.stub.GetClusterStats(pb.GetClusterStatsRequest(), timeout=20)
        assert [(node.sandbox, node.sandbox_reason) for node in stats.nodes] == [(True, "")]
        found = await runs(client, dry_run("def f(): return 1", good="assert f() == 1", bad="assert f() == 2"))
    assert found == [("good", "passed", ""), ("bad", "failed", "AssertionError (line 1 of the test)")]


@pytest.mark.reference_only
async def test_where_no_sandbox_can_be_made_it_says_so_and_runs_nothing(
    executor: stack.Executor, settings: dict[str, str], tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    made = stack.Executor(tmp_path, {**settings, "SANDBOX_PYTHON": "/nowhere/python"})
    try:
        async with Client(made.address) as client:
            status = await client.ready()
            assert not status.sandbox and "/nowhere/python" in status.sandbox_reason
            stats = await client.stub.GetClusterStats(pb.GetClusterStatsRequest(), timeout=20)
            assert not stats.nodes[0].sandbox and "/nowhere/python" in stats.nodes[0].sandbox_reason
            [(_, state, detail)] = await runs(client, dry_run(f"open({str(marker)!r}, 'w')", one="assert True"))
        assert state == "not_run" and "/nowhere/python" in detail
        assert not marker.exists()
    finally:
        made.kill()
        executor.stop()
        executor.start()  # it took over; whoever is started last does
