"""Which protocol is run, and why."""

import pytest
from delibkit import CODE_TASK, TASK

from fleet.deliberation.auto import Chosen, choose
from fleet_wire.errors import Invalid
from fleet_wire.events import Budget, PlanTask

SEATS = ("a1", "a2", "a3")


def chosen(
    asked: str = "auto",
    task: PlanTask = TASK,
    seats: tuple[str, ...] = SEATS,
    testers: tuple[str, ...] = ("q1", "q2", "q3"),
    sandbox: str = "",
    budget: Budget | None = None,
    **numbers: float,
) -> Chosen:
    return choose(
        asked=asked,
        numbers=numbers,
        task=task,
        seats=seats,
        testers=testers,
        sandbox=sandbox,
        budget=budget or Budget(),
        prompt_bytes=1000,
        max_tokens=100,
    )


def test_code_tasks_run_their_code_and_open_ones_are_judged() -> None:
    assert chosen(task=CODE_TASK).protocol == "best_of_n"
    assert "code task" in chosen(task=CODE_TASK).because
    assert chosen().protocol == "tournament"
    assert "open task" in chosen().because


def test_without_a_sandbox_a_code_task_is_judged_and_says_why() -> None:
    found = chosen(task=CODE_TASK, sandbox="no user namespaces")
    assert found.protocol == "tournament"
    assert "no user namespaces" in found.because


@pytest.mark.parametrize("task", [TASK, CODE_TASK])
@pytest.mark.parametrize("budget", [Budget(calls=1), Budget(calls=2), Budget(tokens=1500)])
def test_where_the_budget_allows_no_more_one_agent_answers(task: PlanTask, budget: Budget) -> None:
    found = chosen(task=task, budget=budget)
    assert (found.protocol, found.numbers) == ("single", {"agents": 1})
    assert "budget" in found.because


def test_a_council_of_one_has_nothing_to_compare() -> None:
    assert chosen(seats=("a1",)).protocol == "single"


def test_a_budget_that_allows_some_seats_gets_these() -> None:
    found = chosen(task=CODE_TASK, budget=Budget(calls=4))
    assert (found.protocol, found.numbers) == ("best_of_n", {"agents": 2, "testers": 2})
    assert "2 of 3 seats" in found.because


def test_all_numbers_of_the_choice_are_named() -> None:
    assert chosen(finalists=3).numbers == {"agents": 3, "testers": 2, "finalists": 3}
    assert chosen(task=CODE_TASK, testers=(), finalists=3).numbers == {"agents": 3, "testers": 2}
    assert chosen("vote", agents=2).numbers == {"agents": 2, "similarity": 0.5}
    assert chosen("peer_review").numbers == {"agents": 3, "testers": 2, "finalists": 4, "critics": 2}


def test_what_is_asked_for_is_run_without_a_reason() -> None:
    assert chosen("vote").because == ""


def test_a_number_that_cannot_be_had_is_said() -> None:
    found = chosen("vote", agents=5)
    assert found.numbers["agents"] == 3
    assert found.because == "5 agents were asked for, and 3 are there"


def test_best_of_n_is_refused_where_it_cannot_run() -> None:
    with pytest.raises(Invalid, match="no Python code"):
        chosen("best_of_n")
    with pytest.raises(Invalid, match="no sandbox can be made here \\(no bwrap\\)"):
        chosen("best_of_n", task=CODE_TASK, sandbox="no bwrap")
    assert chosen("best_of_n", task=CODE_TASK).protocol == "best_of_n"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(Invalid, match="protocol"):
        chosen("consensus")
    with pytest.raises(Invalid, match="numbers"):
        chosen("vote", finalists=2)
