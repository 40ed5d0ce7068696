"""`fleet plan …` against a gRPC server of the real protos."""

import asyncio
import json
import re
from pathlib import Path

import cliservers
import pytest
from cliservers import Fleet

from fleet_wire.gen.planning.v1 import planning_pb2

PLAN = """
story: {title: "Shorten [red]links", brief: "a \\e[31mbrief"}
tasks:
  - {task_id: one, title: One, description: First, role: DEV, requirements: [r1, r2]}
  - {task_id: two, title: Two, description: Second, role: QA, depends_on: [one]}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return str(path)


async def test_submit_creates_the_story_and_proposes_the_whole_plan(
    fleet: Fleet, services: cliservers.Services, file: str
) -> None:
    result = await fleet("plan", "submit", file, "--request-id", "request-12345678", "--by", "tester")
    assert result.exit_code == 0, result.output
    assert "plan-12345678 is proposed" in result.stdout and "fleet plan approve plan-12345678" in result.stdout
    story, plan = services.planning.calls
    assert (story.title, story.brief, story.actor) == ("Shorten [red]links", "a \x1b[31mbrief", "tester")
    assert [(task.task_id, task.role, list(task.depends_on)) for task in plan.tasks] == [
        ("one", "DEV", []),
        ("two", "QA", ["one"]),
    ]
    assert list(plan.tasks[0].requirements) == ["r1", "r2"]


async def test_submit_with_approve_approves_as_the_user(fleet: Fleet, services: cliservers.Services, file: str) -> None:
    result = await fleet("plan", "submit", file, "--approve", "--json", LOGNAME="somebody")
    answer = json.loads(result.stdout)
    assert result.exit_code == 0 and answer["state"] == "approved"
    assert services.planning.plans[answer["plan_id"]].decided_by == "somebody"


async def test_the_same_request_with_another_plan_is_refused_with_what_to_do(fleet: Fleet, file: str) -> None:
    await fleet("plan", "submit", file, "--request-id", "request-1")
    await asyncio.to_thread(Path(file).write_text, PLAN.replace("First", "Other"))
    result = await fleet("plan", "submit", file, "--request-id", "request-1")
    assert result.exit_code == 1
    assert "belongs to another plan" in result.stderr and "take a new one" in result.stderr


async def test_a_bad_file_is_a_sentence_and_exit_2(fleet: Fleet, tmp_path: Path) -> None:
    result = await fleet("plan", "submit", str(tmp_path / "none.yaml"))
    assert result.exit_code == 2 and "none.yaml cannot be read" in result.stderr
    assert len(result.stderr.splitlines()) == 1


async def test_all_that_is_wrong_with_a_file_is_told_a_line_each(
    fleet: Fleet, file: str, services: cliservers.Services
) -> None:
    await asyncio.to_thread(Path(file).write_text, PLAN.replace("role: QA", "rol: QA").replace("[one]", "[ome]"))
    result = await fleet("plan", "submit", file)
    assert result.exit_code == 2 and services.planning.calls == []
    missing, unknown, needs = result.stderr.splitlines()
    assert missing.startswith(f"{file}:5:5: ") and "missing key `role`" in missing
    assert unknown.startswith(f"{file}:5:53: ") and "did you mean `role`?" in unknown
    assert needs.startswith(f"{file}:5:75: ") and "did you mean `one`?" in needs


async def test_an_issue_becomes_a_story_with_a_task_for_each_role(fleet: Fleet, services: cliservers.Services) -> None:
    issue = str(Path(__file__).parents[4] / "examples/export-issue.md")
    result = await fleet("plan", "submit", issue, "--role", "dev", "--role", "QA")
    assert result.exit_code == 0, result.output
    story, plan = services.planning.calls
    assert story.title == "Export the orders of a month as CSV" and len(story.acceptance) == 4
    assert story.brief.startswith("The accountants") and "Done when" not in story.brief
    assert list(plan.roles) == ["DEV", "QA"] and not plan.tasks
    without = await fleet("plan", "submit", issue)
    assert without.exit_code == 2 and "fleet plan draft" in without.stderr
    assert (await fleet("plan", "submit", issue, "--role", "CHEF")).exit_code == 2
    assert len(services.planning.calls) == 2


async def test_roles_for_a_plan_in_yaml_are_refused(fleet: Fleet, services: cliservers.Services, file: str) -> None:
    result = await fleet("plan", "submit", file, "--role", "DEV")
    assert result.exit_code == 2 and "--role is for an issue" in result.stderr and services.planning.calls == []


async def test_services_that_are_away_are_a_sentence_and_exit_2(fleet: Fleet, file: str) -> None:
    result = await fleet("plan", "submit", file, PLANNING_ADDRESS="127.0.0.1:1")
    assert result.exit_code == 2
    assert "planning does not answer" in result.stderr and "`fleet up`" in result.stderr
    assert len(result.stderr.splitlines()) == 1


async def test_a_bad_setting_is_named(fleet: Fleet) -> None:
    result = await fleet("plan", "list", NATS_URL="http://x")
    assert result.exit_code == 2 and "NATS_URL" in result.stderr


async def test_approve_twice_is_refused(fleet: Fleet, file: str) -> None:
    plan_id = json.loads((await fleet("plan", "submit", file, "--json")).stdout)["plan_id"]
    assert (await fleet("plan", "approve", plan_id, "--by", "x")).stdout == f"plan {plan_id} is approved, by x\n"
    again = await fleet("plan", "approve", plan_id)
    assert again.exit_code == 1 and "is approved, not proposed" in again.stderr
    assert "`fleet plan show ID`" in again.stderr


async def test_reject_needs_a_reason_and_sends_it(fleet: Fleet, services: cliservers.Services, file: str) -> None:
    plan_id = json.loads((await fleet("plan", "submit", file, "--json")).stdout)["plan_id"]
    assert (await fleet("plan", "reject", plan_id)).exit_code == 2
    assert (await fleet("plan", "reject", plan_id, "--reason", " ")).exit_code == 2
    assert (await fleet("plan", "reject", plan_id, "--reason", "too late")).exit_code == 0
    assert services.planning.calls[-1].reason == "too late"


@pytest.mark.parametrize("command", ["show", "approve"])
async def test_unknown_and_malformed_ids(fleet: Fleet, command: str) -> None:
    unknown = await fleet("plan", command, "plan-none")
    assert unknown.exit_code == 1 and "there is no plan plan-none" in unknown.stderr
    malformed = await fleet("plan", command, "a b")
    assert malformed.exit_code == 2 and "ID must match" in malformed.stderr


async def test_show_prints_the_plan_and_nothing_that_steers_the_terminal(fleet: Fleet, file: str) -> None:
    plan_id = json.loads((await fleet("plan", "submit", file, "--json")).stdout)["plan_id"]
    shown = (await fleet("plan", "show", plan_id)).stdout
    assert "Shorten [red]links" in shown and "␛[31mbrief" in shown and "\x1b" not in shown
    assert "one" in shown and "QA" in shown and "r2" in shown
    as_json = json.loads((await fleet("plan", "show", plan_id, "--json")).stdout)
    assert as_json["plan"]["tasks"][1]["depends_on"] == ["one"]


async def test_show_says_which_decisions_rely_on_superseded_ones(fleet: Fleet, services: cliservers.Services) -> None:
    services.planning.plans["plan-1"] = planning_pb2.Plan(plan_id="plan-1", story_id="story-1", state="completed")
    assert re.search(r"on superseded +two: dec-old", (await fleet("plan", "show", "plan-1")).stdout)
    as_json = json.loads((await fleet("plan", "show", "plan-1", "--json")).stdout)
    assert (as_json["relies_on_superseded"], as_json["plan"]["plan_id"]) == ({"two": ["dec-old"]}, "plan-1")
    away = await fleet("plan", "show", "plan-1", "--json", ORCHESTRATOR_ADDRESS="127.0.0.1:1")
    assert (away.exit_code, json.loads(away.stdout)["relies_on_superseded"]) == (0, None)
    assert "what relies on superseded decisions is not known: the orchestrator does not answer" in away.stderr


async def test_list_names_every_plan(fleet: Fleet, services: cliservers.Services, file: str) -> None:
    assert "there is no such plan" in (await fleet("plan", "list")).stdout
    plan_id = json.loads((await fleet("plan", "submit", file, "--json")).stdout)["plan_id"]
    assert plan_id in (await fleet("plan", "list", "--state", "proposed", "--limit", "7")).stdout
    assert (services.planning.calls[-1].plan_state, services.planning.calls[-1].page_size) == ("proposed", 7)
    assert json.loads((await fleet("plan", "list", "--json")).stdout)["plans"][0]["plan_id"] == plan_id


@pytest.mark.parametrize(
    "command", [["plan", "--help"], ["plan", "submit", "--help"], ["decisions", "why", "--help"], ["watch", "--help"]]
)
async def test_help_has_examples(fleet: Fleet, command: list[str]) -> None:
    result = await fleet(*command)
    assert result.exit_code == 0
    assert (len(command) == 2 and command[0] == "plan") or "fleet " in result.stdout
