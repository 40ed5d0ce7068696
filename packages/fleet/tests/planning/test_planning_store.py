"""The contract of the store, on both graph databases and on its twin."""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import realparts
from planning_samples import NOON, plan, some_id, some_time, story, task

from fleet.bolt import Graph, rows
from fleet.planning import domain
from fleet.planning.domain import Plan, Story, StoryWithPlans
from fleet.planning.graph import GraphStore
from fleet.planning.memory import MemoryStore
from fleet.planning.store import Change, Outgoing, PlanStep, Store, StoryStep, outgoing, position
from fleet.settings import GraphSettings
from fleet_wire import events
from fleet_wire.errors import NotFound, Precondition


@pytest_asyncio.fixture(params=["memory", "embedded", "neo4j"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    server: realparts.GraphServer = request.getfixturevalue(request.param)
    graph = Graph(server.settings())
    kept = GraphStore(graph)
    await kept.prepare()
    yield kept
    for item in await kept.pending(10_000):
        await kept.forget(item.message_id)
    await graph.close()


def told(new: Story) -> Outgoing:
    return outgoing(domain.created_event(new), new.created_at)


async def kept_story(store: Store, now: dt.datetime = NOON, **changes: object) -> Story:
    new = story(now=now, **changes)
    return await store.create_story(new, told(new))


def approving(by: str) -> PlanStep:
    def step(current: Plan, of: StoryWithPlans) -> Change:
        approved = domain.approve(current, by, NOON)
        event = outgoing(domain.approved_event(approved), NOON)
        return Change(of.story, approved, domain.superseded(approved, of.plans), event)

    return step


async def test_a_story_comes_back_as_it_was_saved(store: Store) -> None:
    saved = await kept_story(
        store, now=some_time(), brief="“quotes” \\ and\nlines \x01", acceptance=["a", "b"], phase="test"
    )
    found = await store.story(saved.story_id)
    assert found is not None
    assert found.story == saved
    assert found.plans == ()
    assert await store.story(some_id("story")) is None


async def test_a_second_story_under_an_id_changes_nothing(store: Store) -> None:
    first = await kept_story(store)
    second = dataclasses.replace(first, title="Other")
    assert await store.create_story(second, told(second)) == first
    assert [item.message_id for item in await store.pending(1000)].count(told(first).message_id) == 1


async def test_a_story_and_its_event_are_saved_together(store: Store) -> None:
    saved = await kept_story(store)
    [item] = [item for item in await store.pending(1000) if item.message_id == told(saved).message_id]
    assert item == told(saved)
    assert item.event() == events.StoryCreated(story_id=saved.story_id, title=saved.title, brief=saved.brief)
    await store.forget(item.message_id)
    await store.forget(item.message_id)
    assert item.message_id not in [other.message_id for other in await store.pending(1000)]


async def test_events_are_pending_in_the_order_of_the_changes(store: Store) -> None:
    start = some_time()
    stories = [await kept_story(store, now=start + dt.timedelta(microseconds=n)) for n in (3, 1, 2)]
    wanted = [told(item).message_id for item in sorted(stories, key=position)]
    found = [item.message_id for item in await store.pending(1000)]
    assert [message_id for message_id in found if message_id in wanted] == wanted
    assert len(await store.pending(2)) == 2


async def test_a_plan_comes_back_as_it_was_saved(store: Store) -> None:
    of = await kept_story(store)
    last = task("t2", role="QA", depends_on=["t1"], protocol="tournament", numbers={"finalists": 3}, entry_point="f")
    tasks = [task(acceptance=["green"], budget=events.Budget(seconds=1.5)), last]
    saved = await store.propose_plan(plan(of=of, roles=["DEV", "QA"], tasks=tasks, budget=events.Budget(tokens=9)))
    assert await store.plan(saved.plan_id) == saved
    assert saved.version == 1
    assert await store.plan(some_id("plan")) is None


async def test_a_plan_that_was_saved_before_there_were_budgets_has_none(each_bolt: Graph) -> None:
    store = GraphStore(each_bolt)
    await store.prepare()
    of = await kept_story(store)
    saved = await store.propose_plan(plan(of=of, budget=events.Budget(tokens=9)))
    old = "MATCH (p:PlanningPlan {plan_id: $plan_id}) REMOVE p.budget"
    await each_bolt.write(lambda tx: rows(tx, old, plan_id=saved.plan_id))
    assert await store.plan(saved.plan_id) == dataclasses.replace(saved, budget=events.Budget())
    await store.forget(told(of).message_id)


async def test_a_plan_of_half_a_megabyte_comes_back_whole(store: Store) -> None:
    of = await kept_story(store)
    tasks = [task(f"t{n}", description="é" * 3_900) for n in range(64)]
    saved = await store.propose_plan(plan(of=of, tasks=tasks))
    assert await store.change_plan(saved.plan_id, approving("ana")) == await store.plan(saved.plan_id)
    [item] = [item for item in await store.pending(1000) if saved.plan_id in item.message_id]
    assert len(item.body.encode()) > 500_000
    assert item.event().key() == saved.plan_id


async def test_versions_count_the_plans_of_one_story(store: Store) -> None:
    one, other = await kept_story(store), await kept_story(store)
    first = await store.propose_plan(plan(of=one))
    second = await store.propose_plan(plan(of=one))
    again = await store.propose_plan(dataclasses.replace(first, roles=("QA",)))
    apart = await store.propose_plan(plan(of=other))
    assert (first.version, second.version, apart.version) == (1, 2, 1)
    assert again == first
    found = await store.story(one.story_id)
    assert found is not None
    assert [(item.plan_id, item.version, item.state) for item in found.plans] == [
        (first.plan_id, 1, "proposed"),
        (second.plan_id, 2, "proposed"),
    ]


async def test_versions_are_counted_once_each_under_concurrency(store: Store) -> None:
    of = await kept_story(store)
    saved = await asyncio.gather(*(store.propose_plan(plan(of=of)) for _ in range(8)))
    assert sorted(item.version for item in saved) == list(range(1, 9))


async def test_the_same_plan_proposed_at_once_is_one_plan(store: Store) -> None:
    new = plan(of=await kept_story(store))
    saved = await asyncio.gather(*(store.propose_plan(new) for _ in range(6)))
    assert len({item.version for item in saved}) == 1
    found = await store.story(new.story.story_id)
    assert found is not None
    assert len(found.plans) == 1


async def test_a_plan_needs_its_story(store: Store) -> None:
    new = plan()
    with pytest.raises(NotFound, match=new.story.story_id):
        await store.propose_plan(new)
    assert await store.plan(new.plan_id) is None


async def test_a_change_and_its_event_are_saved_together(store: Store) -> None:
    saved = await store.propose_plan(plan(of=await kept_story(store)))
    approved = await store.change_plan(saved.plan_id, approving("ana"))
    assert await store.plan(saved.plan_id) == approved
    assert approved.state == "approved"
    [item] = [item for item in await store.pending(1000) if saved.plan_id in item.message_id]
    assert item.event() == domain.approved_event(approved)


async def test_a_change_that_is_refused_saves_nothing(store: Store) -> None:
    saved = await store.propose_plan(plan(of=await kept_story(store)))

    def refuse(current: Plan, of: StoryWithPlans) -> Change:
        raise Precondition("no")

    with pytest.raises(Precondition, match="no"):
        await store.change_plan(saved.plan_id, refuse)
    assert await store.plan(saved.plan_id) == saved
    with pytest.raises(NotFound):
        await store.change_plan(some_id("plan"), refuse)


async def test_of_many_approvals_at_once_exactly_one_wins(store: Store) -> None:
    saved = await store.propose_plan(plan(of=await kept_story(store)))
    answers = await asyncio.gather(
        *(store.change_plan(saved.plan_id, approving(f"person {n}")) for n in range(8)), return_exceptions=True
    )
    won = [answer for answer in answers if isinstance(answer, Plan)]
    assert len(won) == 1
    assert sum(isinstance(answer, Precondition) for answer in answers) == 7
    assert await store.plan(saved.plan_id) == won[0]
    [item] = [item for item in await store.pending(1000) if saved.plan_id in item.message_id]
    assert item.event() == domain.approved_event(won[0])


async def test_of_two_plans_of_a_story_approved_at_once_one_wins(store: Store) -> None:
    of = await kept_story(store)
    plans = [await store.propose_plan(plan(of=of)) for _ in range(4)]
    answers = await asyncio.gather(
        *(store.change_plan(item.plan_id, approving("ana")) for item in plans), return_exceptions=True
    )
    [won] = [answer for answer in answers if isinstance(answer, Plan)]
    told = [str(answer) for answer in answers if isinstance(answer, Precondition)]
    assert len(told) == 3
    assert all(f"is superseded, not proposed: {won.plan_id} was approved in its place" in words for words in told)
    found = await store.story(of.story_id)
    assert found is not None
    assert sorted(item.state for item in found.plans) == ["approved", *["superseded"] * 3]
    for item in plans:
        kept = await store.plan(item.plan_id)
        assert kept is not None
        assert kept.superseded_by == ("" if kept.plan_id == won.plan_id else won.plan_id)
        assert kept.content == item.content
    approvals = [item for item in await store.pending(1000) if "plan.approved" in item.message_id]
    assert [item.event() for item in approvals if of.story_id == item.story_id] == [domain.approved_event(won)]


async def test_an_approval_supersedes_the_plan_that_was_approved_before(store: Store) -> None:
    of = await kept_story(store)
    first, second = [await store.propose_plan(plan(of=of)) for _ in range(2)]
    await store.change_plan(second.plan_id, approving("ana"))
    third = await store.propose_plan(plan(of=of))
    await store.change_plan(third.plan_id, approving("ben"))
    found = await store.story(of.story_id)
    assert found is not None
    assert [(item.version, item.state) for item in found.plans] == [
        (1, "superseded"),
        (2, "superseded"),
        (3, "approved"),
    ]
    before = [await store.plan(item.plan_id) for item in (first, second)]
    assert [(item.superseded_by, item.decided_by) for item in before if item] == [
        (second.plan_id, ""),
        (third.plan_id, "ana"),
    ]


def drafting(actor: str) -> StoryStep:
    """Starts the draft, under an id of its own."""

    def step(whole: StoryWithPlans) -> tuple[Story, domain.Transitioned, Outgoing]:
        moved, record = domain.transition(whole, f"transition-{actor}", "start_draft", actor, "", NOON)
        return moved, record, outgoing(domain.transitioned_event(record), record.transitioned_at)

    return step


async def test_a_transition_and_its_event_are_saved_together_once(store: Store) -> None:
    saved, actor = await kept_story(store), some_id("person")
    record = await store.transition_story(saved.story_id, f"transition-{actor}", drafting(actor))
    again = await store.transition_story(saved.story_id, f"transition-{actor}", drafting(actor))
    assert again == record
    found = await store.story(saved.story_id)
    assert found is not None
    assert found.transitions == (record,)
    assert (found.story.state, found.story.version, found.story.changed_at) == ("DRAFT", 1, record.transitioned_at)
    mine = [item for item in await store.pending(1000) if item.story_id == saved.story_id]
    assert [item.event() for item in mine] == [domain.created_event(saved), domain.transitioned_event(record)]
    with pytest.raises(NotFound):
        await store.transition_story(some_id("story"), "transition-9", drafting(actor))


async def test_of_many_transitions_at_once_exactly_one_wins(store: Store) -> None:
    saved = await kept_story(store)
    people = [some_id("person") for _ in range(8)]
    answers = await asyncio.gather(
        *(store.transition_story(saved.story_id, f"transition-{who}", drafting(who)) for who in people),
        return_exceptions=True,
    )
    [won] = [answer for answer in answers if isinstance(answer, domain.Transitioned)]
    told = [str(answer) for answer in answers if isinstance(answer, Precondition)]
    assert len(told) == 7
    assert all("is in DRAFT, where start_draft is not allowed; allowed: approve_scope" in words for words in told)
    found = await store.story(saved.story_id)
    assert found is not None
    assert found.transitions == (won,)


async def test_stories_can_be_asked_for_by_their_state(store: Store) -> None:
    start = some_time()
    first, second = [await kept_story(store, now=start + dt.timedelta(microseconds=n)) for n in range(2)]
    actor = some_id("person")
    await store.transition_story(first.story_id, f"transition-{actor}", drafting(actor))
    after = position(story(now=start + dt.timedelta(seconds=1), story_id="x"))
    assert [item.story.story_id for item in await store.stories(1, after, state="DRAFT")] == [first.story_id]
    assert [item.story.story_id for item in await store.stories(1, after, state="BACKLOG")] == [second.story_id]


async def test_a_story_that_was_saved_before_there_were_states_is_in_the_backlog(graph_settings: GraphSettings) -> None:
    graph = Graph(graph_settings)
    store = GraphStore(graph)
    await store.prepare()
    saved = await kept_story(store, now=some_time())
    old = "MATCH (s:PlanningStory {story_id: $story_id}) REMOVE s.state, s.version, s.changed_at"
    await graph.write(lambda tx: rows(tx, old, story_id=saved.story_id))
    found = await store.story(saved.story_id)
    assert found is not None
    assert found.story == saved
    listed = await store.stories(1, position(saved) + "~", state="BACKLOG")
    assert [item.story for item in listed] == [saved]
    actor = some_id("person")
    moved = await store.transition_story(saved.story_id, f"transition-{actor}", drafting(actor))
    assert moved.version == 1
    for item in await store.pending(1000):
        await store.forget(item.message_id)
    await graph.close()


async def test_of_many_rejections_at_once_exactly_one_wins(store: Store) -> None:
    """No event goes with one, so that nothing but the plan's own lock can tell the others."""
    saved = await store.propose_plan(plan(of=await kept_story(store)))

    def rejecting(by: str) -> PlanStep:
        return lambda current, of: Change(of.story, domain.reject(current, by, "no", NOON))

    await asyncio.gather(*(store.plan(saved.plan_id) for _ in range(8)))  # opens the connections
    answers = await asyncio.gather(
        *(store.change_plan(saved.plan_id, rejecting(f"person {n}")) for n in range(8)), return_exceptions=True
    )
    won = [answer for answer in answers if isinstance(answer, Plan)]
    assert len(won) == 1
    assert sum(isinstance(answer, Precondition) for answer in answers) == 7
    assert await store.plan(saved.plan_id) == won[0]


async def test_stories_come_newest_first_and_page_by_page(store: Store) -> None:
    start = some_time()
    stories = [await kept_story(store, now=start + dt.timedelta(microseconds=n // 2)) for n in range(6)]
    wanted = sorted(stories, key=position, reverse=True)
    after = position(story(now=start + dt.timedelta(seconds=1), story_id="x"))
    first = await store.stories(4, after)
    assert [item.story for item in first] == wanted[:4]
    second = await store.stories(2, position(first[-1].story))
    assert [item.story for item in second] == wanted[4:]


async def test_stories_can_be_asked_for_by_the_state_of_a_plan(store: Store) -> None:
    start = some_time()
    with_two, with_one, without = [await kept_story(store, now=start + dt.timedelta(microseconds=n)) for n in range(3)]
    two = [await store.propose_plan(plan(of=with_two)) for _ in range(2)]
    await store.propose_plan(plan(of=with_one))
    await store.change_plan(two[1].plan_id, approving("ana"))
    after = position(story(now=start + dt.timedelta(seconds=1), story_id="x"))
    mine = {with_two.story_id, with_one.story_id, without.story_id}

    async def ids(state: domain.PlanState) -> list[str]:
        found = [item.story.story_id for item in await store.stories(100, after, state)]
        return [story_id for story_id in found if story_id in mine]

    assert await ids("approved") == [with_two.story_id]
    assert await ids("proposed") == [with_one.story_id]
    assert await ids("superseded") == [with_two.story_id]
    assert await ids("completed") == []


async def test_planning_writes_no_nodes_but_its_own(each_bolt: Graph) -> None:
    kept = GraphStore(each_bolt)
    await kept.prepare()
    saved = await kept.propose_plan(plan(of=await kept_story(kept)))
    await kept.change_plan(saved.plan_id, approving("ana"))
    story_id, actor = saved.story.story_id, some_id("person")
    await kept.transition_story(story_id, f"transition-{actor}", drafting(actor))

    async def labels(tx: object) -> list[dict[str, object]]:
        query = (
            "MATCH (n) WHERE n.story_id = $story_id OR n.plan_id = $plan_id OR n.message_id CONTAINS $plan_id "
            "RETURN DISTINCT labels(n) AS labels"
        )
        return await rows(tx, query, story_id=story_id, plan_id=saved.plan_id)  # type: ignore[arg-type]

    found = {tuple(row["labels"]) for row in await each_bolt.read(labels)}
    assert found == {("PlanningStory",), ("PlanningPlan",), ("PlanningTransition",), ("PlanningOutbox",)}
