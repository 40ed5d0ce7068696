"""UpdateContext on a real graph, Valkey and NATS: each change by itself, each request once."""

import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Callable

import context_samples as samples
import pytest
import pytest_asyncio

from fleet.bolt import Graph, rows
from fleet.context import graph as memory
from fleet.context import handlers, reading, updating
from fleet.context.cache import ContextCache
from fleet.context.changes import (
    Affects,
    Change,
    Constraint,
    Milestone,
    Nothing,
    Override,
    Result,
    Summary,
    Version,
    check_request,
)
from fleet.context.migrations import MIGRATIONS
from fleet.migrations import migrate
from fleet_wire import events
from fleet_wire.errors import AlreadyExists, Invalid, Unavailable

NOW = samples.NOW + dt.timedelta(hours=1)


@dataclasses.dataclass
class World:
    """A graph in which the plan's `test` relies on its `api`, a cache, and what was published."""

    graph: Graph
    cache: ContextCache
    story: str
    plan: str
    api: events.DeliberationCompleted
    test: events.DeliberationCompleted
    published: list[events.ContextUpdated] = dataclasses.field(default_factory=list)
    nats_away: bool = False

    async def publish(self, event: events.Event) -> None:
        if self.nats_away:
            raise Unavailable("NATS is away")
        assert isinstance(event, events.ContextUpdated)
        self.published.append(event)

    async def ask(self, request_id: str, *asked: Change, actor: str = "ada") -> tuple[Result, ...]:
        """As the server does."""
        check_request(request_id, actor, asked)
        return await updating.update(request_id, actor, asked, self.graph, self.cache, self.publish, NOW)

    async def nodes(self) -> list[dict[str, object]]:
        """All that the graph holds of the story, but for what a request itself leaves."""
        query = """
        MATCH (n) WHERE n.story_id = $story OR n.decision_id IN $decisions
        RETURN n ORDER BY coalesce(n.event_id, n.decision_id, n.plan_id, n.story_id)"""
        decisions = [self.api.decision_id, self.test.decision_id]
        found = await self.graph.ask(query, story=self.story, decisions=decisions)
        return [row["n"] for row in found]

    def override(self, **more: str) -> Override:
        told = {"decision_id": self.api.decision_id, "title": "bcrypt", "content": "Use bcrypt.", "reason": "audit"}
        return Override(**{**told, **more})


@pytest_asyncio.fixture
async def world(bolt: Graph, valkey_url: str, unique: Callable[[str], str]) -> AsyncIterator[World]:
    await migrate(bolt, "context", MIGRATIONS)
    story, plan = unique("story"), unique("plan")
    api = samples.completed(story, plan, "api")
    test = samples.completed(story, plan, "test", role="QA", minute=1, based_on=[api.decision_id])
    tasks = [samples.task("api"), samples.task("test", role="QA", depends_on=["api"])]
    for event in (samples.story_created(story), samples.plan_approved(story, plan, tasks), api, test):
        await memory.record(bolt, [samples.arriving(event)])
    cache = ContextCache(valkey_url)
    yield World(bolt, cache, story, plan, api, test)
    await cache.close()


async def test_an_override_supersedes_and_flags_and_tells_of_both(world: World, unique: Callable[[str], str]) -> None:
    [result] = await world.ask(unique("r"), world.override())
    assert result.applied and result.id.startswith("dec-")
    assert (result.superseded, result.flagged) == ((world.api.decision_id,), (world.test.decision_id,))
    assert [(one.story_id, one.version) for one in result.stories] == [(world.story, 5)]
    [told] = world.published
    assert (told.story_id, told.plan_id, told.deliberation_id, told.version) == (world.story, world.plan, "", 5)
    assert (told.superseded, told.flagged) == ([world.api.decision_id], [world.test.decision_id])
    assert {result.id, world.api.decision_id, world.test.decision_id, world.story} == set(told.changed)


async def test_each_story_is_told_of_its_own_flagged_decisions_and_the_first_of_those_that_affect_none(
    world: World, unique: Callable[[str], str]
) -> None:
    far = samples.completed(unique("story"), unique("plan"), "ui", based_on=[world.api.decision_id])
    adhoc = samples.completed("", "", unique("adhoc"), based_on=[world.api.decision_id])
    for event in (far, adhoc):
        await memory.record(world.graph, [samples.arriving(event)])
    both = Affects(decision_id=world.test.decision_id, story_id=far.story_id, reason="both")
    request = unique("r")
    for _ in range(2):
        world.published.clear()
        await world.ask(request, both, world.override())
        _, own, other = world.published
        assert (own.story_id, set(own.flagged)) == (world.story, {world.test.decision_id, adhoc.decision_id})
        assert (other.story_id, set(other.flagged)) == (far.story_id, {world.test.decision_id, far.decision_id})
        assert far.decision_id not in own.changed and own.superseded == other.superseded == [world.api.decision_id]


async def test_very_many_flags_are_told_of_in_several_events_that_fit(world: World) -> None:
    flagged = tuple(f"dec-{number:060d}" for number in range(9000))
    result = Result(id="dec-new", superseded=("dec-old",), flagged=flagged, stories=(Version(world.story, 5),))
    await updating._tell(result, world.cache, world.publish)
    assert [name for told in world.published for name in told.flagged] == list(flagged)
    assert len({told.message_id() for told in world.published}) == len(world.published)
    assert max(len(events.encode(told)) for told in world.published) < events.MAX_MESSAGE_BYTES / 2
    assert all(told.superseded == ["dec-old"] and "dec-new" in told.changed for told in world.published)


async def test_each_change_is_answered_by_itself(world: World, unique: Callable[[str], str]) -> None:
    bound = Constraint(
        story_id=world.story, plan_id="", task_id="", title="Frozen", text="No tables.", reason="release"
    )
    results = await world.ask(
        unique("r"),
        world.override(title=""),
        Summary(story_id=world.story, text="Half done."),
        world.override(decision_id="dec-none"),
        bound,
        Nothing(),
        world.override(),
        world.override(),
        Affects(decision_id=world.test.decision_id, story_id=unique("nowhere"), reason="both"),
        Milestone(story_id=world.story, text="Store chosen."),
    )
    assert [one.code or "applied" for one in results] == [
        "invalid",
        "applied",
        "not_found",
        "applied",
        "invalid",
        "applied",
        "precondition",
        "not_found",
        "applied",
    ]
    assert results[0].message == "title must not be empty"
    assert f"superseded by {results[5].id}" in results[6].message
    assert [one.stories[0].version for one in results if one.applied] == [5, 6, 7, 8]
    assert [told.version for told in world.published] == [5, 6, 7, 8]


async def test_the_same_request_again_answers_and_publishes_the_same_and_writes_nothing(
    world: World, unique: Callable[[str], str]
) -> None:
    request, late = unique("r"), unique("late")
    asked = (
        world.override(),
        Summary(story_id=world.story, text="Half done."),
        Affects(decision_id=world.test.decision_id, story_id=late, reason="both"),
    )
    first = await world.ask(request, *asked)
    assert [one.code for one in first] == ["", "", "not_found"]
    await memory.record(world.graph, [samples.arriving(samples.story_created(late))])
    before, told = await world.nodes(), [event.message_id() for event in world.published]
    world.published.clear()
    assert await world.ask(request, *asked) == first
    assert await world.nodes() == before
    assert [event.message_id() for event in world.published] == told


async def test_another_content_under_a_known_request_is_refused_and_writes_nothing(
    world: World, unique: Callable[[str], str]
) -> None:
    request = unique("r")
    await world.ask(request, Summary(story_id=world.story, text="Half done."))
    before = await world.nodes()
    with pytest.raises(AlreadyExists, match=f"request_id {request} "):
        await world.ask(request, Summary(story_id=world.story, text="All done."))
    with pytest.raises(AlreadyExists):
        await world.ask(request, Summary(story_id=world.story, text="Half done."), actor="bob")
    assert await world.nodes() == before


async def test_an_outage_between_two_changes_is_made_good_by_the_same_request(
    world: World, unique: Callable[[str], str]
) -> None:
    request = unique("r")
    asked = (
        Milestone(story_id=world.story, text="One."),
        world.override(),
        Milestone(story_id=world.story, text="Two."),
    )
    world.nats_away = True
    with pytest.raises(Unavailable):
        await world.ask(request, *asked)
    world.nats_away = False
    results = await world.ask(request, *asked)
    assert [one.stories[0].version for one in results] == [5, 6, 7]
    assert [told.version for told in world.published] == [5, 6, 7]
    query = """
    MATCH (e:Event {story_id: $story, kind: 'context.milestone'})
    RETURN e.text AS text, e.summary AS line ORDER BY e.version"""
    found = await world.graph.ask(query, story=world.story)
    assert [(row["text"], row["line"]) for row in found] == [
        ("One.", "milestone by ada: One."),
        ("Two.", "milestone by ada: Two."),
    ]


async def test_every_story_that_a_ruling_concerns_is_told_of_it(world: World, unique: Callable[[str], str]) -> None:
    other = unique("story")
    await memory.record(world.graph, [samples.arriving(samples.story_created(other))])
    await world.ask(unique("r"), Affects(decision_id=world.api.decision_id, story_id=other, reason="shared store"))
    world.published.clear()
    [result] = await world.ask(unique("r"), world.override())
    assert [one.story_id for one in result.stories] == [world.story, other]
    assert [(told.story_id, told.plan_id) for told in world.published] == [(world.story, world.plan), (other, "")]
    assert all(told.superseded == [world.api.decision_id] for told in world.published)
    assert len({told.message_id() for told in world.published}) == 2


async def test_a_decision_that_arrives_on_superseded_ground_is_told_of_as_flagged_also_when_it_comes_again(
    world: World, unique: Callable[[str], str]
) -> None:
    await world.ask(unique("r"), world.override())
    world.published.clear()
    late = samples.completed(world.story, world.plan, "late", minute=2, based_on=[world.test.decision_id])
    record = handlers.recorder(world.graph)
    for _ in range(2):
        await handlers.remember(late, record, world.cache, world.publish)
    first, again = world.published
    assert first == again
    assert (first.superseded, first.flagged) == ([world.api.decision_id], [late.decision_id])


async def test_no_secret_enters_the_graph_and_no_agent_rules(world: World, unique: Callable[[str], str]) -> None:
    secret = "password: Hunter2-zq8"
    [made, noted] = await world.ask(
        unique("r"), world.override(content=secret, reason=secret), Summary(story_id=world.story, text=secret)
    )
    assert made.applied and noted.applied
    query = "MATCH (n) WHERE n.decision_id = $id OR n.story_id = $story RETURN n"
    found = await world.graph.ask(query, id=made.id, story=world.story)
    assert "Hunter2" not in str(found)
    [refused] = await world.ask(unique("r"), world.override(decision_id=made.id), actor="agent-DEV-001")
    assert (refused.code, refused.message.split()[0]) == ("invalid", "actor")


async def test_a_request_that_cannot_be_looked_at_is_refused_whole(world: World, unique: Callable[[str], str]) -> None:
    with pytest.raises(Invalid, match=r"^changes "):
        await world.ask(unique("r"))
    with pytest.raises(Invalid, match=r"^actor "):
        await world.ask(unique("r"), Summary(story_id=world.story, text="x"), actor="")
    with pytest.raises(Invalid, match=r"^request_id "):
        await world.ask("a b", Summary(story_id=world.story, text="x"))
    found = await world.graph.read(
        lambda tx: rows(tx, "MATCH (s:Story {story_id: $id}) RETURN s.version AS v", id=world.story)
    )
    assert found == [{"v": 4}]


async def test_a_decision_made_again_supersedes_the_earlier_try_flags_and_tells_each_story_also_when_it_comes_again(
    world: World, unique: Callable[[str], str]
) -> None:
    far = samples.completed(unique("story"), unique("plan"), "ui", based_on=[world.api.decision_id])
    await memory.record(world.graph, [samples.arriving(far)])
    again = samples.completed(world.story, world.plan, "api", number=3, minute=5)
    record = handlers.recorder(world.graph)
    await handlers.remember(again, record, world.cache, world.publish)
    told, other = world.published
    assert (told.story_id, told.version, told.deliberation_id) == (world.story, 5, again.deliberation_id)
    assert (other.story_id, other.version, other.deliberation_id) == (far.story_id, 2, "")
    for update in (told, other):
        assert update.superseded == [world.api.decision_id]
    assert (told.flagged, other.flagged) == ([world.test.decision_id], [far.decision_id])
    await handlers.remember(again, record, world.cache, world.publish)
    assert world.published[2:] == [told, other]
    wanted = samples.asked(world.story, world.plan, "test", "QA", "build", 4000, [])
    facts = await reading.reader(world.graph).facts(wanted)
    assert {one.decision_id for one in facts.depended_on} == {again.decision_id}
    assert world.api.decision_id not in {one.decision_id for one in facts.affecting}


async def test_a_base_on_superseded_ground_that_comes_late_tells_the_stories_of_what_depends_on_it(
    world: World, unique: Callable[[str], str]
) -> None:
    await world.ask(unique("r"), world.override())
    world.published.clear()
    late = samples.completed(world.story, world.plan, "ui", based_on=[world.api.decision_id])
    far = samples.completed(unique("story"), unique("plan"), "docs", based_on=[late.decision_id])
    record = handlers.recorder(world.graph)
    for event in (far, late):
        await handlers.remember(event, record, world.cache, world.publish)
    _, own, other = world.published
    assert (own.story_id, own.version, own.flagged) == (world.story, 6, [late.decision_id])
    assert (other.story_id, other.version) == (far.story_id, 2)
    assert (other.superseded, other.flagged) == ([world.api.decision_id], [far.decision_id])
