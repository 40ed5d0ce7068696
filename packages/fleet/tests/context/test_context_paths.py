"""What a role may not see, asked for by every path there is: over gRPC, on real servers, with a policy of one's own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import context_samples as samples
import grpc
import pytest
import pytest_asyncio
import yaml
from test_context_service import Service, context_of, eventually, running

from fleet.context import scopes
from fleet.settings import GraphSettings
from fleet_wire.bus import Bus
from fleet_wire.gen.context.v1 import context_pb2

SECRET = "vault"
"""The task that the DATA council decided on; the decision's title and content name it."""


def policy(tmp_path: Path) -> Path:
    """DEV sees nothing of the DATA council, QA all."""
    told = yaml.safe_load((Path(scopes.__file__).parent / "scopes.yaml").read_text())
    everything = told["ARCHITECT"]["build"]
    told["QA"] = dict.fromkeys(told["QA"], everything)
    councils = ["DEV", "QA", "ARCHITECT", "DEVOPS"]
    told["DEV"] = {key: {**everything, "depends_on": councils, "affects": councils} for key in told["DEV"]}
    path = tmp_path / "scopes.yaml"
    path.write_text(yaml.safe_dump(told))
    return path


@pytest_asyncio.fixture
async def service(
    graph_settings: GraphSettings, nats_url: str, valkey_url: str, bus: Bus, tmp_path: Path
) -> AsyncIterator[Service]:
    async with running(graph_settings, nats_url, valkey_url, scopes.load(policy(tmp_path))) as started:
        await started.until_ready()
        yield started


def shown(answer: context_pb2.GetContextResponse) -> str:
    return "".join(f"{block.source_id} {block.title} {block.text}" for block in answer.blocks)


async def test_a_decision_that_a_scope_hides_is_reached_by_no_path(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    hidden = samples.completed(story, plan, SECRET, role="DATA")
    tasks = [samples.task(SECRET, role="DATA", title="Storage"), samples.task("api", depends_on=[SECRET])]
    await bus.publish(samples.plan_approved(story, plan, tasks))
    await bus.publish(hidden)

    def asked(role: str, **changes: object) -> context_pb2.GetContextRequest:
        return context_of(story, plan, **{"task_id": "api", "role": role, "phase": "build", **changes})

    required = {"required_decision_ids": [hidden.decision_id]}
    await eventually(lambda: service.stub.GetContext(asked("QA", **required)))
    seen = await service.stub.GetContext(asked("QA", **required))
    assert hidden.decision_id in shown(seen) and f"Do {SECRET}" in shown(seen)
    # By the task's dependency, by the story, by the timeline, by what is required, by what the cache holds for another role.
    for request in (asked("DEV"), asked("DEV", **required), asked("DEV", **required, phase="design")):
        for from_cache in (False, True):
            answer = await service.stub.GetContext(request)
            assert answer.from_cache == from_cache
            assert hidden.decision_id not in shown(answer) and f"Do {SECRET}" not in shown(answer)
            assert {"task", "story", "plan", "milestone", "role"} <= {block.kind for block in answer.blocks}
            assert {(item.kind, item.reason) for item in answer.left_out} == {
                ("decision", "scope"),
                ("milestone", "scope"),
            }
            assert hidden.decision_id in {item.source_id for item in answer.left_out}


async def test_a_changed_policy_finds_nothing_that_an_older_one_allowed(
    service: Service,
    graph_settings: GraphSettings,
    nats_url: str,
    valkey_url: str,
    bus: Bus,
    unique: Callable[[str], str],
) -> None:
    story, plan = unique("story"), unique("plan")
    await bus.publish(samples.plan_approved(story, plan, [samples.task("api")]))
    request = context_of(story, plan, task_id="api", role="QA", phase="test")
    await eventually(lambda: service.stub.GetContext(request))
    assert "plan" in {block.kind for block in (await service.stub.GetContext(request)).blocks}
    narrow = dict(scopes.load())
    narrow["QA", "test"] = scopes.Scope(kinds=("task", "role"))
    async with running(graph_settings, nats_url, valkey_url, narrow) as other:
        await other.until_ready()
        answer = await other.stub.GetContext(request)
        assert (answer.from_cache, [block.kind for block in answer.blocks]) == (False, ["task", "role"])


async def test_validate_scope_answers_by_the_policy_in_force(service: Service) -> None:
    asked = context_pb2.ValidateScopeRequest(role="DEV", phase="build", kinds=["task", "plan"])
    answer = await service.stub.ValidateScope(asked)
    assert (answer.allowed, list(answer.extra)) == (True, [])
    assert list(answer.missing) == ["story", "constraint", "decision", "milestone", "summary", "role"]
    assert "DATA" not in [*answer.depends_on, *answer.affects]
    wrong = [("dev", "build", []), ("DEV", "Build", []), ("DEV", "build", ["requirement"])]
    for field, (role, phase, kinds) in zip(("role", "phase", "kinds"), wrong, strict=True):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.stub.ValidateScope(context_pb2.ValidateScopeRequest(role=role, phase=phase, kinds=kinds))
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert (refused.value.details() or "").startswith(f"{field} ")


async def test_a_wrong_policy_ends_the_process_with_a_sentence_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("DEV: {}\n")
    env = {"PATH": os.environ["PATH"], "NEO4J_PASSWORD": "x", "SCOPES_FILE": str(path)}
    command = [sys.executable, "-c", "import sys; from fleet.context.main import main; sys.exit(main())"]
    process = await asyncio.create_subprocess_exec(*command, env=env, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().strip() == f"bad policy of scopes: {path} leaves out QA, ARCHITECT, DEVOPS, DATA: " + (
        "what is seen must be said for each of the roles"
    )
