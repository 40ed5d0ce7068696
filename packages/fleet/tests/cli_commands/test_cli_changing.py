"""What a person changes in the memory, against a gRPC server of the real protos."""

import getpass
import json
from pathlib import Path

import cliservers
from cliservers import Fleet

from fleet_wire.gen.context.v1 import context_pb2

OLD = context_pb2.ExplainDecisionResponse(decision=context_pb2.Decision(decision_id="dec-delib-1", title="Use Argon2"))


async def test_an_override_says_what_it_supersedes_and_what_relied_on_that(
    fleet: Fleet, services: cliservers.Services
) -> None:
    services.context.result = context_pb2.ChangeResult(
        applied=True,
        id="dec-new",
        superseded=["dec-delib-1"],
        flagged=["dec-delib-2\x1b[2J"],
        stories=[context_pb2.StoryVersion(story_id="s1", version=7)],
    )
    told = ("--by", "ada", "--reason", "the audit", "--title", "Use bcrypt", "--content", "Cost 12.")
    result = await fleet("decisions", "override", "dec-delib-1", *told, "--request-id", "r1")
    assert result.exit_code == 0
    [asked] = services.context.calls
    assert (asked.request_id, asked.actor) == ("r1", "ada")
    override = asked.changes[0].override
    assert (override.decision_id, override.title, override.content, override.reason) == (
        "dec-delib-1",
        "Use bcrypt",
        "Cost 12.",
        "the audit",
    )
    for line in (
        "decision dec-new is in the graph",
        "supersedes: dec-delib-1",
        "now relies on what is superseded: dec-delib-2",
        "story s1 is at version 7",
    ):
        assert line in result.stdout
    assert "\x1b" not in result.stdout


async def test_an_override_takes_the_old_title_the_reason_and_ones_own_name_where_nothing_else_is_said(
    fleet: Fleet, services: cliservers.Services
) -> None:
    services.context.decisions["dec-delib-1"] = OLD
    result = await fleet("decisions", "override", "delib-1", "--reason", "use bcrypt", "--json")
    assert json.loads(result.stdout)["id"] == "dec-new"
    [asked] = services.context.calls
    override = asked.changes[0].override
    assert (override.title, override.content, asked.actor) == ("Use Argon2", "use bcrypt", getpass.getuser())
    assert asked.request_id.startswith("cli-")


async def test_what_is_decided_now_may_stand_in_a_file(
    fleet: Fleet, services: cliservers.Services, tmp_path: Path
) -> None:
    file = tmp_path / "new.md"
    file.write_text("Use bcrypt.\n")
    told = ("--reason", "audit", "--title", "t", "--file", str(file))
    assert (await fleet("decisions", "override", "dec-1", *told)).exit_code == 0
    assert services.context.calls[0].changes[0].override.content == "Use bcrypt.\n"
    both = await fleet("decisions", "override", "dec-1", *told, "--content", "x")
    assert both.exit_code == 2 and "--content and --file" in both.stderr
    file.write_bytes(b"\xff")
    bad = await fleet("decisions", "override", "dec-1", *told)
    assert bad.exit_code == 2 and "--file" in bad.stderr


async def test_a_refused_change_is_one_sentence_and_an_exit_code(fleet: Fleet, services: cliservers.Services) -> None:
    told = ("--reason", "audit", "--title", "t")
    for code, message, exit_code in (
        ("invalid", "actor must name a person", 2),
        ("not_found", "there is no decision dec-1", 1),
        ("precondition", "decision dec-1 is superseded by dec-2: rule on that one", 1),
    ):
        services.context.result = context_pb2.ChangeResult(code=code, message=message)
        result = await fleet("decisions", "override", "dec-1", *told)
        assert result.exit_code == exit_code and message in result.stderr and not result.stdout
        as_json = await fleet("decisions", "override", "dec-1", *told, "--json")
        assert as_json.exit_code == exit_code and json.loads(as_json.stdout)["message"] == message


async def test_each_addition_says_what_was_given(fleet: Fleet, services: cliservers.Services) -> None:
    services.context.result = context_pb2.ChangeResult(
        applied=True, id="change-1", stories=[context_pb2.StoryVersion(story_id="s1", version=3)]
    )
    bound = ("--title", "No tables", "--reason", "release", "--plan", "p1", "--task", "api")
    for words in (
        ("add-constraint", "s1", "The schema is frozen.", *bound),
        ("add-affects", "s1", "dec-1", "--reason", "both"),
        ("add-summary", "s1", "Half done."),
        ("add-milestone", "s1", "Store chosen.", "--by", "agent-QA-001"),
    ):
        result = await fleet("context", *words)
        assert result.exit_code == 0 and "story s1 is at version 3" in result.stdout
    constraint, affects, summary, milestone = (call.changes[0] for call in services.context.calls)
    assert constraint.constraint == context_pb2.AddConstraint(
        story_id="s1", plan_id="p1", task_id="api", title="No tables", text="The schema is frozen.", reason="release"
    )
    assert affects.affects == context_pb2.AddAffects(story_id="s1", decision_id="dec-1", reason="both")
    assert summary.summary == context_pb2.AddSummary(story_id="s1", text="Half done.")
    assert milestone.milestone == context_pb2.AddMilestone(story_id="s1", text="Store chosen.")
    assert services.context.calls[3].actor == "agent-QA-001"
