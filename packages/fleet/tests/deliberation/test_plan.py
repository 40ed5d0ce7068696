"""A plan's record: what may start, what is skipped, when it is closed."""

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation import plan as rules
from fleet.deliberation.plan import Close, Plan, Start, TaskProgress, advance, due
from fleet_wire import ids
from fleet_wire.events import PlanTask

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def task(task_id: str, *depends_on: str) -> TaskProgress:
    return TaskProgress(
        task=PlanTask(task_id=task_id, title=task_id, description="", role="DEV", depends_on=list(depends_on))
    )


def plan(*tasks: TaskProgress) -> Plan:
    return Plan(plan_id="p1", story_id="s1", phase="build", tasks=tasks, started_at=NOW)


def deliberation(task_id: str) -> str:
    return ids.deliberation_id("p1", task_id, 1)


def status_of(state: Plan) -> dict[str, str]:
    return {one.task.task_id: one.status for one in state.tasks}


def test_tasks_without_dependencies_start_at_once() -> None:
    assert due(plan(task("a"), task("b"), task("c", "a"))) == (Start("a"), Start("b"))


def test_a_started_task_is_not_started_again() -> None:
    assert due(advance(plan(task("a")), rules.TaskStarted("a", 1))) == ()


def test_a_dependent_task_waits_until_the_decision_is_in_the_graph() -> None:
    state = plan(task("a"), task("b", "a"))
    state = advance(advance(state, rules.TaskStarted("a", 1)), rules.TaskEnded("a", 1, ""))
    assert due(state) == ()
    assert due(advance(state, rules.Remembered(deliberation("a")))) == (Start("b"),)


def test_the_graph_may_know_before_the_plan_does() -> None:
    state = advance(plan(task("a"), task("b", "a")), rules.TaskStarted("a", 1))
    state = advance(state, rules.Remembered(deliberation("a")))
    assert due(state) == ()
    assert due(advance(state, rules.TaskEnded("a", 1, ""))) == (Start("b"),)


def test_a_failure_skips_all_that_depends_on_it_and_nothing_else() -> None:
    state = plan(task("a"), task("b", "a"), task("c", "b"), task("d"))
    state = advance(advance(state, rules.TaskStarted("a", 1)), rules.TaskEnded("a", 1, "quorum_missed"))
    assert status_of(state) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "waiting"}
    assert state.tasks[1].reason == "depends on a"


def test_the_plan_is_closed_once() -> None:
    state = advance(advance(plan(task("a")), rules.TaskStarted("a", 1)), rules.TaskEnded("a", 1, ""))
    assert due(state) == (Close(),)
    closed = advance(state, rules.Closed(NOW))
    assert due(closed) == ()
    assert advance(closed, rules.Closed(NOW + dt.timedelta(1))) == closed


def test_the_decisions_below_are_named_in_order() -> None:
    state = plan(task("a"), task("b"), task("c", "b", "a"))
    assert rules.decisions_below(state, state.tasks[2]) == (
        ids.decision_id(deliberation("b")),
        ids.decision_id(deliberation("a")),
    )


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 6))
    tasks = []
    for number in range(count):
        below = draw(st.lists(st.integers(0, number - 1), unique=True)) if number else []
        tasks.append(task(f"t{number}", *(f"t{one}" for one in below)))
    return plan(*tasks)


@given(plans(), st.data())
def test_any_plan_with_any_failures_runs_to_its_close_and_never_starts_a_task_early(
    state: Plan, data: st.DataObject
) -> None:
    started: set[str] = set()
    for _ in range(100):
        commands = due(state)
        if commands == (Close(),):
            break
        for command in commands:
            assert isinstance(command, Start)
            assert command.task_id not in started
            started.add(command.task_id)
            for below in rules.task_of(state, command.task_id).task.depends_on:
                one = rules.task_of(state, below)
                assert one.status == "decided"
                assert one.remembered
            state = advance(state, rules.TaskStarted(command.task_id, 1))
        running = [one.task.task_id for one in state.tasks if one.status == "running"]
        unremembered = [one for one in state.tasks if one.status == "decided" and not one.remembered]
        if running:
            chosen = data.draw(st.sampled_from(running))
            state = advance(state, rules.TaskEnded(chosen, 1, data.draw(st.sampled_from(["", "", "error"]))))
        elif unremembered:
            state = advance(state, rules.Remembered(rules.deliberation_of(state, unremembered[0])))
    assert due(state) == (Close(),)
    assert {one.status for one in state.tasks} <= set(rules.OVER)
