"""What a person rules, on real graph servers: once, whole, and seen by every story that it touches."""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable

import context_samples as samples
import msgspec
import pytest
import pytest_asyncio

from fleet.bolt import Graph, rows
from fleet.context import blocks, domain, explaining, reading, search
from fleet.context import graph as memory
from fleet.context.migrations import MIGRATIONS
from fleet.context.rulings import Ruled, rule
from fleet.migrations import migrate
from fleet_wire import events, ids
from fleet_wire.errors import AlreadyExists, NotFound, Precondition


@pytest_asyncio.fixture
async def store(each_bolt: Graph) -> Graph:
    await migrate(each_bolt, "context", MIGRATIONS)
    await reading.prepare(each_bolt)
    return each_bolt


async def put(store: Graph, *items: events.Event) -> None:
    for item in items:
        await memory.record(store, [samples.arriving(item)])


async def head(store: Graph, story_id: str) -> int:
    found = await reading.reader(store).head(story_id)
    assert found is not None
    return found.version


async def flags(store: Graph, *decisions: events.DeliberationCompleted) -> list[tuple[str, ...]]:
    return [(await explaining.explain(store, one.decision_id)).decision.relies_on_superseded for one in decisions]


async def linked(store: Graph, decision_id: str, relation: str) -> list[str]:
    query = (
        f"MATCH (:Decision {{decision_id: $id}})-[:{relation}]->(n) "
        "RETURN coalesce(n.decision_id, n.key, n.story_id) AS id ORDER BY id"
    )
    return [row["id"] for row in await store.ask(query, id=decision_id)]


async def test_an_override_takes_the_place_of_a_decision_and_flags_all_that_rests_on_it(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, other, plan, elsewhere = (unique(name) for name in ("story", "other", "plan", "elsewhere"))
    base = samples.completed(story, plan, "arch", "ARCHITECT")
    near = samples.completed(story, plan, "api", based_on=[base.decision_id])
    far = samples.completed(other, elsewhere, "ui", based_on=[near.decision_id])
    apart = samples.completed(story, plan, "apart")
    await put(store, base, near, far, apart)
    ruling = samples.override(unique("r"), base.decision_id)
    ruled = await rule(store, ruling)
    assert ruled == Ruled(
        decision_id=ruling.made,
        story_id=story,
        plan_id=plan,
        superseded=(base.decision_id,),
        flagged=tuple(sorted([near.decision_id, far.decision_id])),
        flagged_in={story: (near.decision_id,), other: (far.decision_id,)},
        versions={story: 4, other: 2},
    )
    assert list(ruled.versions) == [story, other]
    assert (await head(store, story), await head(store, other)) == (4, 2)
    old = (await explaining.explain(store, base.decision_id)).decision
    new = (await explaining.explain(store, ruling.made)).decision
    assert old.superseded_by == ruling.made
    assert (new.kind, new.decided_by, new.protocol, new.winner) == ("override", "ada", "person", "")
    assert (new.title, new.content, new.rationale) == ("Use bcrypt", "bcrypt, cost 12", "The audit says so.")
    assert (new.story_id, new.plan_id, new.task_id, new.role) == (story, plan, "arch", "ARCHITECT")
    assert new.decided_at == ruling.at
    assert await linked(store, ruling.made, "SUPERSEDES") == [base.decision_id]
    assert await linked(store, ruling.made, "AFFECTS") == [story]
    assert await flags(store, near, far, apart) == [(base.decision_id,), (base.decision_id,), ()]


async def test_what_comes_after_the_override_of_what_it_rests_on_is_flagged_too(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, other, plan, elsewhere = (unique(name) for name in ("story", "other", "plan", "elsewhere"))
    base = samples.completed(story, plan, "arch", "ARCHITECT")
    near = samples.completed(story, plan, "api", based_on=[base.decision_id])
    far = samples.completed(other, elsewhere, "ui", based_on=[near.decision_id])
    farther = samples.completed(other, elsewhere, "test", based_on=[far.decision_id])
    await put(store, base, far)
    await rule(store, samples.override(unique("r"), base.decision_id))
    await put(store, farther)
    assert await head(store, other) == 2
    await put(store, near)
    assert await flags(store, near, far, farther) == [(base.decision_id,)] * 3
    assert await head(store, other) == 3


async def test_the_same_ruling_again_answers_what_the_first_did(store: Graph, unique: Callable[[str], str]) -> None:
    story, plan = unique("story"), unique("plan")
    base = samples.completed(story, plan, "api")
    await put(store, samples.plan_approved(story, plan, [samples.task("api")]), base)
    for ruling in (
        samples.override(unique("r"), base.decision_id),
        samples.constraint(unique("r"), story, plan, "api"),
        samples.constraint(unique("r"), story),
    ):
        first = await rule(store, ruling)
        version = await head(store, story)
        later = dataclasses.replace(ruling, at=ruling.at + dt.timedelta(hours=1))
        again = await rule(store, later)
        assert (first.new, again.new) == (True, False)
        assert again == msgspec.structs.replace(first, new=False)
        assert await head(store, story) == version
        with pytest.raises(AlreadyExists, match=ruling.ruling_id):
            await rule(store, dataclasses.replace(ruling, reason="Another."))


async def test_the_same_ruling_by_many_at_once_is_written_once(store: Graph, unique: Callable[[str], str]) -> None:
    base = samples.completed(unique("story"), unique("plan"), "api")
    await put(store, base)
    ruling = samples.override(unique("r"), base.decision_id)
    results = await asyncio.gather(*(rule(store, ruling) for _ in range(8)))
    assert sum(ruled.new for ruled in results) == 1
    assert {tuple(ruled.versions.items()) for ruled in results} == {((base.story_id, 2),)}


async def test_of_two_who_overrule_the_same_at_once_one_is_told_by_what_it_is_superseded(
    store: Graph, unique: Callable[[str], str]
) -> None:
    base = samples.completed(unique("story"), unique("plan"), "api")
    await put(store, base)
    tried = [samples.override(unique("r"), base.decision_id) for _ in range(6)]
    results = await asyncio.gather(*(rule(store, ruling) for ruling in tried), return_exceptions=True)
    [won] = [one for one in results if isinstance(one, Ruled)]
    lost = [one for one in results if not isinstance(one, Ruled)]
    assert all(isinstance(error, Precondition) and won.decision_id in str(error) for error in lost), lost
    known = await store.ask("MATCH (c:Decision {story_id: $id}) RETURN c.decision_id AS id", id=base.story_id)
    assert {row["id"] for row in known} == {base.decision_id, won.decision_id}


async def test_an_override_of_an_override_and_of_a_constraint_binds_and_affects_the_same(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, other, plan = unique("story"), unique("other"), unique("plan")
    base = samples.completed(story, plan, "arch", "ARCHITECT")
    await put(store, samples.plan_approved(story, plan, [samples.task("api")]), samples.story_created(other), base)
    bound = await rule(store, samples.constraint(unique("r"), story, plan, "api"))
    widened = await rule(store, samples.affects(unique("r"), base.decision_id, other))
    assert (widened.decision_id, list(widened.versions)) == (base.decision_id, [other])
    for decision, binds, affected in (
        (bound.decision_id, [f"{plan}/api"], [story]),
        (base.decision_id, [], sorted([story, other])),
    ):
        first = await rule(store, samples.override(unique("r"), decision))
        second = await rule(store, samples.override(unique("r"), first.decision_id))
        for made in (decision, first.decision_id, second.decision_id):
            assert await linked(store, made, "CONSTRAINS") == binds
            assert await linked(store, made, "AFFECTS") == affected
        assert second.superseded == (first.decision_id,)
        with pytest.raises(Precondition, match=f"superseded by {second.decision_id}"):
            await rule(store, samples.affects(unique("r"), first.decision_id, other))
    timeline = await store.ask(
        "MATCH (e:Event {story_id: $id}) RETURN e.kind AS kind, e.summary AS summary ORDER BY e.version", id=other
    )
    assert [row["kind"] for row in timeline] == [
        "planning.story.created",
        "context.affects",
        "context.override",
        "context.override",
    ]
    assert timeline[2]["summary"] == (
        f"ada overruled Decision on arch ({base.decision_id}): Use bcrypt ({first.decision_id})"
    )


async def test_what_binds_one_story_is_not_said_to_affect_another(store: Graph, unique: Callable[[str], str]) -> None:
    story, other = unique("story"), unique("other")
    await put(store, samples.story_created(story), samples.story_created(other))
    bound = await rule(store, samples.constraint(unique("r"), story))
    ruled = await rule(store, samples.override(unique("r"), bound.decision_id))
    with pytest.raises(Precondition, match=f"is a constraint: bind story {other} with one of its own"):
        await rule(store, samples.affects(unique("r"), ruled.decision_id, other))
    assert await head(store, other) == 1


async def test_what_overrules_a_constraint_is_seen_as_one_and_only_where_it_binds(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    await put(store, samples.plan_approved(story, plan, [samples.task("api"), samples.task("ui")]))
    made = {}
    for task in ("", "api"):
        bound = await rule(store, samples.constraint(unique("r"), story, task and plan, task))
        first = await rule(store, samples.override(unique("r"), bound.decision_id))
        made[task] = (await rule(store, samples.override(unique("r"), first.decision_id))).decision_id
    for task, binding in (("api", {made[""], made["api"]}), ("ui", {made[""]})):
        found = await reading.reader(store).facts(samples.asked(story, plan, task, "DEV", "test", 2000, []))
        assert {one.decision_id for one in found.constraints} == binding
        assert (found.affecting, found.out_of_scope) == ((), ())
    blind = domain.Scope(kinds=("task", "decision", "milestone"), affects=ids.ROLES)
    assert [one.tells_of for one in found.milestones] == ["constraint"] * 5
    assert not any(blocks.told_in(blind, one) for one in found.milestones)


async def test_a_constraint_that_the_scope_hides_is_not_seen_by_requiring_it(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    await put(store, samples.plan_approved(story, plan, [samples.task("api"), samples.task("ui")]))
    made = []
    for task in ("", "ui"):
        bound = await rule(store, samples.constraint(unique("r"), story, task and plan, task))
        made.append((await rule(store, samples.override(unique("r"), bound.decision_id))).decision_id)
    made.append((await rule(store, samples.constraint(unique("r"), story, plan, "ui"))).decision_id)
    asked = samples.asked(story, plan, "api", "DEV", "test", 2000, made)
    found = await reading.reader(store).facts(asked)
    shown, _ = blocks.candidates(asked, found)
    assert {one.source_id: one.kind for one in shown if one.source_id in made} == dict(
        zip(made, ("constraint", "decision", "decision"), strict=True)
    )
    assert [one.text.split("\n")[0] for one in shown if one.source_id == made[-1]] == ["Set by ada."]
    blind = domain.Scope(kinds=("task", "decision"), depends_on=ids.ROLES, affects=ids.ROLES)
    shown, left_out = blocks.candidates(dataclasses.replace(asked, scope=blind), found)
    assert [one.kind for one in shown] == ["task"]
    assert {one.source_id: one.reason for one in left_out if one.source_id in made} == dict.fromkeys(made, "scope")


async def test_what_the_graph_does_not_have_is_not_found_and_nothing_is_written(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, plan, unknown = unique("story"), unique("plan"), unique("unknown")
    known = samples.completed(story, plan, "api", based_on=[unknown])
    await put(store, known)
    count = "MATCH (n) RETURN count(n) AS count"
    before = await store.ask(count)
    for ruling in (
        samples.override(unique("r"), unknown),  # named as the base of another, which is not its arrival
        samples.constraint(unique("r"), unknown),
        samples.constraint(unique("r"), story, plan, "api"),  # its plan has not arrived
        samples.constraint(unique("r"), story, plan, "else"),
        samples.affects(unique("r"), unknown, story),
        samples.affects(unique("r"), known.decision_id, unknown),
    ):
        with pytest.raises(NotFound):
            await rule(store, ruling)
    assert await store.ask(count) == before
    assert await head(store, story) == 1


async def test_a_ruling_while_what_rests_on_it_arrives_flags_it(store: Graph, unique: Callable[[str], str]) -> None:
    for _ in range(3):
        base = samples.completed(unique("story"), unique("plan"), "arch")
        near = [
            samples.completed(unique("story"), unique("plan"), "api", based_on=[base.decision_id]) for _ in range(3)
        ]
        await put(store, base)
        ruling = samples.override(unique("r"), base.decision_id)
        await asyncio.gather(
            samples.patiently(rule, store, ruling), *(samples.patiently(put, store, one) for one in near)
        )
        assert await flags(store, *near) == [(base.decision_id,)] * len(near)


async def test_an_ad_hoc_decision_can_be_overruled(store: Graph, unique: Callable[[str], str]) -> None:
    base = samples.completed("", "", unique("request"))
    await put(store, base)
    ruled = await rule(store, samples.override(unique("r"), base.decision_id))
    assert (ruled.story_id, ruled.versions) == ("", {})
    assert (await explaining.explain(store, base.decision_id)).decision.superseded_by == ruled.decision_id


async def test_an_override_is_found_by_its_text_and_has_no_deliberation(
    store: Graph, unique: Callable[[str], str]
) -> None:
    base = samples.completed(unique("story"), unique("plan"), "api")
    await put(store, base)
    ruled = await rule(store, samples.override(unique("r"), base.decision_id))
    found = await search.search(store, search.search_of("bcrypt", base.story_id, "", "", 0, ""))
    assert [decision.decision_id for decision in found.decisions] == [ruled.decision_id]
    why = await explaining.explain(store, ruled.decision_id)
    assert (why.proposals, why.dissent, why.missing, why.tokens) == ((), (), (), 0)


async def test_nothing_but_the_ruling_itself_is_left_in_the_graph(store: Graph, unique: Callable[[str], str]) -> None:
    base = samples.completed(unique("story"), unique("plan"), "api")
    await put(store, base)
    ruling = samples.override(unique("r"), base.decision_id)
    await rule(store, ruling)
    around = await store.read(
        lambda tx: rows(
            tx,
            "MATCH (:Decision {decision_id: $id})-[r]-(n) RETURN type(r) AS type, labels(n) AS labels ORDER BY type",
            id=ruling.made,
        )
    )
    assert [(row["type"], row["labels"]) for row in around] == [("AFFECTS", ["Story"]), ("SUPERSEDES", ["Decision"])]
