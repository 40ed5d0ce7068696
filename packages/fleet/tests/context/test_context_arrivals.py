"""A plan that has come and is not in the graph yet: what a task's council sees of it is what it sees once it is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import context_samples as samples
import msgspec
import pytest
import pytest_asyncio

from fleet.bolt import Graph
from fleet.context import domain, graph, handlers, reading
from fleet.context.arrivals import Arrivals
from fleet.context.cache import ContextCache
from fleet.context.migrations import MIGRATIONS
from fleet.context.tokenizer import Tokenizer
from fleet.migrations import migrate
from fleet_wire import events
from fleet_wire.errors import Invalid, NotFound, Unavailable
from fleet_wire.gen.context.v1 import context_pb2

NO_TOKENIZER = Tokenizer(None)


@pytest_asyncio.fixture
async def store(each_bolt: Graph) -> AsyncIterator[Graph]:
    await migrate(each_bolt, "context", MIGRATIONS)
    yield each_bolt


@pytest_asyncio.fixture
async def cache(valkey_url: str) -> AsyncIterator[ContextCache]:
    held = ContextCache(valkey_url)
    yield held
    await held.close()


async def seen(
    store: Graph, arrivals: Arrivals, cache: ContextCache, request: domain.ContextRequest
) -> context_pb2.GetContextResponse:
    answer, from_cache = await handlers.get_context(request, reading.reader(store, arrivals), cache, NO_TOKENIZER)
    assert not from_cache
    return answer


def planned(story: str, plan: str, **changes: object) -> events.PlanApproved:
    tasks = [samples.task("arch", role="ARCHITECT"), samples.task("api", depends_on=["arch"])]
    return samples.plan_approved(story, plan, tasks, **changes)


def retold(event: events.PlanApproved, title: str) -> events.PlanApproved:
    """The plan with another text of its story."""
    return msgspec.structs.replace(event, story=events.StoryText(title=title, brief="Anew."))


async def same_before_and_after(
    store: Graph, cache: ContextCache, event: events.PlanApproved, roles: Sequence[str] = ("DEV", "QA", "ARCHITECT")
) -> None:
    arrivals, arriving = Arrivals(), samples.arriving(event)
    requests = [samples.asked(event.story_id, event.plan_id, "api", role, "build", 2000, []) for role in roles]
    with arrivals.held(arriving):
        before = [await seen(store, arrivals, cache, request) for request in requests]
    await graph.record(store, [arriving])
    for request, early in zip(requests, before, strict=True):
        late = await seen(store, arrivals, cache, request)
        assert list(early.blocks) == list(late.blocks)
        assert list(early.left_out) == list(late.left_out)
        assert early.tokens == late.tokens
        assert any(block.kind == "plan" for block in late.blocks) or request.role == "QA"


async def test_the_first_plan_of_a_story_is_seen_as_it_will_be(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    await same_before_and_after(store, cache, planned(unique("story"), unique("plan")))


async def test_a_later_plan_is_seen_with_all_that_the_story_has(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    story, before = unique("story"), unique("plan")
    decided = samples.completed(story, before, "arch", "ARCHITECT")
    for event in (
        samples.story_created(story),
        samples.transitioned(story, 1, "DRAFT"),
        planned(story, before),
        decided,
    ):
        await graph.record(store, [samples.arriving(event)])
    for minute in range(1, 7):  # more than a context tells of
        await graph.record(store, [samples.arriving(samples.completed(story, before, f"t{minute}", minute=minute))])
    newer = planned(story, unique("plan"), plan_version=2, approved_at=samples.NOW.replace(hour=13))
    newer = retold(newer, "Login again")
    await same_before_and_after(store, cache, newer)


async def test_an_older_plan_that_comes_late_does_not_bring_its_text_back(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    story = unique("story")
    await graph.record(store, [samples.arriving(planned(story, unique("plan"), plan_version=3))])
    await same_before_and_after(store, cache, retold(planned(story, unique("plan")), "An old title"))


async def test_what_is_not_being_written_is_waited_for(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    arrivals, request = Arrivals(), samples.asked(story, plan, "api", "DEV", "build", 2000, [])
    decided = samples.arriving(samples.completed(story, plan, "api"))
    with arrivals.held(decided), pytest.raises(Unavailable, match="is not in the graph yet"):
        await seen(store, arrivals, cache, request)
    with arrivals.held(samples.arriving(planned(story, plan))):
        pass
    with pytest.raises(Unavailable, match="is not in the graph yet"):
        await seen(store, arrivals, cache, request)


async def test_a_required_decision_is_waited_for_all_the_same(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    decided = samples.completed(story, plan, "arch", "ARCHITECT")
    arrivals = Arrivals()
    request = samples.asked(story, plan, "api", "DEV", "build", 2000, [decided.decision_id])
    with arrivals.held(samples.arriving(planned(story, plan))):
        with pytest.raises(Unavailable, match=decided.decision_id):
            await seen(store, arrivals, cache, request)
        await graph.record(store, [samples.arriving(decided)])  # it overtook its plan
        answer = await seen(store, arrivals, cache, request)
    assert decided.decision_id in [block.source_id for block in answer.blocks]


async def test_a_task_or_a_story_that_the_plan_does_not_have_is_refused(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    arrivals = Arrivals()
    with arrivals.held(samples.arriving(planned(story, plan))):
        with pytest.raises(NotFound, match="has no task other"):
            await seen(store, arrivals, cache, samples.asked(story, plan, "other", "DEV", "build", 2000, []))
        with pytest.raises(Invalid, match=f"belongs to story {story}"):
            await seen(store, arrivals, cache, samples.asked(unique("story"), plan, "api", "DEV", "build", 2000, []))


async def test_what_is_seen_early_is_not_kept(store: Graph, cache: ContextCache, unique: Callable[[str], str]) -> None:
    story, plan = unique("story"), unique("plan")
    await graph.record(store, [samples.arriving(samples.story_created(story))])
    arrivals, request = Arrivals(), samples.asked(story, plan, "api", "DEV", "build", 2000, [])
    with arrivals.held(samples.arriving(planned(story, plan))):
        await seen(store, arrivals, cache, request)
        await seen(store, arrivals, cache, request)
    with pytest.raises(Unavailable):
        await seen(store, arrivals, cache, request)


async def test_a_plan_is_shown_from_its_coming_to_the_end_of_its_writing(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    arrivals = Arrivals()
    recorder = handlers.recorder(store, arrivals)

    async def publish(update: events.Event) -> None:
        assert arrivals.of(plan) is None

    writing = asyncio.create_task(handlers.remember(planned(story, plan), recorder, cache, publish))
    await asyncio.sleep(0)
    assert arrivals.of(plan) is not None
    await writing
    assert arrivals.of(plan) is None


async def test_a_plan_rests_while_contexts_are_asked_for_and_nothing_else_does(
    store: Graph, cache: ContextCache, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "PLAN_RESTS_SECONDS", 3600.0)
    story, plan = unique("story"), unique("plan")
    arrivals, request = Arrivals(), samples.asked(story, plan, "api", "DEV", "build", 2000, [])
    recorder = handlers.recorder(store, arrivals)

    async def publish(update: events.Event) -> None:
        assert isinstance(update, events.ContextUpdated)
        assert update.plan_id == ""

    writing = asyncio.create_task(handlers.remember(planned(story, plan), recorder, cache, publish))
    await asyncio.sleep(0)
    await asyncio.wait_for(handlers.remember(samples.story_created(story), recorder, cache, publish), 20)
    assert any(block.kind == "plan" for block in (await seen(store, arrivals, cache, request)).blocks)
    with pytest.raises(Unavailable, match="is not in the graph yet"):
        await seen(store, Arrivals(), cache, request)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert arrivals.of(plan) is None


def test_of_two_contents_of_a_plan_the_first_is_shown() -> None:
    first, second = samples.arriving(planned("s", "p")), samples.arriving(planned("s", "p", approved_by="bob"))
    arrivals = Arrivals()
    with arrivals.held(first):
        with arrivals.held(second):
            assert arrivals.of("p") is first
        assert arrivals.of("p") is first
    assert arrivals.of("p") is None
