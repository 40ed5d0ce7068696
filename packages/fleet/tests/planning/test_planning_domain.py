import dataclasses
import datetime as dt
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_samples import NOON, plan, story, task

from fleet import people
from fleet.planning import domain
from fleet_wire import events
from fleet_wire.errors import Invalid, Precondition

BAD_STORIES = [
    ({"title": " "}, "title must not be empty"),
    ({"title": "x" * 201}, "title has 201"),
    ({"brief": "x" * 20_001}, "brief has 20001"),
    ({"acceptance": ["a"] * 51}, "acceptance holds 51"),
    ({"acceptance": ["a", ""]}, r"acceptance\[1\] must not be empty"),
    ({"phase": "dreaming"}, "phase must be one of design, build, test, operate"),
    ({"actor": "x" * 201}, "actor has 201"),
]
BAD_PLANS = [
    ({"tasks": []}, "tasks must hold at least one task, or roles at least one role"),
    ({"roles": ["dev"], "tasks": []}, r"roles\[0\] must be one of"),
    ({"roles": ["DEV", "DEV"], "tasks": []}, "roles holds 'DEV' twice"),
    ({"roles": ["QA"]}, "roles names QA, but no task has that role"),
    ({"tasks": [task(f"t{n}") for n in range(65)]}, "tasks holds 65"),
    ({"tasks": [task("a b")]}, r"tasks\[0\].task_id must match"),
    ({"tasks": [task("t1\n")]}, r"tasks\[0\].task_id must match"),
    ({"tasks": [task(), task()]}, "task_id holds 't1' twice"),
    ({"tasks": [task(title="")]}, r"tasks\[0\].title must not be empty"),
    ({"tasks": [task(description="x" * 20_001)]}, r"tasks\[0\].description has"),
    ({"tasks": [task(), task("t2", description=" ")]}, r"tasks\[1\].description must not be empty \(task t2\)"),
    ({"tasks": [task(), task("t2", role="Dev")]}, r"tasks\[1\].role must be one of .* \(task t2\)"),
    ({"tasks": [task(requirements=["x" * 2001])]}, r"tasks\[0\].requirements\[0\] has 2001"),
    ({"tasks": [task(acceptance=[""])]}, r"tasks\[0\].acceptance\[0\] must not be empty"),
    ({"tasks": [task(protocol="Best Of")]}, r"tasks\[0\].protocol must be one of auto, single"),
    ({"tasks": [task(protocol="tournament\n")]}, r"tasks\[0\].protocol must be one of"),
    (
        {"tasks": [task(protocol="vote", numbers={"critics": 2})]},
        r"tasks\[0\].numbers of vote must be of agents, similar",
    ),
    ({"tasks": [task(protocol="best_of_n", numbers={"testers": 1.5})]}, r"tasks\[0\].numbers.testers must be a whole"),
    ({"tasks": [task(depends_on=["t9"])]}, r"tasks\[0\].depends_on names 't9', .* \(task t1\)"),
    ({"tasks": [task(), task("t2", depends_on=["t1", "t1"])]}, r"tasks\[1\].depends_on holds 't1' twice"),
    ({"tasks": [task(depends_on=["t1"])]}, "cycle of depends_on: t1 → t1"),
    ({"tasks": [task(numbers={"Testers": 1})]}, r"tasks\[0\].numbers: a name must match"),
    ({"tasks": [task(numbers={"testers": float("nan")})]}, r"tasks\[0\].numbers.testers must be a number"),
    ({"tasks": [task(budget=events.Budget(seconds=float("inf")))]}, r"tasks\[0\].budget.seconds must be a number"),
    ({"tasks": [task(entry_point="a b")]}, r"tasks\[0\].entry_point must be the name of a Python function"),
    ({"budget": events.Budget(tokens=2**31)}, "budget.tokens must be below"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD_STORIES)
def test_a_bad_story_is_refused_with_the_name_of_the_field(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        story(**changes)


@pytest.mark.parametrize(("changes", "sentence"), BAD_PLANS)
def test_a_bad_plan_is_refused_with_the_name_of_the_field(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        plan(**changes)


def test_a_story_without_a_phase_is_in_build() -> None:
    assert story(phase="").phase == "build"


def test_a_plan_may_name_roles_only_or_the_roles_of_its_tasks() -> None:
    assert plan(roles=["DEV", "QA"], tasks=[]).roles == ("DEV", "QA")
    assert plan(roles=["DEV"], tasks=[task()]).roles == ("DEV",)


def test_a_cycle_is_named_task_by_task() -> None:
    tasks = [task("a", depends_on=["b"]), task("b", depends_on=["c"]), task("c", depends_on=["a"]), task("d")]
    with pytest.raises(Invalid) as caught:
        plan(tasks=tasks)
    path = str(caught.value).split(": ")[1].split(" → ")
    needs = {item.task_id: item.depends_on for item in tasks}
    assert path[0] == path[-1]
    assert len(path) == 4
    assert all(after in needs[before] for before, after in itertools.pairwise(path))


def closes_a_circle(edges: dict[int, set[int]]) -> bool:
    """Warshall's closure: somebody reaches itself."""
    size = len(edges)
    reach = [[after in edges[before] for after in range(size)] for before in range(size)]
    for middle in range(size):
        for before in range(size):
            for after in range(size):
                reach[before][after] |= reach[before][middle] and reach[middle][after]
    return any(reach[node][node] for node in range(size))


@given(st.integers(1, 7).flatmap(lambda n: st.lists(st.sets(st.integers(0, n - 1)), min_size=n, max_size=n)))
def test_exactly_the_plans_with_a_circle_are_refused(needs: list[set[int]]) -> None:
    edges = dict(enumerate(needs))
    tasks = [
        task(f"t{node}", depends_on=[f"t{after}" for after in sorted(after_all)]) for node, after_all in edges.items()
    ]
    if closes_a_circle(edges):
        with pytest.raises(Invalid, match="cycle of depends_on"):
            plan(tasks=tasks)
    else:
        assert len(plan(tasks=tasks).tasks) == len(tasks)


def long_plan(length: int) -> list[events.PlanTask]:
    return [task(f"t{n}", description="x" * length) for n in range(64)]


def test_a_plan_that_does_not_fit_into_its_event_is_refused_when_it_is_proposed() -> None:
    with pytest.raises(Invalid, match="tasks are too long: the plan and its story take"):
        plan(tasks=long_plan(8_200))


@pytest.mark.parametrize("letter", ["\x01", "😀", '"', "a"])
def test_the_longest_plan_that_is_accepted_can_be_published_whoever_approves_it(letter: str) -> None:
    room = events.MAX_MESSAGE_BYTES - domain.APPROVAL_BYTES
    accepted = plan(tasks=long_plan(7_900))
    size = len(events.encode(domain.approved_event(domain.approve(accepted, "a", NOON))))
    for spare in range(room - size, room - size + 100):
        try:
            accepted = plan(tasks=[*long_plan(7_900)[:-1], task("t63", description="x" * (7_900 + spare))])
        except Invalid:
            break
    else:
        pytest.fail("nothing was refused")
    approved = dataclasses.replace(domain.approve(accepted, letter * people.MAX_PERSON, NOON), version=2**31)
    event = domain.approved_event(approved, ["p" * 64])
    assert len(events.encode(event)) <= events.MAX_MESSAGE_BYTES
    assert events.decode("planning.plan.approved", events.encode(event)) == event


def test_only_a_proposed_plan_can_be_approved_or_rejected() -> None:
    approved = domain.approve(plan(), "ana", NOON)
    rejected = domain.reject(plan(), "ana", "no", NOON)
    completed = domain.complete(approved, approved.story.story_id, NOON)
    for ended in (approved, rejected, completed):
        with pytest.raises(Precondition, match=f"is {ended.state}, not proposed"):
            domain.approve(ended, "ben", NOON)
        with pytest.raises(Precondition, match=f"is {ended.state}, not proposed"):
            domain.reject(ended, "ben", "no", NOON)


def test_an_approval_puts_aside_what_is_proposed_and_what_was_approved_before() -> None:
    states: list[domain.PlanState] = ["proposed", "approved", "rejected", "completed", "superseded", "proposed"]
    plans = [domain.PlanSummary(f"plan-{n}", n + 1, state, NOON) for n, state in enumerate(states)]
    approved = domain.approve(plan(plan_id="plan-5"), "ana", NOON)
    assert domain.superseded(approved, plans) == ("plan-0", "plan-1")


def test_a_superseded_plan_can_be_neither_approved_nor_rejected_and_says_what_took_its_place() -> None:
    aside = dataclasses.replace(plan(), state="superseded", superseded_by="plan-2")
    for decide in (lambda: domain.approve(aside, "ben", NOON), lambda: domain.reject(aside, "ben", "no", NOON)):
        with pytest.raises(Precondition, match="is superseded, not proposed: plan-2 was approved in its place"):
            decide()


def test_a_plan_that_was_superseded_while_it_ran_keeps_its_end_and_stays_superseded() -> None:
    approved = domain.approve(plan(), "ana", NOON)
    aside = dataclasses.replace(approved, state="superseded", superseded_by="plan-2")
    ended = domain.complete(aside, aside.story.story_id, NOON)
    assert (ended.state, ended.completed_at) == ("superseded", NOON)
    assert domain.complete(ended, ended.story.story_id, NOON + dt.timedelta(days=1)) == ended
    never = dataclasses.replace(plan(), state="superseded", superseded_by="plan-2")
    with pytest.raises(Precondition, match="is superseded, not approved"):
        domain.complete(never, never.story.story_id, NOON)


def test_what_a_plan_holds_is_the_same_in_every_state() -> None:
    proposed = plan(roles=["DEV"], tasks=[task()], budget=events.Budget(calls=9))
    approved = domain.approve(proposed, "ana", NOON)
    completed = domain.complete(approved, approved.story.story_id, NOON)
    rejected = domain.reject(proposed, "ana", "no", NOON)
    for later in (approved, completed, rejected):
        assert (later.content, later.story, later.version) == (proposed.content, proposed.story, proposed.version)


def test_only_an_approved_plan_can_be_completed_and_a_second_time_changes_nothing() -> None:
    proposed = plan()
    approved = domain.approve(proposed, "ana", NOON)
    story_id = approved.story.story_id
    completed = domain.complete(approved, story_id, NOON)
    assert completed.state == "completed"
    assert domain.complete(completed, story_id, NOON + dt.timedelta(days=1)) == completed
    for wrong in (proposed, domain.reject(proposed, "ana", "no", NOON)):
        with pytest.raises(Precondition, match="cannot be completed"):
            domain.complete(wrong, story_id, NOON)
    with pytest.raises(Invalid, match="story_id"):
        domain.complete(approved, "story-other", NOON)


@pytest.mark.parametrize("by", ["", "  ", "x" * 201])
def test_a_decision_needs_the_name_of_who_made_it(by: str) -> None:
    with pytest.raises(Invalid, match="approved_by"):
        domain.approve(plan(), by, NOON)
    with pytest.raises(Invalid, match="rejected_by"):
        domain.reject(plan(), by, "no", NOON)


def test_a_rejection_needs_a_reason() -> None:
    with pytest.raises(Invalid, match="reason must not be empty"):
        domain.reject(plan(), "ana", "", NOON)


def test_what_follows_is_later_also_where_the_clock_went_back() -> None:
    made = story(now=NOON)
    proposed = plan(of=made, now=NOON - dt.timedelta(hours=1))
    approved = domain.approve(proposed, "ana", NOON - dt.timedelta(hours=2))
    assert approved.decided_at is not None
    assert made.created_at < proposed.proposed_at < approved.decided_at


def test_the_event_holds_the_story_and_every_field_of_the_tasks() -> None:
    first = task("t1", acceptance=["green"])
    second = task(
        "t2",
        role="QA",
        depends_on=["t1"],
        protocol="tournament",
        numbers={"finalists": 3},
        budget=events.Budget(tokens=1000, calls=9, seconds=1.5),
        entry_point="slugify",
    )
    whole = plan(roles=["DEV", "QA"], tasks=[first, second], budget=events.Budget(calls=20))
    approved = domain.approve(whole, "ana", NOON)
    body = msgspec.json.decode(events.encode(domain.approved_event(approved)))
    assert body["story"] == {"title": "Search", "brief": "Find things.", "acceptance": ["fast"], "phase": "build"}
    assert body["approved_by"] == "ana"
    assert body["roles"] == ["DEV", "QA"]
    assert body["tasks"][0]["requirements"] == ["has tests"]
    assert body["tasks"][1]["depends_on"] == ["t1"]
    assert body["tasks"][1]["protocol"] == "tournament"
    assert body["tasks"][1]["numbers"] == {"finalists": 3}
    assert body["tasks"][1]["budget"] == {"tokens": 1000, "calls": 9, "seconds": 1.5}
    assert body["tasks"][1]["entry_point"] == "slugify"
    assert body["budget"]["calls"] == 20
