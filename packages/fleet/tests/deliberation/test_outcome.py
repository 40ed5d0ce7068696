"""The event a deliberation ends in."""

import msgspec
import pytest
from delibkit import (
    ADD,
    CODE_TASK,
    DEADLINE,
    ERROR,
    TESTS,
    Council,
    after,
    checked,
    fresh,
    prepared,
    prompt_for,
    ran,
    result,
    verdict,
)

from fleet.deliberation import state as machine
from fleet.deliberation.outcome import MAX_PROPOSALS_BYTES, outcome
from fleet.deliberation.requests import JobRequest
from fleet.deliberation.state import advance
from fleet_wire import events
from fleet_wire.events import AgentResult, Check, DeliberationCompleted, DeliberationFailed, JobError, Usage


def completed(council: Council) -> DeliberationCompleted:
    found = outcome(council.state, council.results)
    assert isinstance(found, DeliberationCompleted)
    return found


def failed(council: Council) -> DeliberationFailed:
    found = outcome(council.state, council.results)
    assert isinstance(found, DeliberationFailed)
    return found


def judged(**verdicts: str) -> Council:
    """A tournament of three, each judgement told by its item."""
    council = Council(prepared(fresh(), "tournament"))

    def answer(request: JobRequest) -> AgentResult:
        if request.phase != "judge":
            return result(request, f"proposal {request.agent_id}", checks=checked("passed", "failed"))
        if request.item not in verdicts:
            return result(request, error=ERROR)
        return result(request, verdict(verdicts[request.item], f"reason of {request.item}"))

    council.run(answer)
    return council


FOR_2 = {"1v2": "second", "2v1": "first", "2v3": "first", "3v2": "second"}


def test_the_decision_says_what_it_rests_on() -> None:
    found = completed(judged(**FOR_2, **{"1v3": "first", "3v1": "first"}))
    assert found.winner == found.ranking[0].agent_id == "agent-DEV-002"
    assert found.decision.content == found.ranking[0].content == "proposal agent-DEV-002"
    assert [check.status for check in found.ranking[0].checks] == ["passed", "failed", "not_run"]
    assert (found.flips, found.verdicts, found.calls) == (1, 6, 9)
    assert found.usage == Usage(prompt=90, completion=45)
    assert found.margin == 1.5
    assert found.numbers == {"agents": 0, "testers": 2, "finalists": 4}
    assert {one.phase for one in found.skipped} == {"tests", "dry_run"}
    assert found.missing == []
    for text in (
        "agent-DEV-002 won by tournament (agents 0, finalists 4, testers 2)",
        "2 of 2 points in 3 pairs, 3 of them judged in both orders, 1 flips",
        "parse passed, lint failed, dry_run not_run",
        "Margin over",
        "3 of 3 seats answered, 2 were needed",
        "135 tokens in 9 calls to the model, and 0.9 s",
    ):
        assert text in found.decision.rationale


def test_the_dissent_is_the_best_that_lost_with_what_a_judge_said_for_it() -> None:
    [dissent] = completed(judged(**{**FOR_2, "1v2": "first"}, **{"1v3": "tie", "3v1": "tie"})).dissent
    assert (dissent.agent_id, dissent.argument) == ("agent-DEV-001", "reason of 1v2")
    [dissent] = completed(judged(**FOR_2, **{"1v3": "second", "3v1": "first"})).dissent
    assert (dissent.agent_id, dissent.argument) == ("agent-DEV-003", "reason of 1v3")
    [dissent] = completed(judged(**FOR_2)).dissent
    assert dissent.argument == ""


def test_missing_judgements_are_named_and_counted() -> None:
    found = completed(judged(**FOR_2))
    assert sorted(one.reason for one in found.missing) == [
        "judge 1v3: timeout: no token in 30 s",
        "judge 3v1: timeout: no token in 30 s",
    ]
    assert "2 of 6 judgements are missing and count as ties" in found.decision.rationale


def test_at_the_deadline_a_quorum_decides_without_the_missing_and_what_was_still_to_come() -> None:
    council = Council(prepared(fresh(), "tournament"))
    asked = council.open()
    for request in asked[:2]:
        council.end(result(request, request.agent_id))
    council.state = advance(council.state, machine.DeadlinePassed(DEADLINE))
    council.results[asked[2].job_id] = result(asked[2], "late")
    found = completed(council)
    assert [(one.agent_id, one.reason) for one in found.missing] == [("agent-DEV-003", "no answer before the deadline")]
    assert len(found.ranking) == 2
    assert [(one.phase, one.reason) for one in found.skipped][-1] == ("judge", "no time was left for it")
    assert found.duration_seconds == 60


def test_below_the_quorum_the_deadline_is_a_failure_and_says_so() -> None:
    council = Council(prepared(fresh(), "vote"))
    council.end(result(council.open()[0], "alone"))
    council.state = advance(council.state, machine.DeadlinePassed(DEADLINE))
    found = failed(council)
    assert (found.reason, found.protocol, found.calls) == ("deadline", "vote", 1)
    assert found.detail == "1 of 3 seats answered, 2 were needed"
    assert found.usage == Usage(prompt=10, completion=5)
    assert [(agent.phase, agent.state) for agent in found.agents] == [
        ("propose", "completed"),
        ("propose", "running"),
        ("propose", "running"),
    ]


def test_all_failed_is_quorum_missed_with_each_agents_error() -> None:
    council = Council(prepared(fresh(), "vote"))
    council.run(lambda request: result(request, error=ERROR))
    found = failed(council)
    assert found.reason == "quorum_missed"
    assert all(agent.error == ERROR for agent in found.agents)


@pytest.mark.parametrize("reason", ["cancelled", "error"])
def test_what_was_ended_from_outside_decides_nothing(reason: str) -> None:
    council = Council(prepared(fresh(), "tournament"))
    for request in council.open():
        council.end(result(request, "x"))
    event = machine.Cancelled("no use", after(2)) if reason == "cancelled" else machine.Broke("no use", after(2))
    council.state = advance(council.state, event)
    found = failed(council)
    assert (found.reason, found.detail) == (reason, "no use")


def test_seats_that_the_budget_did_not_ask_are_named() -> None:
    council = Council(prepared(fresh(5, 3, budget=events.Budget(calls=3)), "vote"))
    council.run(lambda request: result(request, "same"))
    found = completed(council)
    assert [(one.agent_id, one.reason) for one in found.missing] == [
        ("agent-DEV-004", "not asked: budget"),
        ("agent-DEV-005", "not asked: budget"),
    ]


def test_counted_results_that_nobody_has_any_more_are_a_failure_that_says_so() -> None:
    council = Council(prepared(fresh(), "vote"))
    council.run(lambda request: result(request, "x"))
    council.results = dict(list(council.results.items())[:1])
    found = failed(council)
    assert found.reason == "error"
    assert "agent-DEV-002, agent-DEV-003" in found.detail


def test_an_open_deliberation_has_no_outcome() -> None:
    with pytest.raises(ValueError, match="not closed"):
        outcome(fresh(), {})


def test_the_largest_deliberation_fits_into_one_message() -> None:
    """15 seats, 15 testers, everything at its longest and as dear in JSON as it gets, half of the jobs failed."""
    state = prepared(fresh(15, 8, testers=15, task=CODE_TASK), "peer_review", testers=15, critics=4, finalists=8)
    council = Council(state, prompt_for(state))
    dear = "\x01" * 9000
    checks = [
        Check(name=name, status="failed", score=0.0, detail=dear)
        for name in ("parse", "lint", "policy", "requirements")
    ]
    error = JobError(kind="http", message=dear, retryable=False)

    def answer(request: JobRequest) -> AgentResult:
        if request.phase == "judge" and request.item.startswith("1v"):
            return result(request, verdict("second", dear))
        if request.phase in ("critique", "judge", "revise", "rerun"):
            return result(request, error=error)
        if request.dry_run:
            return ran(request)
        return result(
            request, TESTS if request.phase == "tests" else f"{ADD}{dear}{request.agent_id[-1]}", checks=checks
        )

    council.run(answer)
    found = completed(council)
    assert len(events.encode(found)) <= events.MAX_MESSAGE_BYTES
    assert sum(len(msgspec.json.encode(one.content)) for one in found.ranking) <= MAX_PROPOSALS_BYTES
    assert len(found.missing) > 100
    council.state = msgspec.structs.replace(council.state, closed_by="cancelled")
    assert len(events.encode(failed(council))) <= events.MAX_MESSAGE_BYTES
