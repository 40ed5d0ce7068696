"""Every event and every ruling twice, in any order that NATS can produce, and by two replicas at once: the graph is the same,
node by node. A stream keeps its order only until something is delivered again, and streams know nothing of each other: any order
of all can come about. A ruling on what is not there yet is refused, and a person tries it again."""

import asyncio
import collections
import functools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import context_samples as samples
import pytest
import pytest_asyncio
import realparts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.bolt import Graph, rows
from fleet.context import explaining, handlers
from fleet.context import graph as memory
from fleet.context.migrations import MIGRATIONS
from fleet.context.rulings import Ruling, rule
from fleet.migrations import migrate
from fleet_wire import events
from fleet_wire.errors import NotFound

ORDER_DEPENDENT = {"version", "born", "ruled", "effects"}
"""Properties that say when something came, or what was there then, not what it is."""
SHUFFLES = 5

Dump = tuple[list[Any], list[Any]]


@pytest_asyncio.fixture(params=["empty_graph", "empty_neo4j"])
async def empty(request: pytest.FixtureRequest) -> AsyncIterator[Graph]:
    """A graph database with nothing in it, which the test may empty."""
    server: realparts.GraphServer = request.getfixturevalue(request.param)
    store = Graph(server.settings())
    await migrate(store, "context", MIGRATIONS)
    yield store
    await store.close()


async def clear(store: Graph) -> None:
    await store.write(lambda tx: rows(tx, "MATCH (n) DETACH DELETE n"))


async def dump(store: Graph) -> Dump:
    """All nodes and relations, but for what depends on the order of arrival."""
    nodes = await store.read(lambda tx: rows(tx, "MATCH (n) RETURN labels(n) AS labels, properties(n) AS p"))
    relations = await store.read(
        lambda tx: rows(
            tx,
            "MATCH (a)-[r]->(b) RETURN type(r) AS type, properties(r) AS p, labels(a) AS from_labels, "
            "properties(a) AS from, labels(b) AS to_labels, properties(b) AS to",
        )
    )

    def name(labels: list[str], properties: dict[str, Any]) -> str:
        [label] = labels
        return f"{label} {properties[memory.KEYS[label]]}"

    def kept(properties: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in sorted(properties.items()) if key not in ORDER_DEPENDENT}

    return (
        sorted(((name(n["labels"], n["p"]), kept(n["p"])) for n in nodes if n["labels"] != ["Migration"]), key=repr),
        sorted(
            ((r["type"], name(r["from_labels"], r["from"]), name(r["to_labels"], r["to"]), r["p"]) for r in relations),
            key=repr,
        ),
    )


def everything() -> list[events.Event | Ruling]:
    """Two stories, the first with two plans of the same tasks and a task that was decided three times, once in vain, and a
    decision without either; and what people ruled on them,
    also on what others had ruled."""
    tasks = [
        samples.task("arch", role="ARCHITECT"),
        samples.task("api", depends_on=["arch"]),
        samples.task("test", role="QA", depends_on=["api"]),
    ]
    newer = events.StoryText(title="Login and out", brief="Users come and go.", acceptance=["both work"])
    arch = samples.completed("story-1", "plan-1", "arch", "ARCHITECT", minute=1)
    api = samples.completed("story-1", "plan-1", "api", minute=2, based_on=[arch.decision_id])
    again = samples.completed("story-1", "plan-2", "api", minute=4, based_on=[arch.decision_id, api.decision_id])
    question = samples.completed("", "", "question", minute=5, based_on=[again.decision_id])
    overruled = samples.override("r-arch", arch.decision_id)
    bound = samples.constraint("r-bound", "story-1", "plan-1", "api")
    tries = [samples.completed("story-1", "plan-1", "ui", minute=7 + number, number=number) for number in (1, 2, 4)]
    return [
        *tries,
        samples.completed("story-2", "plan-3", "ui", minute=8, based_on=[tries[0].decision_id]),
        samples.story_created("story-1"),
        samples.transitioned("story-1", 1, "planned"),
        samples.plan_approved("story-1", "plan-1", tasks),
        samples.transitioned("story-1", 2, "running"),
        arch,
        api,
        samples.plan_approved("story-1", "plan-2", tasks[:2], plan_version=2, story=newer),
        samples.transitioned("story-1", 3, "done"),
        again,
        question,
        samples.failed("story-1", "plan-1", "test"),
        samples.plan_completed("story-1", "plan-1", ["arch", "api"]),
        samples.plan_completed("story-1", "plan-1", ["arch", "api", "test"], round=2),
        overruled,
        samples.override("r-again", overruled.made, title="Use scrypt"),
        bound,
        samples.override("r-unbound", bound.made, title="Tables may come"),
        samples.constraint("r-story", "story-2"),
        samples.affects("r-affects", api.decision_id, "story-2"),
        samples.override("r-question", question.decision_id),
        samples.story_created("story-2"),
        samples.plan_approved("story-2", "plan-3", tasks[:1]),
        samples.completed("story-2", "plan-3", "arch", "ARCHITECT", minute=6),
    ]


async def deliver(store: Graph, record: handlers.Recorder, arriving: Sequence[events.Event | Ruling]) -> None:
    refused: list[Ruling] = []

    async def try_again() -> None:
        for ruling in tuple(refused):
            try:
                await rule(store, ruling)
            except NotFound:
                continue
            refused.remove(ruling)

    for item in arriving:
        if isinstance(item, Ruling):
            refused.append(item)
        else:
            await samples.patiently(record.record, samples.arriving(item))
        await samples.patiently(try_again)
    while refused:  # on what another delivers
        await asyncio.sleep(0.05)
        await samples.patiently(try_again)


async def heads(store: Graph) -> list[Any]:
    return await store.ask("MATCH (s:Story) RETURN s.story_id AS id, s.version AS version ORDER BY id")


async def test_every_event_twice_in_any_order_gives_the_same_graph(empty: Graph) -> None:
    await deliver(empty, handlers.recorder(empty), everything())
    expected = nodes, relations = await dump(empty)
    assert collections.Counter(name.split()[0] for name, _ in nodes) == {
        "Story": 2,
        "Plan": 3,
        "Task": 8,
        "Deliberation": 9,
        "Agent": 4,
        "Proposal": 18,
        "Check": 27,
        "Decision": 16,
        "Event": 27,
    }
    assert collections.Counter(relation[0] for relation in relations) == {
        "HAS_PLAN": 3,
        "HAS_TASK": 8,
        "DEPENDS_ON": 8,
        "DELIBERATES": 8,
        "PROPOSED": 18,
        "CHECKED": 27,
        "DECIDED": 9,
        "SUPPORTS": 9,
        "DISSENTS": 9,
        "AFFECTS": 14,
        "SUPERSEDES": 8,
        "CONSTRAINS": 3,
    }
    shuffle = random.Random(7)
    for _ in range(SHUFFLES):
        await clear(empty)
        arriving = everything() * 2
        shuffle.shuffle(arriving)
        await deliver(empty, handlers.recorder(empty), arriving)
        assert await dump(empty) == expected
        before = await heads(empty)
        await deliver(empty, handlers.recorder(empty), everything())
        assert await heads(empty) == before
        assert await dump(empty) == expected


async def test_every_event_by_two_replicas_at_once_gives_the_same_graph(empty: Graph) -> None:
    await deliver(empty, handlers.recorder(empty), everything())
    expected = await dump(empty)
    shuffle = random.Random(8)
    for _ in range(3):
        await clear(empty)
        replicas = [(handlers.recorder(empty), everything()) for _ in range(2)]
        for _, arriving in replicas:
            shuffle.shuffle(arriving)
        await asyncio.gather(
            *(deliver(empty, record, arriving[start::3]) for record, arriving in replicas for start in range(3))
        )
        assert await dump(empty) == expected


async def test_a_ruling_stands_in_the_place_of_later_tries_in_whatever_order_they_come(empty: Graph) -> None:
    first, *later = [samples.completed("s", "p", "ui", minute=number, number=number) for number in (1, 2, 3)]
    other = [
        samples.completed(f"s-{one.decision_id}", f"p-{one.decision_id}", "on", based_on=[one.decision_id])
        for one in (first, *later)
    ]
    ruling = samples.override("r", first.decision_id)
    again = samples.override("r-again", ruling.made)
    shuffle = random.Random(9)
    expected: Dump | None = None
    for _ in range(SHUFFLES):
        await clear(empty)
        record = handlers.recorder(empty)
        before, after = [first, *shuffle.sample(other, 1)], [*later, *other, first, *later, again]
        shuffle.shuffle(before)
        shuffle.shuffle(after)
        await deliver(empty, record, [*before, ruling, *after])
        found = await dump(empty)
        assert found == (expected or found)
        expected = found
    for one in (first, *later):
        explained = await explaining.explain(empty, one.decision_id)
        assert explained.decision.superseded_by == ruling.made
        assert [by.decision_id for by in explained.related.superseded_by] == [ruling.made, again.made]
    relying = [(await explaining.explain(empty, one.decision_id)).decision.relies_on_superseded for one in other]
    assert relying == [(one.decision_id,) for one in (first, *later)]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[set[int]], list[int], list[tuple[str, int]]]:
    """What each of some decisions depends on, which of them are overruled, and the order in which it all arrives, decisions
    more than once."""
    count = draw(st.integers(2, 6))
    bases = [draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set() for number in range(count)]
    overruled = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=3)))
    arrivals = [("decision", number) for number in range(count)]
    extra = draw(st.lists(st.sampled_from(arrivals), max_size=3))
    order = draw(st.permutations([*arrivals, *extra, *(("override", number) for number in overruled)]))
    return bases, overruled, order


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
async def test_a_decision_names_all_overruled_ones_that_it_rests_on_whatever_came_first(
    each_bolt: Graph, unique: Callable[[str], str], history: tuple[list[set[int]], list[int], list[tuple[str, int]]]
) -> None:
    bases, overruled, order = history
    await migrate(each_bolt, "context", MIGRATIONS)
    stories = [unique("story"), unique("story"), ""]
    plans = [unique("plan"), unique("plan"), ""]
    decisions: list[events.DeliberationCompleted] = []
    for number, below in enumerate(bases):
        based_on = [decisions[base].decision_id for base in sorted(below)]
        place = number % 3
        decisions.append(samples.completed(stories[place], plans[place], unique("task"), based_on=based_on))
    rulings = {number: samples.override(unique("r"), decisions[number].decision_id) for number in overruled}
    arriving = [decisions[number] if kind == "decision" else rulings[number] for kind, number in order]
    await deliver(each_bolt, handlers.recorder(each_bolt), arriving)

    @functools.cache
    def below(number: int) -> frozenset[int]:
        return frozenset(bases[number]).union(*(below(base) for base in bases[number]))

    for number, decision in enumerate(decisions):
        found = (await explaining.explain(each_bolt, decision.decision_id)).decision
        expected = sorted(decisions[base].decision_id for base in below(number) & set(overruled))
        assert list(found.relies_on_superseded) == expected
        assert found.superseded_by == (rulings[number].made if number in rulings else "")
