"""The executor as a process of its own, on a real NATS and a real Ray: what it does when things go well, and when processes
die in the middle."""

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import Optional

import grpc
import msgspec
import pytest
import stack
from grpc_health.v1 import health_pb2, health_pb2_grpc
from integration import Client, chunks, published, request
from scripted_model import ScriptedModel

from fleet_executor.config import code_folders
from fleet_wire import events
from fleet_wire.bus import Bus
from fleet_wire.errors import AlreadyExists, Exhausted, Invalid, NotFound, Unavailable
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb

SLOW = "a b c d e f [slow 6]"


async def health(executor: stack.Executor) -> int:
    async with grpc.aio.insecure_channel(executor.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=15)
        return int(answer.status)


async def test_jobs_run_from_end_to_end(executor: stack.Executor, bus: Bus) -> None:
    async with Client(executor.address) as client:
        status = await client.ready()
        assert status.ray_version and status.python_version and status.pool.startswith("VLLMAgentJob-")
        assert await health(executor) == health_pb2.HealthCheckResponse.SERVING
        asked = request(["one two three", "four five", "six"])
        assert await client.execute(asked) == [job.job_id for job in asked.jobs]
        results = await published(bus, asked, 3)
        assert sorted(result.content for result in results) == ["four five", "one two three", "six"]
        jobs = await client.ended(asked)
        assert {job.status for job in jobs.values()} == {"completed"}
        assert {job.actor for job in jobs.values()} == set((await cluster(client)).actors)
        by_agent = {result.agent_id: result for result in results}
        for agent, job in jobs.items():
            assert msgspec.json.decode(job.result, type=events.AgentResult) == by_agent[agent]
        assert "".join(chunk.text for chunk in await chunks(bus, asked, "agent-DEV-001")) == "one two three"
        await client.until("the model's name", lambda: names_model(client))


async def names_model(client: Client) -> bool:
    return (await client.status()).model == "scripted"


async def cluster(client: Client) -> pb.GetClusterStatsResponse:
    return await client.stub.GetClusterStats(pb.GetClusterStatsRequest(), timeout=20)


async def test_the_cluster_says_what_it_has(executor: stack.Executor) -> None:
    async with Client(executor.address) as client:
        await client.ready()
        stats = await cluster(client)
        assert stats.cpus.total >= 1 and 0 <= stats.cpus.used <= stats.cpus.total
        assert stats.memory_bytes.total > 2**20
        assert [node.alive for node in stats.nodes] == [True]
        assert stats.nodes[0].cpus == stats.cpus
        assert len(stats.actors) == 1 and stats.actors[0].startswith(stats.pool)


async def test_a_repeated_request_runs_nothing_again_and_another_content_is_refused(
    executor: stack.Executor, bus: Bus, model: ScriptedModel
) -> None:
    async with Client(executor.address) as client:
        await client.ready()
        asked = request(["[slow 1] a b"])
        assert await client.execute(asked) == await client.execute(asked)
        await client.ended(asked)
        await client.execute(asked)
        assert len(await published(bus, asked, 1)) == 1
        assert len(model.asked) == 1
        asked.jobs[0].max_tokens += 1
        with pytest.raises(AlreadyExists):
            await client.execute(asked)


async def test_bad_requests_are_answered_by_the_name_of_the_field(executor: stack.Executor) -> None:
    async with Client(executor.address) as client:
        asked = request(["a", "b"])
        asked.jobs[1].max_tokens = 0
        with pytest.raises(Invalid, match=r"jobs\[1\]\.max_tokens"):
            await client.execute(asked)
        await client.ready()
        with pytest.raises(NotFound):
            await client.jobs("delib-unknown")


async def test_a_model_that_fails_makes_a_failed_result(
    executor: stack.Executor, bus: Bus, model: ScriptedModel
) -> None:
    async with Client(executor.address) as client:
        await client.ready()
        model.script[:] = [400]
        asked = request(["a"])
        await client.execute(asked)
        [result] = await published(bus, asked, 1)
        assert result.status == "failed" and result.content == ""
        assert result.error is not None and result.error.kind == "http"


async def test_more_than_the_model_takes_is_refused_and_a_cancelled_deliberation_makes_room(
    executor: stack.Executor, bus: Bus, model: ScriptedModel
) -> None:
    async with Client(executor.address) as client:
        await client.ready()
        asked = request(["[slow 60] a b c d e f"] * 4)
        await client.execute(asked)
        await client.until("the calls to the model", lambda: answer(model.streaming == 4))
        assert (await client.status()).model_calls == 4
        model.waiting = 2
        status = await client.until("a lower limit", lambda: limited(client, 4))
        with pytest.raises(Exhausted, match="MODEL_CALLS_LIMIT is 256"):
            await client.execute(request(["a"]))
        assert len(await client.execute(asked)) == 4  # repeated, not more
        assert await client.cancel(asked.deliberation_id) == sorted(job.job_id for job in asked.jobs)
        # The server sees that the connection is closed when it sends its next piece.
        await client.until("the end of the calls", lambda: answer(model.streaming == 0), 30)
        results = await published(bus, asked, 4)
        assert [result.error and result.error.kind for result in results] == ["cancelled"] * 4
        assert await client.cancel(asked.deliberation_id) == []
        with pytest.raises(NotFound):
            await client.cancel("delib-unknown")
        assert (await client.status()).model_calls == 0
        larger = request(["b"] * 6)  # more than the limit, and nothing is open
        await client.execute(larger)
        assert {job.status for job in (await client.ended(larger)).values()} == {"completed"}
        model.waiting = 0
        low = (await client.status()).model_limit
        assert low <= status.model_limit
        await client.until("a higher limit", lambda: higher(client, low))


async def limited(client: Client, below: int) -> Optional[pb.GetStatusResponse]:
    status = await client.status()
    return status if status.model_limit < below else None


async def higher(client: Client, than: int) -> bool:
    return (await client.status()).model_limit > than


@pytest.mark.reference_only
async def test_a_node_that_comes_gets_an_actor_and_when_it_dies_its_jobs_go_on_elsewhere(
    executor: stack.Executor, ray_head: stack.RayHead, bus: Bus, model: ScriptedModel
) -> None:
    if not ray_head.own:
        pytest.skip("NOT TESTED: the cluster of FLEET_TEST_RAY_ADDRESS is not ours to change")
    async with Client(executor.address) as client:
        await client.ready()
        before = set((await cluster(client)).actors)
        node = ray_head.add_node()
        try:
            [added] = await client.until("its actor", lambda: new_actors(client, before))
            asked = [request(["[slow 8] a b c d"])]
            await client.execute(asked[0])
            await client.until("a job for it", lambda: takes_one(client, added, asked), 10)
        finally:
            node.kill_all()
        ended = [job for each in asked for job in (await client.ended(each, 90)).values()]
        assert {job.status for job in ended} == {"completed"}
        assert {job.attempt for job in ended} == {1, 2}
        for each in asked:
            assert len(await published(bus, each, 1, 0.2)) == 1
        assert (await client.status()).active_jobs == 0


async def takes_one(client: Client, actor: str, asked: list[pb.ExecuteDeliberationRequest]) -> bool:
    """Asks for one job more, unless the actor has the last one."""
    [job] = (await client.jobs(asked[-1].deliberation_id)).values()
    if job.actor == actor:
        return True
    asked.append(request(["[slow 8] a b c d"]))
    await client.execute(asked[-1])
    return False


async def new_actors(client: Client, before: set[str]) -> set[str]:
    return set((await cluster(client)).actors) - before


def pids_of(executor: stack.Executor, ray_head: stack.RayHead) -> set[int]:
    """Processes of the actors of this test session: those whose log says their pool's name."""
    found = set()
    for log in ray_head.logs().glob("worker-*.err"):
        if executor_pool(executor) in log.read_text(errors="replace"):
            found.add(int(log.stem.rsplit("-", 1)[1]))
    return {pid for pid in found if stack.alive(pid)}


def executor_pool(executor: stack.Executor) -> str:
    for line in executor.output.splitlines():
        if '"pool":' in line:
            return str(msgspec.json.decode(line)["pool"])
    raise AssertionError("the executor names no pool")


async def test_an_actor_killed_in_the_middle_leaves_one_result_per_job(
    executor: stack.Executor, ray_head: stack.RayHead, bus: Bus, model: ScriptedModel
) -> None:
    async with Client(executor.address) as client:
        await client.ready()
        asked = [request([SLOW, SLOW]) for _ in range(2)]
        for each in asked:
            await client.execute(each)
        await client.until("the calls to the model", lambda: answer(model.streaming >= 4))
        killed = pids_of(executor, ray_head)
        assert killed
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        for each in asked:
            jobs = await client.ended(each, 60)
            assert {job.status for job in jobs.values()} == {"completed"}
            assert {job.attempt for job in jobs.values()} == {2}
            results = await published(bus, each, 2)
            assert len(results) == 2 and len({result.job_id for result in results}) == 2


@pytest.mark.reference_only
async def test_an_only_actor_that_hangs_is_started_anew(
    executor: stack.Executor, ray_head: stack.RayHead, bus: Bus, model: ScriptedModel
) -> None:
    async with Client(executor.address) as client:
        await client.ready()
        running, late = request([SLOW]), request(["a"])
        await client.execute(running)
        await client.until("the call to the model", lambda: answer(model.streaming >= 1))
        [stuck] = pids_of(executor, ray_head)
        os.kill(stuck, signal.SIGSTOP)  # Ray's own `kill` does not end it
        await client.execute(late)  # recorded, though nobody takes it; Ray calls the new process with it too
        for asked, attempts in ((running, {2}), (late, {1, 2})):
            [job] = (await client.ended(asked, 60)).values()
            assert job.status == "completed" and job.attempt in attempts
            assert len(await published(bus, asked, 1)) == 1
        assert not stack.alive(stuck)
        await client.ready(10)


async def test_an_actor_that_hung_for_a_while_goes_on_with_all_it_was_given(
    executor: stack.Executor, ray_head: stack.RayHead, model: ScriptedModel
) -> None:
    async with Client(executor.address) as client:
        await client.ready()
        [stuck] = pids_of(executor, ray_head)
        os.kill(stuck, signal.SIGSTOP)
        asked = [request(["a"]) for _ in range(3)]
        calls = [asyncio.ensure_future(client.execute(each)) for each in asked]
        try:
            await asyncio.gather(*calls)  # the first in a call that is not answered, the others behind it
        finally:
            os.kill(stuck, signal.SIGCONT)
        await client.until(
            "that it takes jobs again", lambda: takes_jobs(client), 15
        )  # an actor is left out for 30 s else
        for each in asked:
            assert {job.status for job in (await client.ended(each, 15)).values()} == {"completed"}


async def takes_jobs(client: Client) -> bool:
    try:
        await client.execute(request(["a"]))
    except Unavailable:
        return False
    return True


async def answer(value: bool) -> bool:
    return value


@pytest.mark.reference_only
async def test_jobs_finish_without_the_executor_and_the_registry_outlives_it(
    executor: stack.Executor, bus: Bus, model: ScriptedModel
) -> None:
    async with Client(executor.address) as client:
        await client.ready()
        finished, running = request(["[slow 3] a b"]), request(["[slow 12] a b c d e f g h"])
        cancelled = request(["[slow 60] a b c d e f g h"])
        for asked in (finished, running, cancelled):
            await client.execute(asked)
        await client.until("the calls to the model", lambda: answer(model.streaming >= 3))
        driver = executor.driver
        assert driver
        os.kill(driver, signal.SIGSTOP)  # so that the actor of what is cancelled cannot be told
        assert await client.cancel(cancelled.deliberation_id) == [cancelled.jobs[0].job_id]
        assert model.streaming >= 2
    executor.kill()
    [result] = await published(bus, finished, 1)
    assert result.status == "completed"
    stack.wait_for("the end of the driver", lambda: not stack.alive(driver), 10)
    executor.start()
    async with Client(executor.address) as client:
        await client.ready()
        assert {job.status for job in (await client.jobs(finished.deliberation_id)).values()} == {"completed"}
        [job] = (await client.jobs(running.deliberation_id)).values()
        assert (job.status, job.attempt) in (("running", 1), ("completed", 1))
        [job] = (await client.ended(running)).values()
        assert (job.status, job.attempt) == ("completed", 1)
        assert len(await published(bus, running, 1)) == 1
        await client.until("the end of what was cancelled", lambda: answer(model.streaming == 0), 20)
        [result] = await published(bus, cancelled, 1)
        assert result.error is not None and result.error.kind == "cancelled"


@pytest.mark.reference_only
async def test_it_stops_within_seconds_and_leaves_the_actors(executor: stack.Executor, ray_head: stack.RayHead) -> None:
    async with Client(executor.address) as client:
        await client.ready()
    before = pids_of(executor, ray_head)
    assert executor.stop() == 0
    assert "Ray Executor stopped" in executor.output
    assert pids_of(executor, ray_head) == before != set()
    executor.start()


@pytest.mark.reference_only
async def test_new_code_makes_a_new_pool_and_the_old_one_drains(
    executor: stack.Executor, settings: dict[str, str], ray_head: stack.RayHead, bus: Bus, tmp_path: Path
) -> None:
    for folder in code_folders():
        shutil.copytree(folder, tmp_path / Path(folder).name, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "fleet_executor" / "worker.py").open("a") as source:
        source.write("\n# a new release\n")
    async with Client(executor.address) as client:
        old = (await client.ready()).pool
        running = request(["[slow 20] a b c d e f g h"])
        await client.execute(running)
    newer = stack.Executor(tmp_path, settings, sources=str(tmp_path))
    try:
        async with Client(newer.address) as client, Client(executor.address) as older:
            new = (await client.ready()).pool
            assert new != old
            status = await older.until("the old release's leave", lambda: not_ready(older))
            assert new in status.reason
            with pytest.raises(Unavailable):
                await older.execute(request(["a"]))
            await client.ready()  # a last word of the old release may have reached the new actors meanwhile
            asked = request(["b"])
            await client.execute(asked)
            [job] = (await client.ended(asked)).values()
            assert job.actor.startswith(new)
            [job] = (await client.ended(running)).values()
            assert (job.status, job.attempt) == ("completed", 1)
            assert job.actor.startswith(old)
            await client.until("the old pool's end", lambda: answer(not pids_of(executor, ray_head)))
            assert len(await published(bus, running, 1)) == 1
    finally:
        newer.kill()
    executor.stop()
    executor.start()  # the way back: the release that is started last takes over
    async with Client(executor.address) as client:
        assert (await client.ready()).pool == old


async def not_ready(client: Client) -> Optional[pb.GetStatusResponse]:
    status = await client.status()
    return None if status.ready else status


async def lost(client: Client) -> object:
    status = await not_ready(client)
    return status and "ray: the Ray cluster at" in status.reason


@pytest.mark.reference_only
async def test_while_ray_hangs_the_service_answers_and_takes_hold_anew(executor: stack.Executor) -> None:
    async with Client(executor.address) as client:
        await client.ready()
        stuck = executor.driver
        os.kill(stuck, signal.SIGSTOP)
        status = await client.until("the loss", lambda: not_ready(client))
        assert "did not answer" in status.reason
        await client.ready()
        assert executor.driver not in (0, stuck)
        assert not stack.alive(stuck)


@pytest.mark.reference_only
async def test_a_cluster_that_goes_away_and_comes_back_is_taken_up_again(
    executor: stack.Executor, ray_head: stack.RayHead, bus: Bus
) -> None:
    if not ray_head.own:
        pytest.skip("NOT TESTED: the cluster of FLEET_TEST_RAY_ADDRESS is not ours to end")
    async with Client(executor.address) as client:
        await client.ready()
        ray_head.kill()
        await client.until("the loss", lambda: lost(client))
        ray_head.start()
        await client.ready(120)
        asked = request(["back again"])
        await client.execute(asked)
        [job] = (await client.ended(asked)).values()
        assert job.status == "completed"
