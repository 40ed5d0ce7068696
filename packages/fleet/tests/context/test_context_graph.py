"""The memory on real graph servers: what events leave there, in whatever order and however often they come."""

import asyncio
import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import context_samples as samples
import msgspec
import pytest
import pytest_asyncio

from fleet.batching import Batches
from fleet.bolt import Graph, rows
from fleet.context import blocks, domain, explaining, reading
from fleet.context import graph as memory
from fleet.context.migrations import MIGRATIONS
from fleet.migrations import migrate
from fleet_wire import events
from fleet_wire.errors import Invalid, NotFound, Unavailable
from fleet_wire.fingerprint import whole


@pytest_asyncio.fixture
async def store(each_bolt: Graph) -> Graph:
    await migrate(each_bolt, "context", MIGRATIONS)
    await reading.prepare(each_bolt)
    return each_bolt


async def test_what_is_planned_ahead_writes_nothing(store: Graph) -> None:
    count = "MATCH (n) RETURN count(n) AS nodes"
    before = await store.ask(count)
    await memory.prepare(store)
    assert await store.ask(count) == before


def test_no_statement_is_planned_by_the_length_of_a_list() -> None:
    for path in Path(memory.__file__).parent.glob("*.py"):
        assert not re.findall(r"UNWIND \$(?!given\.)\w+", path.read_text()), f"{path.name}: see fleet.bolt.rows"


async def put(store: Graph, *items: events.Event) -> list[memory.Recorded]:
    return [await alone(store, item) for item in items]


async def alone(store: Graph, item: Any, born: str = "b") -> memory.Recorded:
    [recorded] = await memory.record(store, [samples.arriving(item, born)])
    return recorded


def a_story(story: str, plan: str) -> list[events.Event]:
    tasks = [
        samples.task("arch", role="ARCHITECT"),
        samples.task("api", depends_on=["arch"]),
        samples.task("test", role="QA", depends_on=["api"]),
    ]
    first = samples.completed(story, plan, "arch", "ARCHITECT", minute=1)
    return [
        samples.story_created(story),
        samples.transitioned(story, 1, "DRAFT"),
        samples.transitioned(story, 2, "DESIGN"),
        samples.plan_approved(story, plan, tasks),
        first,
        samples.completed(story, plan, "api", minute=2, based_on=[first.decision_id]),
    ]


async def test_a_story_is_in_the_state_of_its_last_transition_whatever_order_they_come_in(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story = unique("story")
    states = ["DRAFT", "DESIGN", "DRAFT", "BACKLOG", "DRAFT"]
    moves = [samples.transitioned(story, version, to) for version, to in enumerate(states, 1)]
    for arriving in ([moves[2], moves[0]], [moves[4]], [*moves, *reversed(moves)]):
        await put(store, *arriving)
        last = max(move.version for move in arriving)
        query = "MATCH (s:Story {story_id: $story_id}) RETURN s.state AS state, s.state_version AS version"
        found = await store.read(lambda tx, query=query: rows(tx, query, story_id=story))
        assert found == [{"state": states[last - 1], "version": last}]


async def test_what_came_again_has_the_version_it_had(store: Graph, unique: Callable[[str], str]) -> None:
    arriving = a_story(unique("story"), unique("plan"))
    first = await put(store, *arriving)
    assert [recorded.version for recorded in first] == [1, 2, 3, 4, 5, 6]
    assert all(recorded.new and recorded.same for recorded in first)
    again = await put(store, *reversed(arriving))
    assert [recorded.version for recorded in again] == [6, 5, 4, 3, 2, 1]
    assert not any(recorded.new for recorded in again)
    assert all(recorded.same for recorded in again)


async def test_the_first_content_under_an_id_stays(store: Graph, unique: Callable[[str], str]) -> None:
    story, plan = unique("story"), unique("plan")
    one = samples.completed(story, plan, "api")
    other = samples.completed(
        story, plan, "api", decision=events.DecisionText(title="Else", content="Else", rationale="Else")
    )
    assert one.decision_id == other.decision_id
    await put(store, one)
    [recorded] = await put(store, other)
    assert (recorded.same, recorded.new, recorded.version) == (False, False, 1)
    found = await explaining.explain(store, one.decision_id)
    assert found.decision.title == one.decision.title
    assert [proposal.content for proposal in found.proposals] == ["Argon2", "bcrypt"]


async def test_the_timeline_of_a_story_holds_each_event_in_one_line_without_secrets(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    secret = events.DecisionText(title="Use password: Hunter2-zq8 " + "x" * 200, content="c", rationale="r")
    decided = samples.completed(story, plan, "api", minute=3, decision=secret)
    failures = [events.FailedTask(task_id="test", reason="quorum_missed")]
    await put(
        store,
        samples.story_created(story, title="Log\n in"),
        samples.transitioned(story, 1, "DRAFT"),
        samples.plan_approved(story, plan, [samples.task("api"), samples.task("test")]),
        decided,
        samples.failed(story, plan, "test"),
        samples.plan_completed(story, plan, ["api"], failed=failures),
        samples.plan_completed(story, plan, ["api"], failed=failures),
    )
    query = (
        "MATCH (e:Event {story_id: $id}) RETURN e.kind AS kind, e.plan_id AS plan, e.at AS at, e.summary AS summary "
    )
    found = await store.ask(query + "ORDER BY e.version", id=story)
    noon = "2026-03-01T12:0{}:00.000000Z"
    summaries = [row.pop("summary") for row in found]
    assert found == [
        {"kind": "planning.story.created", "plan": "", "at": noon.format(0)},
        {"kind": "planning.story.transitioned", "plan": "", "at": noon.format(0)},
        {"kind": "planning.plan.approved", "plan": plan, "at": noon.format(0)},
        {"kind": "orchestration.deliberation.completed", "plan": plan, "at": noon.format(3)},
        {"kind": "orchestration.deliberation.failed", "plan": plan, "at": noon.format(0)},
        {"kind": "orchestration.plan.completed", "plan": plan, "at": noon.format(0)},
    ]
    line = summaries.pop(3)
    assert line.startswith("DEV council decided Use password: [redacted")
    assert "Hunter2" not in line
    assert line.endswith(f"x… ({decided.decision_id})")
    assert len(line) == 160
    assert summaries == [
        "story created: Log in",
        "BACKLOG to DRAFT by ada",
        f"plan {plan} version 1 approved by ada",
        "DEV council decided nothing on test: quorum_missed",
        f"plan {plan} completed: 1 decided, 1 failed",
    ]


async def test_twenty_writers_of_one_story_each_get_a_version_of_their_own(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    tasks = [samples.task(f"t{number}") for number in range(19)]
    arriving = [
        samples.plan_approved(story, plan, tasks),
        *(samples.completed(story, plan, f"t{number}") for number in range(19)),
    ]

    async def write(event: events.Event) -> memory.Recorded:
        while True:
            try:
                return await alone(store, event)
            except Unavailable:  # as a consumer does, where a busy machine made it lose for too long
                await asyncio.sleep(0.2)

    results = await asyncio.gather(*(write(event) for event in arriving))
    assert sorted(recorded.version for recorded in results) == list(range(1, 21))
    links = await store.read(
        lambda tx: rows(
            tx,
            "MATCH (:Story {story_id: $story})-[:HAS_PLAN]->(:Plan)-[:HAS_TASK]->(t:Task)<-[:DELIBERATES]-(:Deliberation)"
            "-[:DECIDED]->(c:Decision)<-[:SUPPORTS]-(:Proposal)<-[:PROPOSED]-(:Agent) "
            "RETURN t.task_id AS task, c.task_id AS decided",
            story=story,
        )
    )
    assert sorted((link["task"], link["decided"]) for link in links) == sorted((f"t{n}", f"t{n}") for n in range(19))


async def test_the_same_event_by_many_at_once_is_written_once(store: Graph, unique: Callable[[str], str]) -> None:
    story, plan = unique("story"), unique("plan")
    event = samples.completed(story, plan, "api")
    results = await asyncio.gather(*(alone(store, event, born=f"b{i}") for i in range(8)))
    assert [recorded.version for recorded in results] == [1] * 8
    assert sum(recorded.new for recorded in results) == 1


async def test_a_decision_that_rests_on_others_takes_four_statements(
    store: Graph, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    story, plan = unique("story"), unique("plan")
    base, built = (samples.completed(story, plan, task) for task in ("arch", "api"))
    built = msgspec.structs.replace(built, based_on=[base.decision_id])
    await memory.record(store, [samples.arriving(base)])
    said: list[str] = []

    async def counted(tx: Any, statement: str, **parameters: Any) -> list[dict[str, Any]]:
        said.append(statement)
        return await rows(tx, statement, **parameters)

    for module in (memory, memory.reliance):
        monkeypatch.setattr(module, "rows", counted)
    await memory.record(store, [samples.arriving(built)])
    assert len(said) == 4, said  # each is a round trip, and half a millisecond of the processor's time at both ends


async def test_an_ad_hoc_decision_is_kept_without_story_and_plan(store: Graph, unique: Callable[[str], str]) -> None:
    request = unique("request")
    event = samples.completed("", "", request)
    [recorded] = await put(store, event)
    assert (recorded.version, recorded.new) == (0, True)
    found = await explaining.explain(store, event.decision_id)
    assert (found.decision.task_id, found.story_title, found.task_title) == (request, "", "")
    around = await store.read(
        lambda tx: rows(
            tx,
            "MATCH (d:Deliberation {deliberation_id: $id})-[r]-(n) RETURN type(r) AS type, labels(n) AS labels",
            id=event.deliberation_id,
        )
    )
    assert [(row["type"], row["labels"]) for row in around] == [("DECIDED", ["Decision"])]
    assert len(found.proposals) == 2


async def test_a_plan_of_another_story_is_invalid_and_writes_nothing(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, thief, plan = unique("story"), unique("thief"), unique("plan")
    await put(store, samples.plan_approved(story, plan, [samples.task("api")]))
    with pytest.raises(Invalid, match=f"^story_id: plan {plan} belongs to story {story}"):
        await put(store, samples.completed(thief, plan, "api"))
    assert await reading.reader(store).head(thief) is None


async def test_the_newest_plan_gives_the_story_its_text_in_any_order(
    store: Graph, unique: Callable[[str], str]
) -> None:
    def plan(story: str, number: int) -> events.PlanApproved:
        text = events.StoryText(title=f"Title {number}", brief="b", acceptance=[])
        return samples.plan_approved(story, f"{story}-{number}", [], roles=["DEV"], story=text, plan_version=number)

    for order in itertools.permutations((0, 1, 2)):
        story = unique("story")
        arriving = [samples.story_created(story, title="Title 0"), plan(story, 1), plan(story, 2)]
        await put(store, *(arriving[place] for place in order))
        request = samples.asked(story, f"{story}-1", "dev", "DEV", "build", 500, [])
        assert (await reading.reader(store).facts(request)).story.title == "Title 2"


async def test_facts_are_unavailable_until_the_plan_and_what_is_required_are_there(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    first = samples.completed(story, plan, "arch", "ARCHITECT")
    second = samples.completed(story, plan, "api", based_on=["dec-never"])
    request = samples.asked(story, plan, "api", "DEV", "build", 500, [first.decision_id])
    with pytest.raises(Unavailable, match=f"plan {plan} is not in the graph yet"):
        await reading.reader(store).facts(request)
    await put(store, second)  # makes the plan's node, without its content
    with pytest.raises(Unavailable, match=f"plan {plan} is not in the graph yet"):
        await reading.reader(store).facts(request)
    tasks = [samples.task("arch", role="ARCHITECT"), samples.task("api", depends_on=["arch"])]
    await put(store, samples.plan_approved(story, plan, tasks))
    with pytest.raises(Unavailable, match=f"not in the graph yet: {first.decision_id}"):
        await reading.reader(store).facts(request)
    never = samples.asked(story, plan, "api", "DEV", "build", 500, ["dec-never"])
    with pytest.raises(Unavailable, match="not in the graph yet: dec-never"):
        await reading.reader(store).facts(never)  # named as the base of another, which is not its arrival
    await put(store, first)
    found = await reading.reader(store).facts(request)
    assert [item.decision_id for item in found.required] == [first.decision_id]
    unknown = samples.asked(story, plan, "nothing", "DEV", "build", 500, [])
    with pytest.raises(NotFound, match=f"plan {plan} has no task nothing"):
        await reading.reader(store).facts(unknown)


async def test_a_role_sees_what_its_task_depends_on_and_what_councils_of_its_scope_decided(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    tasks = [
        samples.task("arch", role="ARCHITECT"),
        samples.task("api"),
        samples.task("data", role="DATA"),
        samples.task("test", role="QA", depends_on=["api"]),
    ]
    await put(
        store,
        samples.plan_approved(story, plan, tasks),
        samples.completed(story, plan, "arch", "ARCHITECT"),
        samples.completed(story, plan, "api"),
        samples.completed(story, plan, "data", "DATA"),
    )
    request = samples.asked(story, plan, "test", "QA", "test", 500, [])
    request = dataclasses.replace(request, scope=msgspec.structs.replace(request.scope, affects=("ARCHITECT", "DATA")))
    found = await reading.reader(store).facts(request)
    assert [item.task_id for item in found.depended_on] == ["api"]
    assert {item.task_id for item in found.affecting} == {"arch", "data"}
    assert found.out_of_scope == (found.depended_on[0].decision_id,)
    assert found.required == ()
    assert (found.plan.plan_version, found.plan.approved_by) == (1, "ada")
    assert [(task.task_id, task.role, task.needs, task.decided) for task in found.plan.tasks] == [
        ("arch", "ARCHITECT", (), True),
        ("api", "DEV", (), True),
        ("data", "DATA", (), True),
        ("test", "QA", ("api",), False),
    ]
    assert {(milestone.kind, milestone.role) for milestone in found.milestones} == {
        ("planning.plan.approved", ""),
        *(("orchestration.deliberation.completed", role) for role in ("ARCHITECT", "DEV", "DATA")),
    }


async def test_what_is_read_while_its_story_is_written_is_read_anew(store: Graph, unique: Callable[[str], str]) -> None:
    story, plan = unique("story"), unique("plan")
    tasks = [samples.task(name, role="ARCHITECT") for name in ("arch", "api", "data", "ops", "test", "docs")]
    await put(store, samples.plan_approved(story, plan, tasks))
    request = samples.asked(story, plan, "arch", "ARCHITECT", "build", 500, [])
    coming = [samples.completed(story, plan, task.task_id, "ARCHITECT") for task in tasks]
    plain = reading.reader(store)

    async def then_written(asked: Sequence[Any]) -> Sequence[domain.Facts]:
        found = [await plain.facts_now.ask(one) for one in asked]
        if writing:
            await put(store, writing.pop())
        return found

    reader = dataclasses.replace(plain, facts_now=Batches(then_written, 1))
    before = await plain.head(story)
    writing = [coming.pop()]
    found = await reader.facts(request, before)
    assert (found.head.version, len(found.affecting), found.plan.tasks[-1].decided) == (2, 1, True)
    assert await plain.facts(request, before) == found, "a version from before its request was taken for the facts'"
    writing = coming
    with pytest.raises(Unavailable, match=f"^story {story} is being written"):
        await reader.facts(request)


async def test_nothing_of_another_story_is_given(store: Graph, unique: Callable[[str], str]) -> None:
    story, other, plan, elsewhere = (unique(name) for name in ("story", "other", "plan", "elsewhere"))
    foreign = samples.completed(other, elsewhere, "arch", "ARCHITECT")
    await put(
        store,
        samples.plan_approved(story, plan, [samples.task("api")]),
        samples.plan_approved(other, elsewhere, [samples.task("arch", role="ARCHITECT")]),
        foreign,
    )
    found = await reading.reader(store).facts(samples.asked(story, plan, "api", "DEV", "build", 500, []))
    assert found.affecting == ()
    with pytest.raises(Invalid, match=r"^required_decision_ids"):
        await reading.reader(store).facts(samples.asked(story, plan, "api", "DEV", "build", 500, [foreign.decision_id]))
    with pytest.raises(Invalid, match=r"^story_id"):
        await reading.reader(store).facts(samples.asked(other, plan, "api", "DEV", "build", 500, []))


async def test_a_decision_is_explained_with_all_that_led_to_it(store: Graph, unique: Callable[[str], str]) -> None:
    story, plan = unique("story"), unique("plan")
    arriving = a_story(story, plan)
    await put(store, *arriving)
    base, event = arriving[-2:]
    assert isinstance(event, events.DeliberationCompleted)
    assert isinstance(base, events.DeliberationCompleted)
    found = await explaining.explain(store, event.decision_id)
    assert found.decision.decided_at == event.decided_at
    assert (found.decision.score, found.decision.margin, found.decision.winner) == (0.9, 0.5, "agent-DEV-001")
    assert [(p.agent_id, p.rank, p.score, p.content_cut) for p in found.proposals] == [
        ("agent-DEV-001", 1, 0.9, False),
        ("agent-DEV-002", 2, 0.4, True),
    ]
    assert [list(p.checks) for p in found.proposals] == [entry.checks for entry in event.ranking]
    assert list(found.dissent) == event.dissent
    assert list(found.missing) == event.missing
    assert [one.decision_id for one in found.related.bases] == [base.decision_id]
    assert (found.story_title, found.task_title) == ("Login", "Title of api")


async def test_an_unknown_decision_or_one_only_referred_to_is_not_found(
    store: Graph, unique: Callable[[str], str]
) -> None:
    name = unique("dec")
    with pytest.raises(NotFound, match=name):
        await explaining.explain(store, name)
    await put(store, samples.completed(unique("story"), unique("plan"), "api", based_on=[name]))
    with pytest.raises(NotFound, match=name):
        await explaining.explain(store, name)


async def test_nothing_that_belongs_to_planning_is_touched(store: Graph, unique: Callable[[str], str]) -> None:
    story = unique("story")
    await store.write(lambda tx: rows(tx, "CREATE (s:PlanningStory {story_id: $story, title: 'theirs'})", story=story))
    await put(store, samples.story_created(story))
    found = await store.read(
        lambda tx: rows(tx, "MATCH (s:PlanningStory {story_id: $story}) RETURN properties(s) AS p", story=story)
    )
    # The graph is planning's too, in other tests: what is no story of its making must not stay.
    await store.write(lambda tx: rows(tx, "MATCH (s:PlanningStory {story_id: $story}) DELETE s", story=story))
    assert [row["p"] for row in found] == [{"story_id": story, "title": "theirs"}]
    assert not any("Planning" in statement for item in MIGRATIONS for statement in item.statements)


async def test_milestones_are_the_newest_that_the_scope_allows(store: Graph, unique: Callable[[str], str]) -> None:
    story, plan = unique("story"), unique("plan")
    told = [samples.transitioned(story, number, f"S{number}") for number in range(1, 4)]
    hidden = [samples.completed(story, plan, f"t{minute}", "DATA", minute=minute) for minute in range(1, 8)]
    seen = [samples.completed(story, plan, f"q{minute}", "QA", minute=-minute) for minute in range(1, 4)]
    await put(store, samples.plan_approved(story, plan, [samples.task("api")]), *told, *hidden, *seen)
    asked = samples.asked(story, plan, "api", "DEV", "test", 2000, [])
    scope = domain.Scope(kinds=("task", "story", "decision", "milestone"), affects=("QA",))
    for kinds, wanted in (
        (("task", "story", "decision", "milestone"), {one.message_id() for one in (*told, *seen[:2])}),
        (("task", "decision", "milestone"), {one.message_id() for one in seen}),
        (("task", "story", "decision"), set()),
    ):
        found = await reading.reader(store).facts(
            dataclasses.replace(asked, scope=msgspec.structs.replace(scope, kinds=kinds))
        )
        shown, left_out = blocks.candidates(
            dataclasses.replace(asked, scope=msgspec.structs.replace(scope, kinds=kinds)), found
        )
        assert {one.source_id for one in shown if one.kind == "milestone"} == wanted
        assert {(one.kind, one.reason) for one in left_out} >= {("milestone", "scope")}


async def test_an_event_that_an_earlier_release_recorded_is_known_when_it_comes_again(
    store: Graph, unique: Callable[[str], str]
) -> None:
    event = samples.completed(unique("story"), unique("plan"), "api")
    assert [one.new for one in await put(store, event, event)] == [True, False]
    for kept, same in ((whole(event), True), (whole("another content"), False)):
        keep = "MATCH (e:Event {event_id: $id}) SET e.fingerprint = $kept RETURN e"
        await store.ask(keep, id=event.message_id(), kept=kept)
        [again] = await put(store, event)
        assert (again.new, again.same) == (False, same)
