"""Which decisions rely on one that was superseded: kept with each, whatever came first, the decision or what overruled its base.

`relies_on_superseded` of a decision holds the ids of all superseded ones that it depends on, directly or through others.
"""

from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter

import neo4j

from fleet.bolt import rows
from fleet.context.projection import Row

# The write to the base comes before it is looked at: who supersedes it meanwhile waits for, or fails after, this transaction. For
# the embedded server it must be a change: what a SET leaves as it was is not written there, and nobody fails after it.
_RELY = """
UNWIND $bases AS e
MERGE (c:Decision {decision_id: e.decision_id})
MERGE (b:Decision {decision_id: e.base}) SET b.lock = true, b.dependents = coalesce(b.dependents, 0) + 1
CREATE (c)-[:DEPENDS_ON]->(b)
RETURN e.decision_id AS id, e.base AS base, b.superseded_by AS superseded_by, b.relies_on_superseded AS relies"""
_LOCKED = """
UNWIND $ids AS id
MERGE (c:Decision {decision_id: id}) SET c.lock = true
RETURN id, c.relies_on_superseded AS relies"""
_FLAG = """
UNWIND $flags AS e
MERGE (c:Decision {decision_id: e.id}) SET c.relies_on_superseded = e.relies
WITH e, c MATCH (other:Decision)-[:DEPENDS_ON]->(c)
RETURN e.id AS id, other.decision_id AS other"""
_STORIES = """
UNWIND $ids AS id
MATCH (c:Decision {decision_id: id})-[:AFFECTS]->(s:Story)
RETURN DISTINCT s.story_id AS story_id"""
_RELIES = """
UNWIND $ids AS id
MATCH (c:Decision {decision_id: id}) WHERE c.relies_on_superseded IS NOT NULL
RETURN id, c.relies_on_superseded AS relies"""
_RAISE = """
UNWIND $stories AS id
MERGE (s:Story {story_id: id}) SET s.lock = true
WITH id, s SET s.version = s.version + 1
RETURN id, s.version AS version"""


async def rely(tx: neo4j.AsyncManagedTransaction, bases: Sequence[Row]) -> None:
    """Notes what new decisions depend on, and flags them and what depends on them where that was superseded."""
    relies: dict[str, set[str]] = {}
    for row in await rows(tx, _RELY, bases=sorted(bases, key=itemgetter("base", "decision_id"))):
        superseded = {row["base"]} if row["superseded_by"] else set()
        if found := superseded | set(row["relies"] or ()):
            relies.setdefault(row["id"], set()).update(found)
    new = {base["decision_id"] for base in bases}
    if others := set(await flag(tx, relies)) - new:
        await raise_stories(tx, await stories_of(tx, others))


async def relied(tx: neo4j.AsyncManagedTransaction, decisions: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The superseded decisions that each of these relies on, for those that do."""
    found = await rows(tx, _RELIES, ids=sorted(decisions)) if decisions else []
    return {row["id"]: tuple(row["relies"]) for row in found}


async def flag(tx: neo4j.AsyncManagedTransaction, relies: Mapping[str, set[str]]) -> list[str]:
    """Adds to what decisions, and all that depend on them, are known to rely on: the ids of those that this changed.

    Each is written before what depends on it is looked up, so that none that begins to depend on it meanwhile is missed.
    """
    changed: set[str] = set()
    level = {id: set(superseded) for id, superseded in relies.items()}
    while level:
        before = {row["id"]: set(row["relies"] or ()) for row in await rows(tx, _LOCKED, ids=sorted(level))}
        added = {id: superseded - before[id] for id, superseded in level.items() if superseded - before[id]}
        flags = [{"id": id, "relies": sorted(before[id] | added[id])} for id in sorted(added)]
        level = {}
        for row in await rows(tx, _FLAG, flags=flags) if flags else ():
            level.setdefault(row["other"], set()).update(added[row["id"]])
        changed |= added.keys()
    return sorted(changed)


async def stories_of(tx: neo4j.AsyncManagedTransaction, decisions: Collection[str]) -> list[str]:
    """The stories that these decisions affect, in the order in which all writers take them."""
    found = await rows(tx, _STORIES, ids=sorted(decisions)) if decisions else []
    return sorted(row["story_id"] for row in found)


async def raise_stories(tx: neo4j.AsyncManagedTransaction, stories: Sequence[str]) -> dict[str, int]:
    """Gives each story its next version: that version, by the story."""
    found = await rows(tx, _RAISE, stories=stories) if stories else []
    return {row["id"]: row["version"] for row in found}
