"""`fleet context …` against a gRPC server of the real protos."""

import json

import cliservers
import pytest
from cliservers import Fleet

from fleet_wire import ids
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.gen.planning.v1 import planning_pb2


@pytest.fixture(autouse=True)
def a_plan(services: cliservers.Services) -> None:
    tasks = [planning_pb2.Task(task_id="api", role="DEV"), planning_pb2.Task(task_id="test", role="QA")]
    services.planning.plans["plan-1"] = planning_pb2.Plan(plan_id="plan-1", story_id="story-1", tasks=tasks)
    services.planning.plans["plan-2"] = planning_pb2.Plan(plan_id="plan-2", story_id="story-1", roles=["DATA"])
    services.planning.stories["story-1"] = planning_pb2.Story(story_id="story-1", phase="build")
    services.context.seen = context_pb2.GetContextResponse(
        blocks=[
            context_pb2.ContextBlock(
                kind="task", source_id="plan-1/api", title="The API", text="Write\x1b[2J", tokens=7
            ),
            context_pb2.ContextBlock(kind="role", source_id="DEV", title="DEV, build", text="You are", tokens=3),
        ],
        tokens=10,
        omitted=["dec-2"],
        version=4,
        hash="ab" * 32,
        left_out=[
            context_pb2.LeftOut(source_id="dec-1", kind="decision", reason="scope"),
            context_pb2.LeftOut(source_id="dec-2", kind="decision", reason="budget", tokens=812),
        ],
        tokenizer="SmolLM2",
    )


async def test_show_asks_as_the_task_s_role_in_the_story_s_phase_and_says_what_was_left_out(
    fleet: Fleet, services: cliservers.Services
) -> None:
    shown = (await fleet("context", "show", "--plan", "plan-1", "--task", "api", "--require", "dec-9")).stdout
    for part in (
        "DEV in build",
        "10 of 4096, counted by the tokenizer of SmolLM2",
        "task plan-1/api, The API: 7 tokens",
        "Write␛[2J",
        "role DEV, DEV, build: 3 tokens",
        "dec-1",
        "scope",
        "dec-2",
        "812",
    ):
        assert part in shown, part
    assert "\x1b" not in shown
    assert services.context.calls == [
        context_pb2.GetContextRequest(
            story_id="story-1",
            plan_id="plan-1",
            task_id="api",
            role="DEV",
            phase="build",
            token_budget=4096,
            required_decision_ids=["dec-9"],
        )
    ]


async def test_show_takes_another_role_and_phase_and_prints_json(fleet: Fleet, services: cliservers.Services) -> None:
    told = ["--role", "qa", "--phase", "test", "--budget", "100", "--json"]
    result = await fleet("context", "show", "--plan", "plan-1", "--task", "api", *told)
    answer = json.loads(result.stdout)
    assert [block["kind"] for block in answer["blocks"]] == ["task", "role"]
    expected = {"source_id": "dec-2", "kind": "decision", "reason": "budget", "tokens": 812, "superseded_by": ""}
    assert answer["left_out"][1] == expected
    [asked] = services.context.calls
    assert (asked.role, asked.phase, asked.token_budget) == ("QA", "test", 100)


async def test_a_plan_of_roles_has_a_task_for_each(fleet: Fleet, services: cliservers.Services) -> None:
    assert (await fleet("context", "show", "--plan", "plan-2", "--task", "data")).exit_code == 0
    assert services.context.calls[0].role == "DATA"


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (["--role", "boss"], "--role must be one of DEV, QA"),
        (["--phase", "BUILD"], "--phase must be one of design, build"),
    ],
)
async def test_a_wrong_word_is_refused_with_the_right_ones(fleet: Fleet, told: list[str], sentence: str) -> None:
    for command in (["show", "--plan", "plan-1", "--task", "api"], ["scopes"]):
        result = await fleet("context", *command, *told)
        assert result.exit_code == 2 and sentence in result.stderr


async def test_an_unknown_task_is_exit_1(fleet: Fleet) -> None:
    result = await fleet("context", "show", "--plan", "plan-1", "--task", "none")
    assert result.exit_code == 1 and "plan plan-1 has no task none" in result.stderr


async def test_scopes_shows_each_role_in_each_phase(fleet: Fleet) -> None:
    result = await fleet("context", "scopes", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["role"], line["phase"]) for line in lines] == [
        (role, phase) for role in ids.ROLES for phase in ("design", "build", "test", "operate")
    ]
    assert lines[0] == {
        "role": "DEV",
        "phase": "design",
        "allowed_kinds": ["task", "role"],
        "depends_on": ["DEV"],
        "affects": ["ARCHITECT"],
    }
    shown = (await fleet("context", "scopes", "--role", "dev", "--phase", "build")).stdout
    assert "task, role" in shown and "QA" not in shown
