"""A plan's record: what may start, what is skipped, cancelled and tried again, what it may spend, when it is closed."""

import datetime as dt

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation import plan as rules
from fleet.deliberation import plan_budget
from fleet.deliberation.plan import Cancel, Close, Plan, Start, TaskProgress, advance, due
from fleet_wire import ids
from fleet_wire.events import Budget, PlanTask

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def task(task_id: str, *depends_on: str, budget: Budget = plan_budget.NONE) -> TaskProgress:
    body = PlanTask(
        task_id=task_id,
        title=task_id,
        description=f"Do {task_id}",
        role="DEV",
        depends_on=list(depends_on),
        budget=budget,
    )
    return TaskProgress(task=body)


def plan(*tasks: TaskProgress, budget: Budget = plan_budget.NONE) -> Plan:
    return rules.opened(Plan(plan_id="p1", story_id="s1", phase="build", tasks=tasks, started_at=NOW, budget=budget))


def deliberation(task_id: str, number: int = 1) -> str:
    return ids.deliberation_id("p1", task_id, number)


def status_of(state: Plan) -> dict[str, str]:
    return {one.task.task_id: one.status for one in state.tasks}


def ended(state: Plan, task_id: str, reason: str = "", number: int = 1, spent: Budget = plan_budget.NONE) -> Plan:
    return advance(state, rules.TaskEnded(task_id, number, reason, spent))


def test_tasks_without_dependencies_start_at_once() -> None:
    assert due(plan(task("a"), task("b"), task("c", "a"))) == (Start("a"), Start("b"))


def test_a_started_task_is_not_started_again() -> None:
    assert due(advance(plan(task("a")), rules.TaskStarted("a", 1))) == ()


def test_a_dependent_task_waits_until_the_decision_is_in_the_graph() -> None:
    state = ended(advance(plan(task("a"), task("b", "a")), rules.TaskStarted("a", 1)), "a")
    assert due(state) == ()
    assert due(advance(state, rules.Remembered(deliberation("a")))) == (Start("b"),)


def test_the_graph_may_know_before_the_plan_does() -> None:
    state = advance(plan(task("a"), task("b", "a")), rules.TaskStarted("a", 1))
    state = advance(state, rules.Remembered(deliberation("a")))
    assert due(state) == ()
    assert due(ended(state, "a")) == (Start("b"),)


def test_a_failure_skips_all_that_depends_on_it_and_nothing_else() -> None:
    state = ended(plan(task("a"), task("b", "a"), task("c", "b"), task("d")), "a", "quorum_missed")
    assert status_of(state) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "running"}
    assert state.tasks[1].reason == "depends on a"


def test_the_plan_is_closed_once() -> None:
    state = ended(plan(task("a")), "a")
    assert due(state) == (Close(),)
    closed = advance(state, rules.Closed(NOW, 1))
    assert due(closed) == ()
    assert advance(closed, rules.Closed(NOW + dt.timedelta(1), 1)) == closed


def test_the_decisions_below_are_named_in_order() -> None:
    state = plan(task("a"), task("b"), task("c", "b", "a"))
    assert rules.decisions_below(state, state.tasks[2]) == (
        ids.decision_id(deliberation("b")),
        ids.decision_id(deliberation("a")),
    )


def test_a_cancelled_plan_skips_what_waits_and_cancels_what_runs() -> None:
    state = advance(plan(task("a"), task("b"), task("c", "b")), rules.TaskStarted("a", 1))
    state = advance(ended(state, "b"), rules.Cancelled("changed my mind"))
    assert status_of(state) == {"a": "running", "b": "decided", "c": "skipped"}
    assert due(state) == (Cancel("a"),)
    assert state.tasks[2].reason == "cancelled: changed my mind"
    state = advance(state, rules.CancelSent("a", 1))
    assert due(state) == ()
    assert due(ended(state, "a", "cancelled: changed my mind")) == (Close(),)


def test_a_task_whose_deliberation_is_not_saved_yet_is_cancelled_too() -> None:
    assert due(advance(plan(task("a")), rules.Cancelled(""))) == (Cancel("a"),)


def test_a_retry_is_the_next_try_and_what_was_skipped_waits_for_it_again() -> None:
    state = ended(plan(task("a"), task("b", "a"), task("c", "b"), task("d")), "a", "error")
    again = advance(state, rules.Retried("a", 1))
    assert due(again) == (Start("a"), Start("d"))
    assert [one.number for one in again.tasks] == [2, 1, 1, 1]
    assert status_of(again) == {"a": "running", "b": "waiting", "c": "waiting", "d": "running"}
    assert advance(again, rules.Retried("a", 1)) == again
    assert ended(again, "a", number=1) == again


def test_what_another_failure_skipped_stays_skipped() -> None:
    state = plan(task("a"), task("b"), task("c", "a", "b"))
    state = ended(ended(state, "a", "error"), "b", "error")
    again = advance(state, rules.Retried("a", 1))
    assert status_of(again) == {"a": "running", "b": "failed", "c": "skipped"}


def test_a_retry_opens_a_completed_plan_for_another_round_with_its_texts() -> None:
    state = ended(plan(task("a"), task("b", "a"), task("d")), "a", "error")
    state = advance(ended(state, "d"), rules.Closed(NOW, 1))
    assert {one.task.description for one in state.tasks} == {""}
    texts = tuple(one.task for one in (task("a"), task("b", "a"), task("d")))
    again = advance(state, rules.Retried("a", 1, texts))
    assert (again.status, again.round, again.ended_at) == ("running", 2, None)
    assert [one.task.description for one in again.tasks] == ["Do a", "Do b", "Do d"]
    assert due(again) == (Start("a"),)
    assert advance(again, rules.Closed(NOW, 1)) == again


def test_a_plan_that_is_being_closed_while_it_is_retried_gets_another_round() -> None:
    again = advance(ended(plan(task("a")), "a", "error"), rules.Retried("a", 1))
    assert again.round == 2
    over = ended(again, "a", number=2)
    assert advance(over, rules.Closed(NOW, 1)) == over
    assert advance(over, rules.Closed(NOW, 2)).status == "completed"


@pytest.mark.parametrize(("task_id", "word"), [("b", "try a again"), ("d", "is running"), ("e", "is decided")])
def test_only_what_failed_or_was_cancelled_is_tried_again(task_id: str, word: str) -> None:
    state = plan(task("a"), task("b", "a"), task("d"), task("e"))
    state = ended(ended(state, "a", "error"), "e")
    assert word in rules.retry_refused(state, task_id)
    assert advance(state, rules.Retried(task_id, 1)) == state


def test_a_cancelled_task_that_never_ran_can_be_tried_again() -> None:
    state = advance(ended(plan(task("a"), task("b", "a")), "a"), rules.Cancelled("stop"))
    assert status_of(state) == {"a": "decided", "b": "skipped"}
    again = advance(advance(state, rules.Remembered(deliberation("a"))), rules.Retried("b", 1))
    assert due(again) == (Start("b"),)


def test_tasks_without_a_budget_share_what_the_plan_has_left() -> None:
    state = plan(task("a"), task("b", budget=Budget(tokens=500)), task("c"), budget=Budget(tokens=1000, seconds=9))
    assert [one.reserved for one in state.tasks] == [
        Budget(tokens=333, seconds=3),
        Budget(tokens=500, seconds=3),
        Budget(tokens=167, seconds=3),
    ]


def test_a_task_waits_for_what_others_may_give_back_and_fails_when_none_can() -> None:
    big = Budget(calls=8)
    state = plan(task("a", budget=big), task("b", budget=big), task("c", "b"), budget=Budget(calls=10))
    assert status_of(state) == {"a": "running", "b": "waiting", "c": "waiting"}
    thrifty = ended(state, "a", spent=Budget(calls=2))
    assert status_of(thrifty) == {"a": "decided", "b": "running", "c": "waiting"}
    greedy = ended(state, "a", spent=Budget(calls=8))
    assert status_of(greedy) == {"a": "decided", "b": "failed", "c": "skipped"}
    assert greedy.tasks[1].reason == "budget: the plan's budget of 10 calls has 2 left, 8 are needed"


def test_the_same_end_is_paid_once() -> None:
    state = ended(plan(task("a"), task("b")), "a", spent=Budget(tokens=7))
    assert ended(state, "a", spent=Budget(tokens=7)).spent == Budget(tokens=7)


amounts = st.sampled_from([0, 0, 1, 2, 5, 10, 40])
budgets = st.builds(Budget, tokens=amounts, calls=amounts, seconds=amounts.map(lambda one: one / 4))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 6))
    tasks = []
    for number in range(count):
        below = draw(st.lists(st.integers(0, number - 1), unique=True)) if number else []
        tasks.append(task(f"t{number}", *(f"t{one}" for one in below), budget=draw(budgets)))
    return plan(*tasks, budget=draw(budgets))


def within(limit: Budget, used: Budget) -> bool:
    return all(
        getattr(limit, name) == 0 or getattr(used, name) <= getattr(limit, name) + 1e-9
        for name in ("tokens", "calls", "seconds")
    )


@given(plans(), st.data())
def test_any_plan_runs_to_its_close_starts_nothing_early_and_never_spends_more_than_it_has(
    state: Plan, data: st.DataObject
) -> None:
    started: set[tuple[str, int]] = set()
    cancelled = retries = 0
    for _ in range(200):
        commands = due(state)
        assert within(state.budget, plan_budget.plus(state.spent, rules.reserved(state)))
        if commands == (Close(),):
            lost = [one for one in state.tasks if not rules.retry_refused(state, one.task.task_id)]
            if not lost or retries >= 3 or not data.draw(st.booleans()):
                break
            retries += 1
            again = data.draw(st.sampled_from(lost))
            state = advance(state, rules.Retried(again.task.task_id, again.number))
            continue
        for command in commands:
            assert isinstance(command, (Start, Cancel))
            one = rules.task_of(state, command.task_id)
            if isinstance(command, Cancel):
                state = advance(state, rules.CancelSent(command.task_id, one.number))
                continue
            assert (command.task_id, one.number) not in started
            started.add((command.task_id, one.number))
            for below in one.task.depends_on:
                assert rules.task_of(state, below).status == "decided"
                assert rules.task_of(state, below).remembered
            state = advance(state, rules.TaskStarted(command.task_id, one.number))
        running = [one for one in state.tasks if one.status == "running"]
        unremembered = [one for one in state.tasks if one.status == "decided" and not one.remembered]
        if not cancelled and data.draw(st.integers(0, 9)) == 0:
            cancelled += 1
            state = advance(state, rules.Cancelled("enough"))
        elif running:
            chosen = data.draw(st.sampled_from(running))
            event = rules.TaskEnded(
                chosen.task.task_id,
                chosen.number,
                data.draw(st.sampled_from(["", "", "error"])),
                _used(chosen.reserved, data),
            )
            state = advance(state, event)
            assert advance(state, event) == state
        elif unremembered:
            state = advance(state, rules.Remembered(rules.deliberation_of(state, unremembered[0])))
    assert due(state) == (Close(),)
    assert {one.status for one in state.tasks} <= set(rules.OVER)


def _used(reserved: Budget, data: st.DataObject) -> Budget:
    """What a deliberation used: at most what it was given."""
    share = data.draw(st.sampled_from([0, 0.5, 1]))
    given_ = msgspec.to_builtins(reserved)
    return Budget(**{name: type(most)((most or 3) * share) for name, most in given_.items()})


def flagged(state: Plan, name: str, number: int = 1, by: tuple[str, ...] = ("dec-old",)) -> Plan:
    return advance(state, rules.Flagged(ids.deliberation_id("p1", name, number), by))


def test_what_relies_on_a_superseded_decision_stays_decided_and_says_so() -> None:
    state = ended(plan(task("a"), task("b", "a")), "a")
    state = flagged(flagged(state, "a"), "a", by=("dec-older",))
    assert state.tasks[0].relies_on_superseded == ("dec-old", "dec-older")
    assert status_of(state) == {"a": "decided", "b": "waiting"} and state.tasks[1].relies_on_superseded == ()
    assert flagged(state, "a") == state


def test_the_flag_may_come_before_the_plan_knows_of_the_decision() -> None:
    state = ended(flagged(plan(task("a")), "a"), "a")
    assert (state.tasks[0].status, state.tasks[0].relies_on_superseded) == ("decided", ("dec-old",))


def test_a_person_may_retry_what_was_decided_on_superseded_ground_and_nothing_else_that_is_decided() -> None:
    state = ended(plan(task("a"), task("d")), "a")
    assert "task a is decided" in rules.retry_refused(state, "a")
    again = advance(flagged(state, "a"), rules.Retried("a", 1))
    assert (again.tasks[0].number, again.tasks[0].status, again.tasks[0].relies_on_superseded) == (2, "running", ())
    assert flagged(again, "a", number=1) == again


def overruled(state: Plan, name: str, number: int = 1) -> Plan:
    return advance(state, rules.Overruled(frozenset({ids.deliberation_id("p1", name, number)})))


def test_what_a_person_overruled_is_not_tried_again_unless_its_try_was_lost() -> None:
    decided = overruled(flagged(ended(plan(task("a"), task("b", "a")), "a"), "a"), "a")
    assert "task a was overruled" in rules.retry_refused(decided, "a")
    tried = advance(flagged(ended(plan(task("a"), task("b", "a")), "a"), "a"), rules.Retried("a", 1))
    for lost in (
        overruled(ended(tried, "a", "error", 2), "a"),
        ended(overruled(tried, "a"), "a", "error", 2),
    ):
        assert status_of(lost) == {"a": "failed", "b": "skipped"}
        again = advance(lost, rules.Retried("a", 2))
        assert status_of(again) == {"a": "running", "b": "waiting"} and again.tasks[0].number == 3
