"""Searching decisions on real graph servers: what is found, in which order, and that any text may be searched for."""

import datetime as dt
from collections.abc import Callable

import context_samples as samples
import pytest
import pytest_asyncio
import realparts
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from fleet.bolt import Graph
from fleet.context import graph as memory
from fleet.context import projection, search
from fleet.context.migrations import MIGRATIONS
from fleet.migrations import migrate, state
from fleet_wire import events
from fleet_wire.errors import Invalid, Unavailable


@pytest_asyncio.fixture
async def store(each_bolt: Graph) -> Graph:
    await migrate(each_bolt, "context", MIGRATIONS)
    await search.prepare(each_bolt)
    await search.prepare(each_bolt)
    await each_bolt.ask("RETURN 1 AS one" if "ArcadeDB" in await each_bolt.agent() else "CALL db.awaitIndexes(60)")
    return each_bolt


async def put(store: Graph, *arriving: events.DeliberationCompleted) -> None:
    for event in arriving:
        await memory.record(store, [projection.arriving(event, event.story_id, "b", samples.NOW)])


def decided(
    story: str, task: str, title: str, content: str = "", rationale: str = "", **changes: object
) -> events.DeliberationCompleted:
    text = events.DecisionText(title=title, content=content, rationale=rationale)
    return samples.completed(story, f"plan-{story}", task, decision=text, **changes)


async def tasks(store: Graph, query: str, story: str, **more: object) -> list[str]:
    found = await search.search(store, search.search_of(query, story, "", "", 0, "", **more))
    return [decision.task_id for decision in found.decisions]


async def test_what_fits_best_comes_first_from_titles_contents_and_rationales(
    store: Graph, unique: Callable[[str], str]
) -> None:
    story, filler = unique("story"), "and much else is said of other things here " * 5
    await put(
        store,
        decided(story, "little", "Other", f"A throttle, {filler}", filler, minute=9),
        decided(story, "much", "Throttle", "A throttle of one bucket a client.", "The throttle is simple."),
        decided(story, "why", "Kafka", "A queue.", "It needs no throttle.", minute=5),
        decided(story, "none", "Login", "Argon2id", "Best checks."),
    )
    found = await search.search(store, search.search_of("THROTTLE", story, "", "", 0, ""))
    assert found.decisions[0].task_id == "much"
    assert {decision.task_id for decision in found.decisions} == {"much", "why", "little"}
    assert list(found.scores) == sorted(found.scores, reverse=True) and len(found.scores) == 3
    assert await tasks(store, "throttle queue", story) == ["why"], "all words, wherever they stand"
    assert await tasks(store, "argon", story) == ["none"], "the beginning of a word"
    assert await tasks(store, "rgon2id", story) == []


async def test_on_neo4j_an_index_of_an_earlier_release_is_made_anew(
    neo4j: realparts.GraphServer, unique: Callable[[str], str]
) -> None:
    graph, story = Graph(neo4j.settings()), unique("story")
    made = f"CREATE FULLTEXT INDEX {search.NEO4J_INDEX} FOR (n:Decision) ON EACH [n.title, n.content, n.rationale]"
    for statement in (f"DROP INDEX {search.NEO4J_INDEX} IF EXISTS", made):
        await state(graph, statement)
    await search.prepare(graph)
    await graph.ask("CALL db.awaitIndexes(60)")
    found = await graph.ask("SHOW FULLTEXT INDEXES YIELD name, options RETURN name, options.indexConfig AS config")
    assert [(row["name"], row["config"]["fulltext.eventually_consistent"]) for row in found] == [
        (search.NEO4J_INDEX, True)
    ]
    await migrate(graph, "context", MIGRATIONS)
    for task in map(str, range(20)):
        await put(graph, decided(story, task, f"Throttle{task}"))
        assert await tasks(graph, f"throttle{task}", story) == [task], "also what was written just now"
    await graph.close()


async def test_a_search_is_narrowed_by_all_that_is_given(store: Graph, unique: Callable[[str], str]) -> None:
    story, other = unique("story"), unique("story")
    await put(
        store,
        decided(story, "a", "Throttle", minute=0),
        decided(story, "b", "Throttle", minute=5, role="QA"),
        decided(other, "c", "Throttle", minute=7),
    )
    five = samples.NOW + dt.timedelta(minutes=5)
    for query in ("throttle", ""):
        assert sorted(await tasks(store, query, story)) == ["a", "b"]
        assert await tasks(store, query, story, since=five) == ["b"]
        assert await tasks(store, query, story, until=five) == ["a"]
        found = await search.search(store, search.search_of(query, story, f"plan-{story}", "QA", 0, ""))
        assert [decision.task_id for decision in found.decisions] == ["b"]
        nothing = await search.search(store, search.search_of(query, story, f"plan-{other}", "", 0, ""))
        assert nothing.decisions == ()


@pytest.mark.parametrize("query", ["", "throttle"])
async def test_pages_have_neither_gap_nor_repetition(store: Graph, unique: Callable[[str], str], query: str) -> None:
    story = unique("story")
    made = [decided(story, f"t{n}", "Throttle", "throttle " * (n % 3), minute=n // 2) for n in range(7)]
    await put(store, *made)
    whole = await tasks(store, query, story)
    found: list[str] = []
    token = ""
    for _ in range(10):
        page = await search.search(store, search.search_of(query, story, "", "", 2, token))
        found += [decision.task_id for decision in page.decisions]
        token = page.token
        if not token:
            break
        if not query:
            await put(store, samples.completed(story, "p", "newer", minute=99))  # comes between two pages
    assert found == whole and sorted(found) == [f"t{n}" for n in range(7)]


async def test_a_token_of_another_search_is_refused(store: Graph, unique: Callable[[str], str]) -> None:
    story = unique("story")
    await put(store, *(decided(story, f"t{n}", "Throttle") for n in range(2)))
    for query, other in (("", "throttle"), ("throttle", "")):
        page = await search.search(store, search.search_of(query, story, "", "", 1, ""))
        with pytest.raises(Invalid, match="page_token must be"):
            await search.search(store, search.search_of(other, story, "", "", 1, page.token))


GARBAGE = [
    *(
        "AND",
        "NOT x OR",
        "(",
        "a AND (b",
        '"',
        "title:throttle",
        "*",
        "?",
        "a~99",
        "[a TO",
        "{",
        "/x/",
        "\\",
        "\\\\",
        "+-!",
    ),
    *(
        "a^b^",
        "&& ||",
        "\x00",
        "' OR 1=1 //",
        "x" * 3000,
        "_",
        "👍",
        "foo.bar::baz(1)[2]{3}",
        "don't",
        "$text",
        "..",
        "..a",
    ),
]


@pytest.mark.parametrize("query", GARBAGE)
async def test_no_text_is_an_error_or_falls_back_to_words(store: Graph, query: str) -> None:
    with structlog.testing.capture_logs() as lines:
        await search.search(store, search.search_of(query, "", "", "", 0, ""))
    assert lines == []


async def test_code_is_found_by_how_it_is_written(store: Graph, unique: Callable[[str], str]) -> None:
    story = unique("story")
    await put(store, decided(story, "t", "naïve 東京", "call foo.bar::baz(parse_int) at http://x.y/z?q=1, 100%_sure"))
    for query in ("foo.bar::baz(parse_int)", "http://x.y/z?q=1", "NAÏVE", "東京", "100%_sure", "parse_int"):
        assert await tasks(store, query, story) == ["t"], query


async def test_without_the_index_words_are_searched_for_and_the_log_says_so(
    each_bolt: Graph, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(each_bolt, "context", MIGRATIONS)
    monkeypatch.setattr(search, "NEO4J_INDEX", "nothing")
    monkeypatch.setattr(search, "EMBEDDED_INDEX", "Nothing[here]")
    story = unique("story")
    await put(each_bolt, decided(story, "old", "A throttle"), decided(story, "new", "throttles", minute=1))
    with structlog.testing.capture_logs() as lines:
        found = await search.search(each_bolt, search.search_of("THROTTLE,", story, "", "", 0, ""))
    assert [decision.task_id for decision in found.decisions] == ["new", "old"] and found.scores == ()
    assert ["no full-text index" in line["event"] for line in lines] == [True]


async def test_any_other_answer_than_that_there_is_no_index_is_told(
    store: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "lucene", lambda words: "(throttle")
    with structlog.testing.capture_logs() as lines, pytest.raises(Unavailable, match="cannot be used"):
        await search.search(store, search.search_of("throttle", "", "", "", 0, ""))
    assert lines == []


@given(st.text(max_size=60))
def test_what_a_query_becomes_holds_nothing_that_lucene_reads_but_ours(text: str) -> None:
    words = search.Search(text, "", "", "", 1).words
    assert all(set(word).isdisjoint('+-&|!(){}[]^"~*?:\\/ ') and word not in ("AND", "OR", "NOT") for word in words)
