"""Contexts that are asked for ahead: once, for what may start with its plan, and never instead of an answer that is needed."""

import asyncio
import datetime as dt

import pytest
from harness import approved, task

from fleet.deliberation import plan as rules
from fleet.deliberation.plan import Plan, TaskProgress
from fleet.deliberation.plan_rules import tasks_of
from fleet.deliberation.prompt import ContextText
from fleet.deliberation.state import Deliberation
from fleet.orchestrator import contexts as module
from fleet.orchestrator import councils
from fleet.orchestrator.contexts import MOST_AHEAD, Contexts
from fleet.orchestrator.peers import Given, Wanted
from fleet.orchestrator.starting import Bench, Times, new_deliberation
from fleet_wire.errors import Unavailable
from fleet_wire.events import PlanTask

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


class Graph:
    """A memory that notes what it is asked and numbers its answers; `away` makes it unreachable, `slow` has its answers wait."""

    def __init__(self) -> None:
        self.asked: list[Wanted] = []
        self.away = False
        self.slow = False
        self.answering = asyncio.Event()

    async def context_for(self, wanted: Wanted, token_budget: int) -> Given:
        assert token_budget == 500
        self.asked.append(wanted)
        number = len(self.asked)
        if self.slow:
            await self.answering.wait()
        if self.away:
            raise Unavailable("the graph is away")
        return given(number)

    async def has_decision(self, decision_id: str) -> bool:
        return False

    def tasks(self) -> list[str]:
        return [wanted.task_id for wanted in self.asked]


def given(number: int) -> Given:
    """The memory's answer of this number."""
    return Given((ContextText(kind="task", title="", text=f"answer {number}"),))


def plan_of(*tasks: PlanTask, plan_id: str = "p1") -> Plan:
    event = approved(plan_id, *tasks)
    progress = tuple(TaskProgress(task=one) for one in tasks_of(event))
    plan = Plan(plan_id=plan_id, story_id=event.story_id, phase="build", tasks=progress, started_at=NOW)
    return rules.opened(plan)


def started(plan: Plan, task_id: str) -> Deliberation:
    """The deliberation of a task, as the plan starts it."""
    progress = rules.task_of(plan, task_id)
    return new_deliberation(
        rules.deliberation_of(plan, progress),
        progress.task,
        Bench(councils.make("DEV", 3), None),
        now=NOW,
        times=Times(HOUR, HOUR),
        budget=progress.reserved,
        plan_id=plan.plan_id,
        story_id=plan.story_id,
        story_phase=plan.phase,
        based_on=rules.decisions_below(plan, progress),
    )


async def settled() -> None:
    """Lets what was begun come as far as it does by itself."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_starts_with_its_plan_is_asked_for_at_once_and_only_once() -> None:
    graph, plan = Graph(), plan_of(task("a"), task("b"))
    contexts = Contexts(graph, 500)
    contexts.begin(plan)
    await settled()
    assert graph.tasks() == ["a", "b"]
    assert await contexts.of(started(plan, "b")) == given(2)
    assert await contexts.of(started(plan, "a")) == given(1)
    assert graph.tasks() == ["a", "b"]


async def test_an_answer_that_is_under_way_is_waited_for() -> None:
    graph, plan = Graph(), plan_of(task("a"))
    graph.slow = True
    contexts = Contexts(graph, 500)
    contexts.begin(plan)
    asking = asyncio.create_task(contexts.of(started(plan, "a")))
    await settled()
    assert not asking.done()
    graph.answering.set()
    assert await asking == given(1)
    assert graph.tasks() == ["a"]


async def test_an_answer_is_taken_once() -> None:
    graph, plan = Graph(), plan_of(task("a"))
    contexts = Contexts(graph, 500)
    contexts.begin(plan)
    assert await contexts.of(started(plan, "a")) == given(1)
    assert await contexts.of(started(plan, "a")) == given(2)


async def test_a_task_that_depends_on_another_is_asked_for_only_when_it_starts() -> None:
    graph, plan = Graph(), plan_of(task("a"), task("b", "a"))
    contexts = Contexts(graph, 500)
    contexts.begin(plan)
    await settled()
    assert graph.tasks() == ["a"]
    state = started(plan, "b")
    await contexts.of(state)
    assert graph.tasks() == ["a", "b"]
    assert graph.asked[1].required == state.based_on != ()


async def test_what_failed_ahead_is_asked_for_again_and_then_says_why() -> None:
    graph, plan = Graph(), plan_of(task("a"))
    contexts = Contexts(graph, 500)
    graph.away = True
    contexts.begin(plan)
    await settled()
    with pytest.raises(Unavailable, match="the graph is away"):
        await contexts.of(started(plan, "a"))
    assert graph.tasks() == ["a", "a"]
    graph.away = False
    assert await contexts.of(started(plan, "a")) == given(3)


async def test_what_failed_ahead_may_be_there_a_moment_later() -> None:
    graph, plan = Graph(), plan_of(task("a"))
    contexts = Contexts(graph, 500)
    graph.away = True
    contexts.begin(plan)
    await settled()
    graph.away = False
    assert await contexts.of(started(plan, "a")) == given(2)


async def test_an_old_answer_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AHEAD_SECONDS", 0.05)
    graph, plan = Graph(), plan_of(task("a"))
    contexts = Contexts(graph, 500)
    contexts.begin(plan)
    await asyncio.sleep(0.1)
    assert await contexts.of(started(plan, "a")) == given(2)


async def test_no_more_than_so_many_are_asked_for_ahead_and_old_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AHEAD_SECONDS", 0.2)
    graph = Graph()
    graph.slow = True
    contexts = Contexts(graph, 500)
    contexts.begin(plan_of(*(task(f"t{number}") for number in range(MOST_AHEAD + 1))))
    contexts.begin(plan_of(task("more"), plan_id="p2"))
    await settled()
    assert graph.tasks() == [f"t{number}" for number in range(MOST_AHEAD)]
    await asyncio.sleep(0.3)
    contexts.begin(plan_of(task("later"), plan_id="p3"))
    await settled()
    assert graph.tasks()[MOST_AHEAD:] == ["later"]


async def test_what_is_taken_makes_room() -> None:
    graph, plan = Graph(), plan_of(*(task(f"t{number}") for number in range(MOST_AHEAD)))
    contexts = Contexts(graph, 500)
    contexts.begin(plan)
    await contexts.of(started(plan, "t0"))
    contexts.begin(plan_of(task("more"), plan_id="p2"))
    await settled()
    assert graph.tasks()[MOST_AHEAD:] == ["more"]


async def test_a_plan_that_comes_twice_is_asked_for_once() -> None:
    graph, plan = Graph(), plan_of(task("a"))
    contexts = Contexts(graph, 500)
    contexts.begin(plan)
    contexts.begin(plan)
    await settled()
    contexts.begin(plan)
    await settled()
    assert graph.tasks() == ["a"]
    assert await contexts.of(started(plan, "a")) == given(1)


async def test_plans_with_tasks_of_the_same_name_get_their_own() -> None:
    graph, one, other = Graph(), plan_of(task("a")), plan_of(task("a"), plan_id="p2")
    contexts = Contexts(graph, 500)
    contexts.begin(one)
    contexts.begin(other)
    assert await contexts.of(started(other, "a")) == given(2)
    assert await contexts.of(started(one, "a")) == given(1)
