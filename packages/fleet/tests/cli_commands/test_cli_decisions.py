"""`fleet decisions …` against a gRPC server of the real protos."""

import json

import cliservers
from cliservers import Fleet

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
