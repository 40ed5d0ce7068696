"""Which phase follows, until when, and what the budget leaves of it."""

import datetime as dt

import msgspec
import pytest
from delibkit import (
    ADD,
    CODE_TASK,
    DEADLINE,
    ERROR,
    START,
    TASK,
    TESTS,
    Council,
    after,
    answers,
    fresh,
    prepared,
    prompt_for,
    ran,
    result,
    verdict,
)

from fleet.deliberation.requests import reserve
from fleet.deliberation.state import Deliberation, PhaseOpened, PhasesDone, spent
from fleet.deliberation.turn import turn
from fleet_wire.events import Budget, PlanTask, Usage

ALL = answers(
    {
        "propose": lambda request: result(request, f"{ADD}\n{request.agent_id}"),
        "tests": lambda request: result(request, TESTS),
        "dry_run": lambda request: ran(request, "t1-1"),
        "critique": lambda request: result(request, "it is slow"),
        "revise": lambda request: result(request, ADD),
        "rerun": lambda request: ran(request, "t1-1"),
        "judge": lambda request: result(request, verdict("tie")),
    }
)


def phases_run(protocol: str, task: PlanTask, sandbox: str = "", seats: int = 3) -> tuple[list[str], Deliberation]:
    state = prepared(fresh(seats, testers=2, task=task), protocol)
    council = Council(state, prompt_for(state, sandbox=sandbox))
    council.run(ALL)
    return list(dict.fromkeys(request.phase for request in council.asked)), council.state


@pytest.mark.parametrize(
    ("protocol", "task", "phases"),
    [
        ("single", TASK, ["propose"]),
        ("vote", CODE_TASK, ["propose"]),
        ("best_of_n", CODE_TASK, ["propose", "tests", "dry_run"]),
        ("tournament", CODE_TASK, ["propose", "tests", "dry_run", "judge"]),
        ("tournament", TASK, ["propose", "judge"]),
        ("peer_review", CODE_TASK, ["propose", "tests", "dry_run", "critique", "revise", "rerun", "judge"]),
        ("peer_review", TASK, ["propose", "critique", "revise", "judge"]),
    ],
)
def test_the_phases_follow_on_each_other(protocol: str, task: PlanTask, phases: list[str]) -> None:
    run, state = phases_run(protocol, task)
    assert run == phases
    assert state.closed_by == "all_ended"


def test_what_an_open_task_has_no_use_for_is_skipped_and_says_so() -> None:
    _, state = phases_run("tournament", TASK)
    assert [(one.phase, one.reason) for one in state.skipped] == [
        ("tests", "the task asks for no Python code"),
        ("dry_run", "the task asks for no Python code"),
    ]


def test_without_a_sandbox_no_test_is_asked_for() -> None:
    run, state = phases_run("tournament", CODE_TASK, sandbox="no user namespaces")
    assert run == ["propose", "judge"]
    assert {one.reason for one in state.skipped} == {"no sandbox: no user namespaces"}


def test_proposals_and_tests_are_asked_for_at_once_and_number_what_the_numbers_say() -> None:
    state = prepared(fresh(5, testers=3, task=CODE_TASK), "best_of_n", agents=4, testers=1)
    asked = Council(state).open()
    assert [request.agent_id for request in asked] == [*state.seats[:4], "agent-QA-001"]
    assert asked[-1].role == "QA"


def test_where_there_is_no_qa_council_the_seats_write_tests() -> None:
    asked = Council(prepared(fresh(3, task=CODE_TASK), "best_of_n")).open()
    assert [(request.agent_id[-1], request.phase) for request in asked][3:] == [("1", "tests"), ("2", "tests")]
    assert len({request.job_id for request in asked}) == 5


def test_a_phase_gets_its_share_of_the_time_left() -> None:
    state = prepared(fresh(task=CODE_TASK), "tournament")
    opened = turn(state, prompt_for(state), {}, START)
    assert isinstance(opened, PhaseOpened)
    assert opened.until == after(20)
    open_task = prepared(fresh(), "tournament")
    opened = turn(open_task, prompt_for(open_task), {}, after(10))
    assert isinstance(opened, PhaseOpened)
    assert opened.until == after(35)
    vote = prepared(fresh(), "vote")
    opened = turn(vote, prompt_for(vote), {}, after(0.123456))
    assert isinstance(opened, PhaseOpened)
    assert opened.until == DEADLINE


def voted(answered: int, at: dt.timedelta = dt.timedelta(0)) -> Council:
    council = Council(prepared(fresh(), "tournament"))
    council.now += at
    for number, request in enumerate(council.open()):
        council.end(result(request, "x") if number < answered else result(request, error=ERROR))
    return council


def test_below_the_quorum_nothing_follows() -> None:
    council = voted(1)
    assert turn(council.state, council.prompt, council.results, council.now) == PhasesDone(
        after="propose", at=council.now, by="all_ended"
    )


def test_failures_that_come_with_the_deadline_fail_by_the_deadline() -> None:
    council = voted(0)
    found = turn(council.state, council.prompt, council.results, DEADLINE)
    assert isinstance(found, PhasesDone)
    assert found.by == "deadline"


def test_at_the_deadline_what_there_is_decides() -> None:
    council = voted(3)
    found = turn(council.state, council.prompt, council.results, DEADLINE)
    assert isinstance(found, PhasesDone)
    assert found.by == "deadline"


def test_counted_proposals_that_nobody_has_any_more_end_it() -> None:
    council = voted(3)
    del council.results[council.asked[0].job_id]
    found = turn(council.state, council.prompt, council.results, after(1))
    assert isinstance(found, PhasesDone)
    assert (found.by, found.detail) == ("error", "the results of agent-DEV-001 are lost")


def cost(seats: int) -> Budget:
    """What that many proposals may use."""
    most = [reserve(request) for request in Council(prepared(fresh(5), "vote")).open()[:seats]]
    return Budget(tokens=sum(one.tokens for one in most), calls=seats)


@pytest.mark.parametrize("limit", ["tokens", "calls"])
def test_a_small_budget_asks_fewer_seats(limit: str) -> None:
    whole = cost(3)
    budget = Budget(tokens=whole.tokens) if limit == "tokens" else Budget(calls=whole.calls)
    state = prepared(fresh(5, 3, budget=budget), "vote")
    council = Council(state)
    assert len(council.open()) == 3
    assert spent(council.state).tokens == whole.tokens


def test_a_budget_that_is_too_small_for_one_proposal_ends_it() -> None:
    state = prepared(fresh(budget=Budget(tokens=cost(1).tokens - 1)), "vote")
    found = turn(state, prompt_for(state), {}, START)
    assert isinstance(found, PhasesDone)
    assert found.by == "budget"
    assert str(state.budget.tokens) in found.detail


def test_tests_are_kept_as_long_as_two_proposals_are_and_then_left_out() -> None:
    kept = Council(prepared(fresh(3, testers=2, task=CODE_TASK, budget=Budget(calls=4)), "best_of_n"))
    assert [request.phase for request in kept.open()] == ["propose", "propose", "tests", "tests"]
    left = Council(prepared(fresh(3, testers=2, task=CODE_TASK, budget=Budget(calls=3)), "best_of_n"))
    assert [request.phase for request in left.open()] == ["propose", "propose", "propose"]
    assert [(one.phase, one.reason) for one in left.state.skipped] == [("tests", "budget (3 calls)")]


def test_a_later_phase_that_is_too_dear_is_skipped_and_the_rest_goes_on() -> None:
    state = prepared(fresh(3, testers=2, task=CODE_TASK, budget=Budget(calls=6)), "peer_review")
    council = Council(state)
    council.run(ALL)
    # 5 calls for proposals and tests: neither 6 critiques, 3 revisions nor a pair fit, and the dry runs cost nothing.
    assert {request.phase for request in council.asked} == {"propose", "tests", "dry_run"}
    reasons = {one.phase: one.reason for one in council.state.skipped}
    assert reasons["critique"] == reasons["revise"] == "budget (6 calls)"
    assert set(reasons) == {"critique", "revise", "rerun", "judge"}
    assert council.state.closed_by == "all_ended"


def test_fewer_pairs_are_judged_where_the_budget_has_no_room_for_all_the_best_first() -> None:
    council = Council(prepared(fresh(3, budget=Budget(calls=8)), "tournament"))
    council.run(ALL)
    judged = [request for request in council.asked if request.phase == "judge"]
    assert len(judged) == 2
    assert [one.reason for one in council.state.skipped if one.phase == "judge"] == [
        "budget (8 calls): 2 of 3 pairs are not judged"
    ]


def test_what_was_not_used_of_the_reserve_is_free_for_the_next_phase() -> None:
    budget = cost(3)
    council = Council(prepared(fresh(3, budget=msgspec.structs.replace(budget, calls=0)), "tournament"))
    council.run(ALL)
    assert spent(council.state).tokens <= budget.tokens
    assert sum(job.tokens for job in council.state.jobs if job.phase == "propose") == 45


def test_what_was_used_is_no_longer_there_for_the_next_phase() -> None:
    def run(tokens: int) -> set[str]:
        council = Council(prepared(fresh(3, budget=Budget(tokens=tokens)), "tournament"))
        council.run(lambda request: result(request, "x", usage=Usage(prompt=300, completion=50)))
        return {request.phase for request in council.asked}

    judge = Council(prepared(fresh(3), "tournament"))
    for request in judge.open():
        judge.end(result(request, "x"))
    pair = sum(reserve(request).tokens for request in judge.open()[:2])
    assert run(3 * 350 + pair) == {"propose", "judge"}
    assert run(3 * 350 + pair - 1) == {"propose"}


def test_one_proposal_that_came_through_is_not_judged() -> None:
    council = Council(prepared(fresh(2, quorum=1), "tournament"))
    for request in council.open():
        council.end(result(request, "x") if request.agent_id.endswith("1") else result(request, error=ERROR))
    assert council.open() == ()
    assert council.state.skipped[-1].reason == "there is one proposal"
