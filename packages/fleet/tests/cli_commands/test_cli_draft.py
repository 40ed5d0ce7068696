"""`fleet plan draft` against services of the real protos."""

import json
from pathlib import Path

import clievents
import cliservers
import msgspec
import pytest
from cliservers import Fleet

from fleet.planfile import drafting
from fleet_wire import events
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb

NAME = "delib-test"
ISSUE = str(Path(__file__).parents[4] / "examples/export-issue.md")
ANSWER = {
    "tasks": [
        {
            "task_id": "form",
            "title": "Fix the form\x1b[2J",
            "description": "Decide columns and quoting.",
            "role": "DATA",
            "requirements": ["a comma in a name"],
            "acceptance": [],
            "depends_on": [],
        },
        {
            "task_id": "job",
            "title": "Write the job",
            "description": "Write the export.",
            "role": "DEV",
            "requirements": [],
            "acceptance": ["under a minute"],
            "depends_on": ["form"],
        },
    ]
}


def ends(services: cliservers.Services, event: events.Event) -> None:
    """The deliberation that is started next ends with this event."""
    services.orchestrator.streams = [[pb.StreamDeliberationResponse(outcome=events.encode(event))]]


def decided(content: str) -> events.DeliberationCompleted:
    before = clievents.completed(NAME)
    return msgspec.structs.replace(before, decision=msgspec.structs.replace(before.decision, content=content))


async def test_an_issue_becomes_a_story_and_a_proposed_plan_of_the_councils_tasks(
    fleet: Fleet, services: cliservers.Services
) -> None:
    ends(services, decided(json.dumps(ANSWER)))
    result = await fleet("plan", "draft", ISSUE, "--request-id", "request-12345678", "--protocol", "vote", "--by", "x")
    assert result.exit_code == 0, result.output
    [asked] = services.orchestrator.calls
    assert (asked.role, asked.request_id, asked.protocol) == ("ARCHITECT", "request-12345678", "vote")
    assert asked.max_tokens == 4096
    assert asked.response_schema == drafting.form() and "The accountants of our customers" in asked.description
    assert asked.title == "Plan: Export the orders of a month as CSV" and len(asked.requirements) == 4
    story, plan = services.planning.calls
    assert (story.title, story.actor, story.request_id) == (asked.title[6:], "x", "request-12345678")
    assert [(task.task_id, task.role, list(task.depends_on)) for task in plan.tasks] == [
        ("form", "DATA", []),
        ("job", "DEV", ["form"]),
    ]
    assert "plan-12345678, version 1, proposed" in result.stdout and "\x1b" not in result.stdout
    assert "next: fleet plan approve plan-12345678" in result.stdout
    assert f"deliberation {NAME}" in result.stderr


async def test_a_plan_is_drafted_for_a_story_that_is_there(fleet: Fleet, services: cliservers.Services) -> None:
    submitted = json.loads((await fleet("plan", "submit", ISSUE, "--role", "DEV", "--json")).stdout)
    services.planning.calls.clear()
    ends(services, decided(json.dumps(ANSWER)))
    result = await fleet("plan", "draft", submitted["story_id"], "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["story_id"], found["state"], found["tasks"]) == (submitted["story_id"], "proposed", ["form", "job"])
    assert (found["deliberation_id"], found["decision_id"]) == (NAME, f"dec-{NAME}")
    [plan] = services.planning.calls
    assert plan.story_id == submitted["story_id"]


@pytest.mark.parametrize("as_json", [False, True])
async def test_an_answer_that_is_no_plan_is_told_and_nothing_is_stored(
    fleet: Fleet, services: cliservers.Services, as_json: bool
) -> None:
    first, second = ANSWER["tasks"]
    ends(services, decided(json.dumps({"tasks": [{**first, "role": "CHEF"}, {**second, "depends_on": ["fom"]}]})))
    result = await fleet("plan", "draft", ISSUE, *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert "the answer: tasks[0].role: unknown value 'CHEF'" in result.stderr
    assert "tasks[1].depends_on names 'fom', which is no task of this plan; did you mean `form`?" in result.stderr
    assert f"fleet deliberation show {NAME}" in result.stderr
    assert services.planning.calls == []
    if as_json:
        assert len(json.loads(result.stdout)["problems"]) == 2


async def test_a_council_that_does_not_decide_stores_nothing(fleet: Fleet, services: cliservers.Services) -> None:
    ends(services, clievents.failed(NAME))
    result = await fleet("plan", "draft", ISSUE)
    assert result.exit_code == 1 and "quorum_missed" in result.stderr and services.planning.calls == []


async def test_what_is_neither_a_story_nor_a_file_is_a_sentence(fleet: Fleet, services: cliservers.Services) -> None:
    for what, code, words in (
        ("story-none", 1, "there is no story story-none"),
        ("none.md", 2, "none.md cannot be read"),
        ("examples/rate-limit.yaml", 2, "rate-limit.yaml is no issue"),
        ("a b", 2, "STORY must match"),
    ):
        result = await fleet("plan", "draft", what)
        assert result.exit_code == code and words in result.stderr
    assert services.orchestrator.calls == []
