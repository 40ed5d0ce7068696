"""Decisions by their words and by what they belong to.

The words are looked up in a full-text index over titles, contents and rationales, and what fits best comes first. This is the
one place that knows which server it speaks with: Neo4j makes the index in Cypher, by `prepare`, and the embedded server by the
SQL of its HTTP API (`EMBEDDED_INDEX`), which the local stack sends when it has started it. Where there is no index, the words are
looked for in titles and contents, and the newest comes first; the log says so each time.
"""

import dataclasses
import datetime as dt
import re
from collections.abc import Sequence
from typing import Any

import structlog
from neo4j.exceptions import Neo4jError

from fleet import paging
from fleet.bolt import Graph
from fleet.context import domain
from fleet.context.projection import stamp
from fleet.context.reading import decision_of
from fleet.migrations import state
from fleet_wire import ids
from fleet_wire.errors import Invalid, Unavailable

log = structlog.get_logger(__name__)

NEO4J_INDEX = "context_decision_text"
EMBEDDED_INDEX = "Decision[title,content,rationale]"
EMBEDDED_SQL = (
    "CREATE VERTEX TYPE Decision IF NOT EXISTS",
    *(f"CREATE PROPERTY Decision.{name} IF NOT EXISTS STRING" for name in ("title", "content", "rationale")),
    "CREATE INDEX IF NOT EXISTS ON Decision (title, content, rationale) FULL_TEXT",
)
"""Makes the index on the embedded server. Safe to repeat."""
NO_INDEX = {
    "Neo.ClientError.Procedure.ProcedureCallFailed": "no such fulltext schema index",
    "Neo.ClientError.Statement.SemanticError": "",
}
"""How Neo4j, and the embedded server, say that there is no such index: the code, and what stands in the message where the code is
that of other errors too."""
MOST_WORDS = 32
LONGEST_PREFIX = 64
"""Letters of a word that others may begin with; Neo4j refuses prefixes of a thousand."""

_WORD = re.compile(r"\w+(?:[.']\w+)*")
# Neo4j brings it up to date behind the commits, and a search waits for that: in a commit it took six of ten milliseconds.
_MAKE = f"""
CREATE FULLTEXT INDEX {NEO4J_INDEX} IF NOT EXISTS FOR (n:Decision) ON EACH [n.title, n.content, n.rationale]
OPTIONS {{indexConfig: {{`fulltext.eventually_consistent`: true}}}}"""
_OF_EARLIER_RELEASES = f"""
SHOW FULLTEXT INDEXES YIELD name, options
WHERE name = '{NEO4J_INDEX}' AND NOT options.indexConfig['fulltext.eventually_consistent']
RETURN name"""
_DROP = f"DROP INDEX {NEO4J_INDEX} IF EXISTS"
_FILTER = """
WHERE c.decided_at IS NOT NULL
  AND ($story_id = '' OR c.story_id = $story_id)
  AND ($plan_id = '' OR c.plan_id = $plan_id)
  AND ($role = '' OR c.role = $role)
  AND ($since = '' OR c.decided_at >= $since)
  AND ($until = '' OR c.decided_at < $until)"""
_BEST = f"""
CALL db.index.fulltext.queryNodes($index, $text) YIELD node, score
WITH node AS c, score {_FILTER}
  AND ($after = '' OR score < $below OR (score = $below AND c.decision_id > $after))
RETURN c, score ORDER BY score DESC, c.decision_id LIMIT $count"""
_BEST_ON_NEO4J = f"""
CALL db.index.fulltext.awaitEventuallyConsistentIndexRefresh() {_BEST}"""
_NEWEST = f"""
MATCH (c:Decision) {_FILTER}
  AND ($after = '' OR c.decided_at < $before OR (c.decided_at = $before AND c.decision_id > $after))
  AND all(word IN $words WHERE c.words CONTAINS word)
RETURN c, c.decided_at AS decided_at ORDER BY c.decided_at DESC, c.decision_id LIMIT $count"""


@dataclasses.dataclass(frozen=True)
class Search:
    """What to look for; made by `search_of`. `since` and `until` are stamps. `place` and `after` are the score or the time, and
    the id, of the last decision of the page before."""

    query: str
    story_id: str
    plan_id: str
    role: str
    page_size: int
    since: str = ""
    until: str = ""
    place: str = ""
    after: str = ""

    @property
    def words(self) -> list[str]:
        return _WORD.findall(self.query.lower())


@dataclasses.dataclass(frozen=True)
class Found:
    """A page of decisions and the token of the next, empty after the last. `scores` says how well each fits, more is better;
    it is empty where the newest come first."""

    decisions: tuple[domain.Decision, ...]
    token: str
    scores: tuple[float, ...] = ()


def search_of(
    query: str,
    story_id: str,
    plan_id: str,
    role: str,
    page_size: int,
    page_token: str,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
) -> Search:
    """The search; raises Invalid naming the first field that is wrong."""
    for field, value in (("story_id", story_id), ("plan_id", plan_id)):
        if value:
            ids.check_id(field, value)
    if role:
        ids.check_role("role", role)
    size = paging.size(page_size)
    place, after = _position(page_token) if page_token else ("", "")
    first, last = (stamp(moment) if moment else "" for moment in (since, until))
    wanted = Search(query, story_id, plan_id, role, size, first, last, place, after)
    if len(wanted.words) > MOST_WORDS:
        raise Invalid(f"query must have at most {MOST_WORDS} words, not {len(wanted.words)}")
    return wanted


async def prepare(graph: Graph) -> None:
    """Makes the index where Cypher can, anew where an earlier release made it. Safe to repeat. Raises Unavailable."""
    if _is_embedded(await graph.agent()):
        return
    if await graph.ask(_OF_EARLIER_RELEASES):
        await state(graph, _DROP)
    await state(graph, _MAKE)


async def search(graph: Graph, wanted: Search) -> Found:
    """A page of decisions: where words are given what fits best first, else the newest.

    The token names a place, not a number: of decisions that come meanwhile none repeats or hides another, but that they change
    how well all others fit. Raises Invalid for a token of another search, Unavailable while the database is away, or where it
    answers with any other error than that there is no index.
    """
    if wanted.query.strip():
        if not wanted.words:
            return Found((), "")
        embedded = _is_embedded(await graph.agent())
        statement, index = (_BEST, EMBEDDED_INDEX) if embedded else (_BEST_ON_NEO4J, NEO4J_INDEX)
        below = _score(wanted.place)
        try:
            found = await graph.ask(statement, index=index, text=lucene(wanted.words), below=below, **_values(wanted))
        except Unavailable as error:
            if not _is_no_index(error.__cause__):
                raise
            log.warning("no full-text index: searched by words, the newest first", index=index, error=str(error))
        else:
            page, token = _page(wanted, found, "score")
            return Found(page, token, tuple(row["score"] for row in found[: len(page)]))
    if wanted.place:
        _check_stamp(wanted.place)
    words = sorted({domain.searched(word) for word in wanted.words})
    found = await graph.ask(_NEWEST, before=wanted.place, words=words, **_values(wanted))
    return Found(*_page(wanted, found, "decided_at"))


def lucene(words: Sequence[str]) -> str:
    """A query in Lucene's language that wants all of the words, or words that begin so; whole words count double. Nothing in
    them means anything there: they are lower case, of letters, digits and `_.'`."""
    return " ".join(f"+({word}^2 {word}*)" if len(word) <= LONGEST_PREFIX else f"+{word}" for word in words)


def _values(wanted: Search) -> dict[str, Any]:
    names = ("story_id", "plan_id", "role", "since", "until", "after")
    return {**{name: getattr(wanted, name) for name in names}, "count": wanted.page_size + 1}


def _page(wanted: Search, found: Sequence[dict[str, Any]], by: str) -> tuple[tuple[domain.Decision, ...], str]:
    page = found[: wanted.page_size]
    decisions = tuple(decision_of(row["c"]) for row in page)
    if len(found) <= wanted.page_size:
        return decisions, ""
    return decisions, paging.token(f"{page[-1][by]}|{decisions[-1].decision_id}")


def _is_no_index(answer: BaseException | None) -> bool:
    return (
        isinstance(answer, Neo4jError) and answer.code in NO_INDEX and NO_INDEX[answer.code] in (answer.message or "")
    )


def _is_embedded(agent: str) -> bool:
    return "ArcadeDB" in agent


def _position(page_token: str) -> tuple[str, str]:
    place, _, after = paging.place(page_token).partition("|")
    try:
        ids.check_id("page_token", after)
    except Invalid as error:
        raise paging.refused() from error
    return place, after


def _score(place: str) -> float:
    try:
        return float(place or 0)
    except ValueError as error:
        raise paging.refused() from error


def _check_stamp(place: str) -> None:
    try:
        dt.datetime.strptime(place, "%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError as error:
        raise paging.refused() from error
