"""What the memory is asked for, and what comes in: pure rules."""

import dataclasses

import context_samples as samples
import pytest

from fleet.context import domain, search
from fleet.deliberation.plan_rules import tasks_of
from fleet_wire.errors import Invalid
from fleet_wire.fingerprint import whole

REQUEST = samples.asked("story-1", "plan-1", "api", "DEV", "build", 2000, [])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("story_id", ""),
        ("plan_id", "a b"),
        ("task_id", "x" * 65),
        ("role", "dev"),
        ("phase", "BUILD"),
        ("token_budget", 63),
        ("token_budget", 1_000_001),
        ("required_decision_ids", ["ok", "not ok"]),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    good = {
        "story_id": "s",
        "plan_id": "p",
        "task_id": "t",
        "role": "QA",
        "phase": "test",
        "token_budget": 100,
        "required_decision_ids": [],
        field: value,
    }
    with pytest.raises(Invalid, match=f"^{field} "):
        domain.checked(*good.values(), samples.SCOPES)  # type: ignore[arg-type]


def test_the_order_and_repetition_of_required_ids_does_not_matter() -> None:
    one = samples.asked("s", "p", "t", "QA", "test", 100, ["b", "a", "b"])
    other = samples.asked("s", "p", "t", "QA", "test", 100, ["a", "b"])
    assert one == other
    assert whole(one) == whole(other)


def test_every_field_of_a_request_tells_it_from_others() -> None:
    changes = {
        "story_id": "other",
        "plan_id": "other",
        "task_id": "other",
        "role": "QA",
        "phase": "test",
        "token_budget": 99,
        "scope": domain.Scope(kinds=("task",)),
        "required": ("dec-1",),
    }
    assert set(changes) == {field.name for field in dataclasses.fields(domain.ContextRequest)}
    prints = {whole(dataclasses.replace(REQUEST, **{name: value})) for name, value in changes.items()}
    assert len(prints | {whole(REQUEST)}) == len(changes) + 1


def test_the_same_write_gives_the_same_update() -> None:
    one = domain.update_of(["b", "a", "b"], 3, "s", "p", "d")
    assert one == domain.update_of(["a", "b"], 3, "s", "p", "d")
    assert one.changed == ["a", "b"]
    others = [
        domain.update_of(["a"], 3, "s", "p", "d"),
        domain.update_of(["a", "b"], 4, "s", "p", "d"),
        domain.update_of(["a", "b"], 3, "s", "p", "e"),
    ]
    assert len({update.message_id() for update in (one, *others)}) == 4


def test_a_plan_with_roles_and_no_tasks_has_one_task_per_role_on_the_story() -> None:
    event = samples.plan_approved("s", "p", [], roles=["DEV", "QA", "DEV"])
    assert [(task.task_id, task.role) for task in tasks_of(event)] == [("dev", "DEV"), ("qa", "QA")]
    [first, _] = tasks_of(event)
    assert (first.title, first.description, first.acceptance) == (
        "Login",
        "Users log in with a password.",
        ["they can log in"],
    )
    assert first.requirements == first.depends_on == []


def test_a_plan_with_tasks_has_just_those() -> None:
    tasks = [samples.task("a"), samples.task("b", depends_on=["a"])]
    assert tasks_of(samples.plan_approved("s", "p", tasks, roles=["QA"])) == tuple(tasks)


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (samples.plan_approved("s", "p", [samples.task("a"), samples.task("a")]), "tasks"),
        (samples.plan_approved("s", "p", [samples.task("a", depends_on=["b"])]), r"tasks\[0\].depends_on"),
        (samples.completed("s", "p", "t", decision_id="dec-other"), "decision_id"),
        (samples.completed("s", "", "t"), "plan_id and story_id"),
        (samples.completed("s", "p", "t", winner="agent-DEV-009"), "winner"),
        (samples.completed("s", "p", "t", ranking=samples.completed("s", "p", "t").ranking * 2), "ranking"),
        (samples.completed("s", "p", "t", dissent=samples.completed("s", "p", "t").dissent * 2), "dissent"),
    ],
)
def test_an_event_that_contradicts_itself_is_invalid(event: object, field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field}"):
        domain.check_event(event)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("story_id", "a b"),
        ("plan_id", "!"),
        ("role", "dev"),
        ("page_size", 501),
        ("page_token", "rubbish"),
        ("page_token", "cnVi"),
        ("query", "word " * 33),
    ],
)
def test_a_wrong_field_of_a_search_is_named(field: str, value: object) -> None:
    good = {"query": "", "story_id": "", "plan_id": "", "role": "", "page_size": 0, "page_token": "", field: value}
    with pytest.raises(Invalid, match=f"^{field} "):
        search.search_of(**good)  # type: ignore[arg-type]
