"""The memory out of one graph database and into another, on real servers, the embedded one and Neo4j."""

import datetime as dt
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import realparts

from fleet.bolt import Graph, rows
from fleet.context import graph as memory
from fleet.context import projection
from fleet.graphfile import exporting, form, importing
from fleet.migrations import migrate
from fleet.planning.domain import new_story
from fleet.planning.graph import GraphStore
from fleet.planning.store import Outgoing
from fleet_wire import events, ids
from fleet_wire.errors import Conflict, Invalid, Precondition, Unavailable

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


MOVED = events.StoryTransitioned(
    story_id="story-1",
    from_state="BACKLOG",
    to_state="DRAFT",
    actor="ada",
    version=1,
    event="start_draft",
    transitioned_at=NOW,
)


@pytest_asyncio.fixture
async def on_embedded(empty_graph: realparts.GraphServer) -> AsyncIterator[Graph]:
    graph = Graph(empty_graph.settings())
    yield graph
    await graph.close()


@pytest_asyncio.fixture
async def on_neo4j(empty_neo4j: realparts.GraphServer) -> AsyncIterator[Graph]:
    graph = Graph(empty_neo4j.settings())
    yield graph
    await graph.close()


@pytest.fixture(params=["on_embedded", "on_neo4j"])
def each(request: pytest.FixtureRequest) -> Graph:
    found: Graph = request.getfixturevalue(request.param)
    return found


async def clear(graph: Graph) -> None:
    """What was migrated stays so: with few nodes it is most of the time."""
    await graph.write(lambda tx: rows(tx, "MATCH (n) WHERE NOT n:Migration DETACH DELETE n"))


def decided(story: str, plan: str, task: str, role: str = "DEV", **changes: Any) -> events.DeliberationCompleted:
    deliberation = ids.deliberation_id(plan or "adhoc", task, 1)
    agents = [ids.agent_id(role, 1), ids.agent_id(role, 2)]
    check = events.Check(name="parses", status="passed", score=1.0)
    return events.DeliberationCompleted(
        **{
            "deliberation_id": deliberation,
            "task_id": task,
            "plan_id": plan,
            "story_id": story,
            "decision_id": ids.decision_id(deliberation),
            "role": role,
            "protocol": "vote",
            "winner": agents[0],
            "decision": events.DecisionText(
                title=f"On {task}", content="naïve 東京 \u2028 'x' \\ \"y\"\n", rationale=""
            ),
            "ranking": [
                events.Ranked(agent_id=agents[0], rank=1, score=1.0, checks=[check], content="one"),
                events.Ranked(agent_id=agents[1], rank=2, score=0.1, checks=[], content="two"),
            ],
            "margin": 0.9,
            "dissent": [events.Dissent(agent_id=agents[1], content="no")],
            "duration_seconds": 2.0,
            "decided_at": NOW,
            **changes,
        }
    )


def some_events(number: int = 1) -> list[events.Event]:
    story, plan = f"story-{number}", f"plan-{number}"
    task = events.PlanTask(
        task_id="a", title="A", description="Do a.", role="DEV", requirements=[], acceptance=["done"]
    )
    first = decided(story, plan, "a")
    return [
        events.StoryCreated(story_id=story, title="Login", brief=""),
        events.PlanApproved(
            story_id=story,
            story=events.StoryText(title="Login", brief="", acceptance=[]),
            plan_id=plan,
            plan_version=1,
            approved_by="ada",
            approved_at=NOW,
            tasks=[task, msgspec.structs.replace(task, task_id="b", depends_on=["a"])],
        ),
        first,
        decided(story, plan, "b", based_on=[first.decision_id]),
        decided("", "", f"adhoc-{number}"),
    ]


async def remember(graph: Graph, *arriving: events.Event) -> None:
    for event in arriving:
        story = getattr(event, "story_id", "")
        await memory.record(graph, [projection.arriving(event, story, "born-here", NOW)])


async def fill(graph: Graph) -> None:
    """A memory with nodes of every label, an event that waits in the outbox too."""
    await prepare(graph)
    await remember(graph, *some_events())
    story = new_story("story-1", title="Login", brief="", acceptance=("fast",), phase="build", actor="ada", now=NOW)
    event = Outgoing("planning.story.created:story-1", "1", "planning.story.created", "{}", "", "story-1")
    await GraphStore(graph).create_story(story, event)
    await graph.write(
        lambda tx: rows(tx, "CREATE (:PlanningTransition {transition_id: 't', version: 1, reason: null})")
    )
    await graph.write(lambda tx: rows(tx, "CREATE (:PlanningPlan {plan_id: 'plan-1', version: 1, superseded_by: ''})"))


async def prepare(graph: Graph) -> None:
    for service, migrations in exporting.FORMS.items():
        await migrate(graph, service, migrations)


def nothing(count: int) -> None:
    pass


async def export(graph: Graph, path: Path) -> bytes:
    lines: list[bytes] = []
    try:
        await exporting.exported(graph, lines.append, nothing)
    finally:
        path.write_bytes(b"".join(lines))  # noqa: ASYNC240 (a small file)
    return b"".join(lines)


async def bring(graph: Graph, path: Path, merge: bool = False, dry_run: bool = False) -> importing.Counts:
    return await importing.imported(graph, form.checked(path), merge, dry_run, nothing)


async def test_from_embedded_to_neo4j_and_back_the_memory_and_its_file_stay_the_same(
    on_embedded: Graph, on_neo4j: Graph, tmp_path: Path
) -> None:
    await fill(on_embedded)
    first = await export(on_embedded, tmp_path / "first")
    await bring(on_neo4j, tmp_path / "first")
    assert await export(on_neo4j, tmp_path / "second") == first
    await clear(on_embedded)
    counts = await bring(on_embedded, tmp_path / "second")
    assert await export(on_embedded, tmp_path / "third") == first
    end = form.checked(tmp_path / "third").end
    assert set(end.nodes) == set(form.KEYS), "the sample has every label"
    assert counts.added == sum(end.nodes.values()) + sum(end.relations.values()) == end.lines - 1
    assert {"PROPOSED", "DISSENTS", "DEPENDS_ON", "AFFECTS", "HAS_TASK"} <= set(end.relations)


async def test_what_was_imported_takes_up_the_events_where_they_were(each: Graph, tmp_path: Path) -> None:
    await fill(each)
    await export(each, tmp_path / "file")
    await clear(each)
    await bring(each, tmp_path / "file")
    event, *_ = some_events()
    [again] = await memory.record(each, [projection.arriving(event, "story-1", "b", NOW)])
    assert not again.new and again.same and again.version == 1
    [row] = await each.ask("MATCH (s:Story {story_id: 'story-1'}) RETURN s.version AS version, s.born AS born")
    assert row["version"] == 4
    assert row["born"] not in ("born-here", None), "what was cached of the other database is not taken for this one's"


async def test_an_import_that_was_cut_off_goes_on_and_a_finished_one_does_nothing_more(
    each: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(each)
    whole = await export(each, tmp_path / "file")
    lines = form.checked(tmp_path / "file").end.lines - 1
    await clear(each)
    monkeypatch.setattr(importing, "BATCH_LINES", 3)
    file, passed = form.checked(tmp_path / "file"), []

    def die(count: int) -> None:
        passed.append(count)
        if len(passed) == 5:
            raise Unavailable("killed here")

    with pytest.raises(Unavailable, match="killed here"):
        await importing.imported(each, file, merge=False, dry_run=False, passed=die)
    await each.write(lambda tx: rows(tx, "MATCH (s:Story) SET s.born = 'cached'"))
    counts = await bring(each, tmp_path / "file")
    assert await each.ask("MATCH (s:Story {born: 'cached'}) RETURN s") == []
    assert 0 < counts.same == sum(passed) < lines and counts.added == lines - counts.same
    assert await export(each, tmp_path / "again") == whole
    counts = await bring(each, tmp_path / "file")
    assert (counts.added, counts.same, counts.differing) == (0, lines, 0)


async def test_a_memory_that_is_there_is_refused_and_merged_only_where_asked(each: Graph, tmp_path: Path) -> None:
    await fill(each)
    await export(each, tmp_path / "file")
    await clear(each)
    await prepare(each)
    await remember(each, events.StoryCreated(story_id="story-1", title="Other", brief=""))
    await remember(each, *some_events(2))
    before = await each.ask("MATCH (n) RETURN count(n) AS count")
    with pytest.raises(Precondition, match="has a memory already: --merge adds what it lacks"):
        await bring(each, tmp_path / "file")
    would = await bring(each, tmp_path / "file", merge=True, dry_run=True)
    assert await each.ask("MATCH (n) RETURN count(n) AS count") == before
    assert await bring(each, tmp_path / "file", merge=True) == would
    assert "Story story-1" in would.named and would.differing == len(would.named) and would.added > 10
    [row] = await each.ask("MATCH (s:Story {story_id: 'story-1'})-[:HAS_PLAN]->() RETURN s.title AS title")
    assert row["title"] == "Other"
    held = await each.ask("MATCH (s:Story) RETURN s.born AS born")
    assert len(held) == 2
    assert "born-here" not in [row["born"] for row in held], (
        "what was cached before the merge is not taken for what is there"
    )


async def test_a_dry_run_writes_nothing_at_all(each: Graph, tmp_path: Path) -> None:
    await fill(each)
    await export(each, tmp_path / "file")
    await clear(each)
    counts = await bring(each, tmp_path / "file", dry_run=True)
    assert counts.added == form.checked(tmp_path / "file").end.lines - 1
    assert await each.ask("MATCH (n) WHERE NOT n:Migration RETURN n") == []


async def test_a_memory_that_is_written_meanwhile_gives_no_file(
    each: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(each)
    pages = exporting._pages

    async def written_meanwhile(graph: Graph) -> AsyncIterator[Any]:
        async for page in pages(graph):
            yield page
        await remember(each, MOVED)

    monkeypatch.setattr(exporting, "_pages", written_meanwhile)
    with pytest.raises(Conflict, match="written while it was read"):
        await export(each, tmp_path / "file")
    with pytest.raises(Invalid, match="is cut off: its end is missing"):
        form.checked(tmp_path / "file")


async def test_a_database_of_another_form_is_refused(on_embedded: Graph, tmp_path: Path) -> None:
    await on_embedded.write(lambda tx: rows(tx, "MATCH (n:Migration) DELETE n"))
    with pytest.raises(Precondition, match="has migration 0 of context"):
        await export(on_embedded, tmp_path / "file")
    head = form.Head(form.VERSION, {"context": 1, "planning": 1})
    tally = form.Tally()
    tally.add(head, form.encode(head))
    (tmp_path / "old").write_bytes(form.encode(head) + form.encode(tally.end()))
    with pytest.raises(Precondition, match="is of migrations context 1, planning 1"):
        await bring(on_embedded, tmp_path / "old")
    assert await on_embedded.ask("MATCH (n) RETURN n") == []


def whole(*entries: form.Line) -> bytes:
    tally, text = form.Tally(), b""
    for line in (form.Head(form.VERSION, {}), *entries):
        tally.add(line, form.encode(line))
        text += form.encode(line)
    return text + form.encode(tally.end())


TO = ("Story", "s")
STORY = form.Node("Story", {"story_id": "s", "title": "T"})
GOOD = whole(STORY, form.Relation("AFFECTS", ("Decision", "d"), TO, {}))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "its end is missing"),
        (GOOD[:-2], "cut off there"),
        (b"".join(GOOD.splitlines(keepends=True)[:-1]), "its end is missing"),
        (GOOD[: len(GOOD) // 2], "line 3 cannot be read: the file is cut off there"),
        (GOOD.replace(b'"T"', b'"U"'), "changed or damaged"),
        (b"".join(GOOD.splitlines(keepends=True)[i] for i in (0, 2, 3)), "changed or damaged"),
        (GOOD + b"\n", "goes on after its end"),
        (b"".join(GOOD.splitlines(keepends=True)[1:]), "does not begin with a head"),
        (b"\xff\n", "line 1 cannot be read"),
        (b"{}\n", "line 1 cannot be read"),
        (form.encode(form.Head(2, {})), "has version 2 of the form"),
        (whole(form.Head(1, {})), "line 2 is a second head"),
        (whole(form.Node("Migration", {"key": "x"})), "'Migration' is no label of the memory"),
        (whole(form.Node("Story", {"title": "T"})), "Story lacks story_id"),
        (whole(form.Relation("A]->() DELETE r //", TO, TO, {})), "no name of a relation"),
        (whole(form.Relation("AFFECTS", ("Story) DELETE n //", "s"), TO, {})), "no label of the memory"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_before_anything_is_written(tmp_path: Path, text: bytes, what: str) -> None:
    (tmp_path / "file").write_bytes(text)
    with pytest.raises(Invalid, match=re.escape(what)):
        form.checked(tmp_path / "file")


def test_every_label_with_a_constraint_is_in_the_file_or_left_out_on_purpose() -> None:
    statements = [text for migrations in exporting.FORMS.values() for one in migrations for text in one.statements]
    labels = {match for text in statements for match in re.findall(r"^CREATE CONSTRAINT .* FOR \(\w+:(\w+)\)", text)}
    assert labels - set(form.KEYS) == {"PlanningOutbox", "Arrival"}, "Arrival is what Event was once"
