"""The service as a process of its own."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import context_samples as samples
import grpc
import realparts

from fleet.bolt import Graph, rows
from fleet.context.migrations import MIGRATIONS
from fleet.migrations import Migration, migrate
from fleet.unready import why_not_ready
from fleet_wire.bus import Bus
from fleet_wire.gen.context.v1 import context_pb2, context_pb2_grpc
from fleet_wire.rpc import channel

COMMAND = [sys.executable, "-c", "import sys; from fleet.context.main import main; sys.exit(main())"]


def env_of(**settings: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **settings}


async def test_it_remembers_answers_and_stops_on_sigterm(
    graph: realparts.GraphServer,
    nats_url: str,
    valkey_url: str,
    bus: Bus,
    tmp_path: Path,
    unique: Callable[[str], str],
) -> None:
    port = realparts.free_port()
    told = {**graph.env(), "NATS_URL": nats_url, "VALKEY_URL": valkey_url.replace("valkey://", "redis://")}
    env = env_of(**told, GRPC_PORT=str(port), LOG_FORMAT="json")
    process = realparts.Process(COMMAND, tmp_path / "context.log", lambda: realparts.listens(port), env=env)
    story, plan = unique("story"), unique("plan")
    decided = samples.completed(story, plan, "api")
    with realparts.running(process):
        await bus.publish(decided)
        await bus.publish(samples.plan_approved(story, plan, [samples.task("api")]))
        request = context_pb2.GetContextRequest(
            story_id=story,
            plan_id=plan,
            task_id="api",
            role="DEV",
            phase="build",
            token_budget=500,
            required_decision_ids=[decided.decision_id],
        )
        async with channel(f"127.0.0.1:{port}") as open_channel, asyncio.timeout(40):
            stub: context_pb2_grpc.ContextServiceAsyncStub = context_pb2_grpc.ContextServiceStub(open_channel)
            while True:
                try:
                    answer = await stub.GetContext(request)
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                    await asyncio.sleep(0.1)
        assert [block.kind for block in answer.blocks] == ["task", "story", "plan", "decision", "role"]
        assert await asyncio.to_thread(process.stop) == 0
    said = process.text()
    assert "deliberation.completed recorded" in said
    assert decided.decision_id.removeprefix("dec-") in said
    assert realparts.PASSWORD not in said


async def test_on_the_database_of_a_newer_release_it_says_so_and_writes_nothing(
    empty_graph: realparts.GraphServer,
    nats_url: str,
    valkey_url: str,
    bus: Bus,
    tmp_path: Path,
    unique: Callable[[str], str],
) -> None:
    graph = Graph(empty_graph.settings())
    await migrate(graph, "context", (*MIGRATIONS, Migration(99, ())))
    await bus.publish(samples.story_created(unique("story")))
    port = realparts.free_port()
    env = env_of(**empty_graph.env(), NATS_URL=nats_url, VALKEY_URL=valkey_url, GRPC_PORT=str(port))
    process = realparts.Process(COMMAND, tmp_path / "context.log", lambda: realparts.listens(port), env=env)
    with realparts.running(process):
        async with channel(f"127.0.0.1:{port}") as open_channel, asyncio.timeout(40):
            while "has migration 99 of context" not in await why_not_ready("context", open_channel, 3):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await asyncio.to_thread(process.stop) == 0
    [found] = await graph.read(lambda tx: rows(tx, "MATCH (s:Story) RETURN count(s) AS stories"))
    assert found == {"stories": 0}
    await graph.close()
