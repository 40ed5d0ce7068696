"""What stands around a decision, on real graph servers."""

from collections.abc import Callable

import context_samples as samples
import pytest
import pytest_asyncio

from fleet.bolt import Graph
from fleet.context import explaining, projection, related
from fleet.context import graph as memory
from fleet.context.migrations import MIGRATIONS
from fleet.context.rulings import Ruling, rule
from fleet.migrations import migrate
from fleet_wire import events


@pytest_asyncio.fixture
async def store(each_bolt: Graph) -> Graph:
    await migrate(each_bolt, "context", MIGRATIONS)
    return each_bolt


async def put(store: Graph, *arriving: events.Event) -> None:
    for event in arriving:
        story = getattr(event, "story_id", "")
        await memory.record(store, [projection.arriving(event, story, "b", samples.NOW)])


async def test_a_decision_is_explained_with_what_it_stands_on_and_what_stands_on_it(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, plan, further = unique("story"), unique("plan"), unique("story")
    arch = samples.completed(story, plan, "arch", "ARCHITECT")
    api = samples.completed(story, plan, "api", minute=1, based_on=[arch.decision_id])
    both = [arch.decision_id, api.decision_id]
    test = samples.completed(story, plan, "test", "QA", minute=2, based_on=both)
    docs = samples.completed(story, plan, "docs", minute=3, based_on=[test.decision_id])
    await put(store, samples.story_created(further), docs, arch, api, test)
    about = {"by": "ada", "reason": "too slow", "at": samples.NOW, "title": "No", "content": "Use bcrypt."}
    ruled = await rule(store, Ruling(unique("r"), "override", **about, decision_id=arch.decision_id))  # type: ignore[arg-type]
    again = await rule(store, Ruling(unique("r"), "override", **about, decision_id=ruled.decision_id))  # type: ignore[arg-type]
    await rule(store, Ruling(unique("r"), "affects", **about, decision_id=api.decision_id, story_id=further))  # type: ignore[arg-type]

    found = (await explaining.explain(store, arch.decision_id)).related
    assert [(one.decision_id, one.through) for one in found.dependents] == [
        (api.decision_id, arch.decision_id),
        (test.decision_id, arch.decision_id),
        (docs.decision_id, test.decision_id),
    ]
    assert not found.dependents_cut and found.bases == () and found.supersedes == ()
    assert [(one.decision_id, one.through, one.decided_by) for one in found.superseded_by] == [
        (ruled.decision_id, arch.decision_id, "ada"),
        (again.decision_id, ruled.decision_id, "ada"),
    ]
    found = (await explaining.explain(store, api.decision_id)).related
    assert [(one.decision_id, one.title, one.superseded_by) for one in found.bases] == [
        (arch.decision_id, "Decision on arch", ruled.decision_id)
    ]
    assert found.affects == tuple(sorted((story, further)))
    explained = await explaining.explain(store, again.decision_id)
    assert [one.decision_id for one in explained.related.supersedes] == [ruled.decision_id]
    assert (explained.decision.kind, explained.decision.decided_by) == ("override", "ada")


async def test_what_a_person_bound_is_named(store: Graph, unique: Callable[[str], str]) -> None:
    story, plan = unique("story"), unique("plan")
    await put(store, samples.plan_approved(story, plan, [samples.task("api")]))
    about = {"by": "ada", "reason": "law", "at": samples.NOW, "title": "EU only", "content": "Data stay in the EU."}
    task = {"story_id": story, "plan_id": plan, "task_id": "api"}
    ruled = await rule(store, Ruling(unique("r"), "constraint", **about, **task))  # type: ignore[arg-type]
    found = (await explaining.explain(store, ruled.decision_id)).related
    assert (found.constrains, found.affects) == ((f"{plan}/api",), (story,))


async def test_dependents_are_the_nearest_ones_where_there_are_too_many(
    store: Graph, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(related, "MOST_DEPENDENTS", 2)
    story, plan = unique("story"), unique("plan")
    made = [samples.completed(story, plan, "t0")]
    for number in range(1, 5):
        made.append(samples.completed(story, plan, f"t{number}", minute=number, based_on=[made[-1].decision_id]))
    await put(store, *made)
    found = (await explaining.explain(store, made[0].decision_id)).related
    assert [one.decision_id for one in found.dependents] == [event.decision_id for event in made[1:3]]
    assert found.dependents_cut
