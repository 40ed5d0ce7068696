"""`fleet decisions …` against a gRPC server of the real protos."""

import json
import re

import cliservers
import pytest
from cliservers import Fleet

from fleet.cli import mermaid
from fleet_wire.gen.context.v1 import context_pb2


def decision(number: int) -> context_pb2.ExplainDecisionResponse:
    return context_pb2.ExplainDecisionResponse(
        decision=context_pb2.Decision(
            decision_id=f"dec-delib-{number}",
            deliberation_id=f"delib-{number}",
            task_id="one",
            role="DEV",
            protocol="tournament",
            winner="agent-DEV-002",
            title=f"Decision {number}",
            content="def code(): [bold]pass\x1b[2J",
            rationale="most agreed",
            score=1.25,
            margin=0.5,
        ),
        proposals=[
            context_pb2.Proposal(agent_id="agent-DEV-001", rank=2, score=0.75, content="another way", content_cut=True),
            context_pb2.Proposal(
                agent_id="agent-DEV-002",
                rank=1,
                score=1.25,
                content="def code(): [bold]pass\x1b[2J",
                checks=[
                    context_pb2.Check(name="parses", status="passed", score=1),
                    context_pb2.Check(name="lint", status="not_run", detail="no linter"),
                ],
            ),
        ],
        dissent=[context_pb2.Dissent(agent_id="agent-DEV-001", content="I would not")],
        missing=[context_pb2.MissingAgent(agent_id="agent-DEV-003", reason="timeout: 60 s")],
        based_on=["dec-delib-0"],
        task_title="One",
    )


async def test_why_shows_decision_proposals_scores_checks_dissent_and_who_is_missing(
    fleet: Fleet, services: cliservers.Services
) -> None:
    services.context.decisions["dec-delib-1"] = decision(1)
    shown = (await fleet("decisions", "why", "dec-delib-1")).stdout
    for part in (
        "Decision 1",
        "agent-DEV-002, score 1.250, 0.500 ahead of the next",
        "most agreed",
        "Proposal 1: agent-DEV-002, score 1.250",
        "Proposal 2: agent-DEV-001, score 0.750",
        "parses: passed 1.00",
        "lint: not_run (no linter)",
        "another way",
        "has been cut",
        "Dissent of agent-DEV-001",
        "agent-DEV-003: timeout: 60 s",
        "dec-delib-0",
        "def code(): [bold]pass␛[2J",
    ):
        assert part in shown, part
    assert "\x1b" not in shown
    assert shown.index("Proposal 1") < shown.index("Proposal 2")


async def test_why_takes_the_deliberations_id_too_and_prints_json(fleet: Fleet, services: cliservers.Services) -> None:
    services.context.decisions["dec-delib-1"] = decision(1)
    result = await fleet("decisions", "why", "delib-1", "--json")
    assert json.loads(result.stdout)["decision"]["decision_id"] == "dec-delib-1"
    assert "\x1b" not in result.stdout


async def test_an_unknown_decision_is_exit_1(fleet: Fleet) -> None:
    result = await fleet("decisions", "why", "dec-none")
    assert result.exit_code == 1 and "there is no decision dec-none" in result.stderr


async def test_list_reads_page_after_page_up_to_the_limit(fleet: Fleet, services: cliservers.Services) -> None:
    services.context.decisions = {f"dec-delib-{number}": decision(number) for number in range(5)}
    result = await fleet("decisions", "list", "--limit", "5", "--json")
    assert [json.loads(line)["decision_id"] for line in result.stdout.splitlines()] == list(services.context.decisions)
    result = await fleet("decisions", "list", "--limit", "3")
    assert "dec-delib-2" in result.stdout and "dec-delib-3" not in result.stdout


async def test_list_sends_every_filter(fleet: Fleet, services: cliservers.Services) -> None:
    result = await fleet("decisions", "list", "--query", "rate limit", "--story", "s1", "--plan", "p1", "--role", "dev")
    assert "no decision matches" in result.stdout
    [asked] = services.context.calls
    assert (asked.query, asked.story_id, asked.plan_id, asked.role) == ("rate limit", "s1", "p1", "DEV")


async def test_a_wrong_role_is_usage(fleet: Fleet) -> None:
    result = await fleet("decisions", "list", "--role", "CHEF")
    assert result.exit_code == 2 and "--role must be one of DEV, QA" in result.stderr


def related() -> context_pb2.ExplainDecisionResponse:
    """A decision with one above it, two below, that a person has overruled."""
    answer = decision(1)
    answer.decision.superseded_by = "dec-person"
    answer.decision.relies_on_superseded.append("dec-delib-0")
    one = context_pb2.RelatedDecision
    answer.bases.append(
        one(decision_id="dec-delib-0", title='Evil "]; click n0 href javascript:1 <b>`x`#', kind="council")
    )
    answer.dependents.append(one(decision_id="dec-delib-2", title="Two", through="dec-delib-1"))
    answer.dependents.append(one(decision_id="dec-delib-3", title="Three", through="dec-delib-2"))
    answer.superseded_by.append(one(decision_id="dec-person", title="No", decided_by="ada", through="dec-delib-1"))
    answer.affects.append("story-1")
    answer.constrains.append("plan-1/api")
    return answer


async def test_why_tells_what_depends_on_a_decision_and_what_took_its_place(
    fleet: Fleet, services: cliservers.Services
) -> None:
    services.context.decisions["dec-delib-1"] = related()
    lines = [" ".join(line.split()) for line in (await fleet("decisions", "why", "dec-delib-1")).stdout.splitlines()]
    for line in (
        "superseded by dec-person: No, by ada",
        'builds on dec-delib-0: Evil "]; click n0 href javascript:1 <b>`x`#',
        "on superseded dec-delib-0",
        "built on by dec-delib-2: Two",
        "dec-delib-3: Three (through dec-delib-2)",
        "affects story-1",
        "binds plan-1/api",
    ):
        assert line in lines, line


async def test_a_persons_decision_is_explained_without_council_and_winner(
    fleet: Fleet, services: cliservers.Services
) -> None:
    ruling = context_pb2.Decision(
        decision_id="dec-person", title="No", decided_by="ada", kind="override", protocol="person"
    )
    overruled = context_pb2.RelatedDecision(decision_id="dec-delib-1", title="Yes")
    services.context.decisions["dec-person"] = context_pb2.ExplainDecisionResponse(
        decision=ruling, supersedes=[overruled]
    )
    shown = (await fleet("decisions", "why", "dec-person")).stdout
    assert "ada (override)" in shown and "dec-delib-1: Yes" in shown
    assert "council" not in shown and "winner" not in shown


async def test_why_draws_the_relations_as_mermaid_and_no_text_can_add_to_the_drawing(
    fleet: Fleet, services: cliservers.Services
) -> None:
    services.context.decisions["dec-delib-1"] = related()
    drawn = (await fleet("decisions", "why", "dec-delib-1", "--mermaid")).stdout
    first, *lines = drawn.splitlines()
    assert first == "flowchart BT"
    name = {found[2]: found[1] for line in lines if (found := re.match(r'    (n\d+)\["[^"]*(dec-[a-z0-9-]+)', line))}
    assert name.keys() == {"dec-delib-0", "dec-delib-1", "dec-delib-2", "dec-delib-3", "dec-person"}
    own = name["dec-delib-1"]
    for start, words, stop in (
        (own, "DEPENDS_ON", name["dec-delib-0"]),
        (name["dec-delib-2"], "DEPENDS_ON", own),
        (name["dec-delib-3"], "DEPENDS_ON", name["dec-delib-2"]),
        (name["dec-person"], "SUPERSEDES", own),
    ):
        assert f'    {start} -->|"{words}"| {stop}' in lines
    assert any(re.fullmatch(rf'    n\d+ -->\|"SUPPORTS"\| {own}', line) for line in lines)
    assert any(re.fullmatch(rf'    n\d+ -.->\|"DISSENTS"\| {own}', line) for line in lines)
    assert any("parses passed, lint not run" in line for line in lines)
    assert f"    style {own} stroke-dasharray:4" in lines
    evil = next(line for line in lines if "Evil" in line)
    assert "Evil #34;#93;#59; click n0 href javascript#58;1 #60;b#62;#96;x#96;#35;<br/>dec-delib-0" in evil
    assert all(line.count('"') == 2 for line in lines if not line.startswith("    style"))
    both = await fleet("decisions", "why", "dec-delib-1", "--mermaid", "--json")
    assert both.exit_code == 2 and "exclude each other" in both.stderr


@pytest.mark.parametrize(
    ("title", "drawn"),
    [
        ("1. Store it", "1#46; Store it"),
        ("- Store it", "#45; Store it"),
        ("--- it", "#45;-- it"),
        ("# Store it", "#35; Store it"),
        ("* Store it", "#42; Store it"),
        ("> Store it", "#62; Store it"),
        ("Store __init__", "Store #95;#95;init#95;#95;"),
        ("Store www.example.org", "Store www#46;example#46;org"),
        ("Store it, in-memory/disk", "Store it, in-memory/disk"),
    ],
)
def test_a_title_that_markdown_would_read_is_drawn_as_it_is(title: str, drawn: str) -> None:
    assert mermaid.label(title) == f'"{drawn}"'


async def test_search_sends_its_filters_and_shows_how_well_each_fits(
    fleet: Fleet, services: cliservers.Services
) -> None:
    services.context.decisions = {f"dec-delib-{number}": decision(number) for number in range(3)}
    services.context.relevance = True
    words = ["decisions", "search", "rate limit", "--story", "s1", "--role", "dev", "--since", "2026-03-01T12:00+01:00"]
    result = await fleet(*words, "--until", "2026-04-01", "--json")
    assert [json.loads(line)["relevance"] for line in result.stdout.splitlines()] == [1.0, 0.5, 1.0]
    asked = services.context.calls[0]
    assert (asked.query, asked.story_id, asked.role) == ("rate limit", "s1", "DEV")
    assert asked.since.ToJsonString() == "2026-03-01T11:00:00Z" and asked.HasField("until")
    shown = await fleet("decisions", "search", "rate")
    assert "fits" in shown.stdout and shown.stderr == ""
    services.context.relevance = False
    assert "no full-text index" in (await fleet("decisions", "search", "rate")).stderr
    assert (await fleet("decisions", "list")).stderr == ""


async def test_a_search_for_nothing_and_a_wrong_time_are_usage(fleet: Fleet) -> None:
    assert (await fleet("decisions", "search", "  ")).exit_code == 2
    wrong = await fleet("decisions", "search", "x", "--since", "yesterday")
    assert wrong.exit_code == 2 and "--since must be a time such as" in wrong.stderr
