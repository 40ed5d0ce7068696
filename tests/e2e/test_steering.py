"""The memory steers: the prompt of a later task, as it reached the model server, holds the decisions that it rests on."""

import functools
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import valkey.asyncio
import yaml
from fleet_kit import Fleet, deliberation_of, until
from recording_model import RecordingModel, recording_model

from fleet.orchestrator.store import prompt_key
from fleet_wire import ids
from fleet_wire.fence import harmless
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.gen.planning.v1 import planning_pb2

pytestmark = pytest.mark.asyncio(loop_scope="session")  # the loop that the stack lives in

COMPLEX = (resources.files("fleet") / "testcases/complex.yaml").read_text()
DEPENDS_ON = {task["task_id"]: task.get("depends_on", []) for task in yaml.safe_load(COMPLEX)["tasks"]}


@pytest_asyncio.fixture(loop_scope="session")
async def recorded(fleet: Fleet) -> AsyncIterator[RecordingModel]:
    """Takes the model's place in the stack, at its address."""
    model = fleet.stack.part("model")
    address = urlsplit(fleet.stack.env["VLLM_URL"])
    assert address.port is not None
    await model.stop()
    async with recording_model(fleet.stack.env["VLLM_MODEL"], address.port) as server:
        yield server
    await model.start()


async def test_every_task_of_the_complex_plan_is_shown_the_decisions_that_it_depends_on(
    fleet: Fleet, recorded: RecordingModel
) -> None:
    plan_id = await fleet.start(COMPLEX)
    await all_are_shown_what_they_depend_on(fleet, recorded, plan_id)


@pytest.mark.parametrize("how", ["flushed", "killed"])
async def test_a_cache_that_loses_all_in_the_middle_of_a_plan_loses_speed_only(
    how: str, fleet: Fleet, recorded: RecordingModel
) -> None:
    cache = fleet.stack.part("valkey")
    plan_id = await fleet.start(COMPLEX)

    async def decided() -> list[str]:
        return [task.task_id for task in (await fleet.progress(plan_id)).tasks if task.state == "decided"]

    try:
        assert len(await until(decided)) < len(DEPENDS_ON), "the plan is in its middle"
        if how == "flushed":
            await flush(fleet)
        else:
            await cache.kill(restart=False)
        await all_are_shown_what_they_depend_on(fleet, recorded, plan_id)
    finally:
        if how == "killed":
            await cache.start()
    request = context_pb2.GetContextRequest(
        story_id=(await fleet.planning.GetPlan(planning_pb2.GetPlanRequest(plan_id=plan_id))).plan.story_id,
        plan_id=plan_id,
        task_id="review",
        role="ARCHITECT",
        phase="build",
        token_budget=1024,
        required_decision_ids=[ids.decision_id(deliberation_of(plan_id, task)) for task in DEPENDS_ON["review"]],
    )

    async def held() -> Any:
        answer = await fleet.context.GetContext(request)
        return answer if answer.from_cache else None

    before = await until(held)
    await flush(fleet)
    after = await fleet.context.GetContext(request)
    assert not after.from_cache
    assert (list(after.blocks), after.hash) == (list(before.blocks), before.hash)


async def flush(fleet: Fleet) -> None:
    """Takes all out of Valkey."""
    client = valkey.asyncio.Valkey.from_url(fleet.stack.env["VALKEY_URL"])
    await client.flushall()
    await client.aclose()


async def all_are_shown_what_they_depend_on(fleet: Fleet, recorded: RecordingModel, plan_id: str) -> None:
    """Waits for the complex plan's end, and looks at each of its edges in what reached the model."""
    ended = await fleet.plan_ended(plan_id)
    assert sorted(ended.decided) == sorted(DEPENDS_ON), ended
    assert sum(map(len, DEPENDS_ON.values())) == 10, "the plan has edges to look at"
    decisions, asked = {}, {}
    for task_id in DEPENDS_ON:
        deliberation = deliberation_of(plan_id, task_id)
        explained = await until(functools.partial(fleet.explain, ids.decision_id(deliberation)))
        decisions[task_id] = harmless(explained.decision.content)
        frozen = await fleet.store.prompts.get(prompt_key(deliberation))
        assert frozen is not None
        asked[task_id] = [
            messages for messages in recorded.prompts if messages[1]["content"].startswith(frozen.value.shared)
        ]
        shared_by_all_seats(asked[task_id], frozen.value.shared)
    assert len(set(decisions.values())) == len(DEPENDS_ON), "each decision can be told from all others"
    for task_id, needed in DEPENDS_ON.items():
        for messages in asked[task_id]:
            for other in needed:
                assert decisions[other] in messages[1]["content"], f"{task_id} was not shown what {other} decided"
    for task_id in ("handler", "schema", "queue", "load-test", "rollout", "review"):
        assert all(decisions[task_id] not in messages[1]["content"] for messages in asked["contract"])


def shared_by_all_seats(asked: list[list[dict[str, str]]], shared: str) -> None:
    """Every call of a deliberation begins with the same bytes, and the seats' own part comes after them."""
    assert len(asked) >= 3
    assert all([message["role"] for message in messages] == ["system", "user"] for messages in asked)
    assert len({messages[0]["content"] for messages in asked}) == 1
    proposers = [messages[1]["content"] for messages in asked if "You are member" in messages[1]["content"]]
    assert len(set(proposers)) == len(proposers) >= 2
    [common] = {prompt.rpartition("You are member")[0] for prompt in proposers}
    assert common.startswith(shared)
