"""Which decisions rely on one that was superseded: kept with each, whatever came first, the decision or what overruled its base.

`relies_on_superseded` of a decision holds the ids of all superseded ones that it depends on, directly or through others.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter

import msgspec
import neo4j

from fleet.bolt import rows
from fleet.context.projection import Row

# The write to the base comes before it is looked at: who supersedes it meanwhile waits for, or fails after, this transaction. For
# the embedded server it must be a change: what a SET leaves as it was is not written there, and nobody fails after it.
_RELY = """
UNWIND $given.bases AS e
MERGE (c:Decision {decision_id: e.decision_id})
MERGE (b:Decision {decision_id: e.base}) SET b.lock = true, b.dependents = coalesce(b.dependents, 0) + 1
CREATE (c)-[:DEPENDS_ON]->(b)
RETURN e.decision_id AS id, e.base AS base, b.superseded_by AS superseded_by, b.relies_on_superseded AS relies"""
# An earlier try may be there by its id only, or never come. The count is a change, as above.
_EARLIER = """
UNWIND $given.earlier AS e
MERGE (old:Decision {decision_id: e.old}) SET old.lock = true, old.retries = coalesce(old.retries, 0) + 1
RETURN e.decision_id AS id, CASE WHEN old.superseded_in_try IS NULL THEN old.superseded_by END AS ruling"""
# A person's ruling on one try stands in the place of all that come after it.
_OVERRULE = """
UNWIND $given.overruled AS e
MERGE (c:Decision {decision_id: e.decision_id}) SET c.superseded_by = e.ruling
MERGE (r:Decision {decision_id: e.ruling})
CREATE (r)-[:SUPERSEDES]->(c)"""
# Else the last try stands in the place of all before it, whichever came first.
_SUPERSEDE = """
UNWIND $given.earlier AS e
MERGE (c:Decision {decision_id: e.decision_id})
MERGE (old:Decision {decision_id: e.old})
CREATE (c)-[:SUPERSEDES]->(old)
WITH e, old WHERE old.superseded_by IS NULL OR old.superseded_in_try < e.number
SET old.superseded_by = e.decision_id, old.superseded_in_try = e.number"""
_DECIDED = """
UNWIND $given.ids AS id
MATCH (old:Decision {decision_id: id}) WHERE old.decided_at IS NOT NULL AND old.superseded_by = $decision_id
RETURN id"""
_TAKE_STORIES = """
UNWIND $given.ids AS id
MATCH (old:Decision {decision_id: id})-[:AFFECTS]->(s:Story)
MERGE (c:Decision {decision_id: $decision_id})
MERGE (c)-[:AFFECTS]->(s)
RETURN DISTINCT s.story_id AS story_id"""
_DEPENDENTS = """
UNWIND $given.ids AS id
MATCH (c:Decision)-[:DEPENDS_ON]->(:Decision {decision_id: id})
RETURN c.decision_id AS id, id AS old"""
_LOCKED = """
UNWIND $given.ids AS id
MERGE (c:Decision {decision_id: id}) SET c.lock = true
RETURN id, c.relies_on_superseded AS relies"""
_FLAG = """
UNWIND $given.flags AS e
MERGE (c:Decision {decision_id: e.id}) SET c.relies_on_superseded = e.relies
WITH e, c MATCH (other:Decision)-[:DEPENDS_ON]->(c)
RETURN e.id AS id, other.decision_id AS other"""
_STORIES = """
UNWIND $given.ids AS id
MATCH (c:Decision {decision_id: id})-[:AFFECTS]->(s:Story)
RETURN id, s.story_id AS story_id"""
_RELIES = """
UNWIND $given.ids AS id
MATCH (c:Decision {decision_id: id}) WHERE c.relies_on_superseded IS NOT NULL
RETURN id, c.relies_on_superseded AS relies"""
_RAISE = """
UNWIND $given.stories AS id
MERGE (s:Story {story_id: id}) SET s.lock = true
WITH id, s SET s.version = s.version + 1
RETURN id, s.version AS version"""


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """What a new decision did to others: those that it superseded, or itself where a ruling stands in its place already, those
    that this or its own ground flagged, these and itself, where it is flagged, by each story that they affect (not known of what
    an earlier release wrote), and the version that each further story got by it."""

    superseded: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()
    flagged_in: dict[str, tuple[str, ...]] | None = None
    versions: dict[str, int] = {}


NO_EFFECTS = Effects()


@dataclasses.dataclass(frozen=True)
class Settled:
    """What became of new decisions, by their ids, for those of which there is something to say: what each did to others, and the
    superseded ones that it relies on."""

    effects: Mapping[str, Effects] = dataclasses.field(default_factory=dict)
    relies: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


NOTHING = Settled()


async def rely(tx: neo4j.AsyncManagedTransaction, bases: Sequence[Row]) -> dict[str, set[str]]:
    """Notes what new decisions depend on: the superseded ones among that, by the decision that relies on them."""
    relies: dict[str, set[str]] = {}
    for row in await rows(tx, _RELY, given={"bases": sorted(bases, key=itemgetter("base", "decision_id"))}):
        superseded = {row["base"]} if row["superseded_by"] else set()
        if found := superseded | set(row["relies"] or ()):
            relies.setdefault(row["id"], set()).update(found)
    return relies


async def settle(
    tx: neo4j.AsyncManagedTransaction, bases: Sequence[Row], earlier: Sequence[Row], own: Mapping[str, str]
) -> Settled:
    """Notes what new decisions depend on and which earlier ones they supersede, or that a person's ruling on one of these
    supersedes them, and flags all that relies on superseded ones. `own` names the story of each new one, which gets its next
    version by the event itself."""
    overruled = await _overruled(tx, earlier) if earlier else frozenset()
    if standing := [row for row in earlier if row["decision_id"] not in overruled]:
        await rows(tx, _SUPERSEDE, given={"earlier": sorted(standing, key=itemgetter("old", "decision_id"))})
    bare = await rely(tx, bases) if bases else {}
    before: dict[str, list[str]] = {}
    for row in earlier:
        before.setdefault(row["decision_id"], []).append(row["old"])
    effects: dict[str, Effects] = {}
    relies: dict[str, tuple[str, ...]] = {}
    for id in sorted(bare.keys() | before.keys()):
        found, flagged = await _effects(tx, id, bare.get(id, set()), before.get(id, []), id in overruled, own)
        relies |= flagged
        if found != NO_EFFECTS:
            effects[id] = found
    return Settled(effects, relies)


async def _overruled(tx: neo4j.AsyncManagedTransaction, earlier: Sequence[Row]) -> frozenset[str]:
    """Locks the earlier tries; the new decisions that are overruled since one of these was."""
    found = await rows(tx, _EARLIER, given={"earlier": sorted(earlier, key=itemgetter("old", "decision_id"))})
    rulings = {row["id"]: row["ruling"] for row in found if row["ruling"]}
    if rulings:
        overruled = [{"decision_id": id, "ruling": ruling} for id, ruling in sorted(rulings.items())]
        await rows(tx, _OVERRULE, given={"overruled": overruled})
    return frozenset(rulings)


async def _effects(
    tx: neo4j.AsyncManagedTransaction,
    id: str,
    relies: set[str],
    earlier: Sequence[str],
    overruled: bool,
    own: Mapping[str, str],
) -> tuple[Effects, dict[str, tuple[str, ...]]]:
    """What the decision did to others, and all that it and others rely on that were flagged by it."""
    marks = {id: set(relies)} if relies else {}
    superseded, affected = list[str](), set[str]()
    if overruled:
        superseded = [id]
    elif earlier:
        superseded = sorted(row["id"] for row in await rows(tx, _DECIDED, given={"ids": earlier}, decision_id=id))
        affected = set(await take_stories(tx, earlier, id))
    if gone := [id] if overruled else earlier:
        for dependent, bases in (await dependents(tx, gone)).items():
            marks.setdefault(dependent, set()).update(bases)
    changed = await flag(tx, marks)
    flagged = sorted(changed.keys() - own.keys())
    flagged_in = await by_story(tx, changed)
    versions = await raise_stories(tx, sorted((affected | flagged_in.keys()) - set(own.values())))
    effects = Effects(
        superseded=tuple(superseded),
        flagged=tuple(flagged),
        flagged_in=flagged_in if changed else None,
        versions=versions,
    )
    return effects, changed


async def take_stories(tx: neo4j.AsyncManagedTransaction, olds: Sequence[str], decision_id: str) -> list[str]:
    """Has a decision affect the stories that those in whose place it stands affect: these stories."""
    return [row["story_id"] for row in await rows(tx, _TAKE_STORIES, given={"ids": olds}, decision_id=decision_id)]


async def dependents(tx: neo4j.AsyncManagedTransaction, bases: Sequence[str]) -> dict[str, set[str]]:
    """Those of these decisions that others depend on directly, by the one that does."""
    found: dict[str, set[str]] = {}
    for row in await rows(tx, _DEPENDENTS, given={"ids": bases}):
        found.setdefault(row["id"], set()).add(row["old"])
    return found


async def relied(tx: neo4j.AsyncManagedTransaction, decisions: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The superseded decisions that each of these relies on, for those that do."""
    found = await rows(tx, _RELIES, given={"ids": sorted(decisions)}) if decisions else []
    return {row["id"]: tuple(row["relies"]) for row in found}


async def flag(tx: neo4j.AsyncManagedTransaction, relies: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """Adds to what decisions, and all that depend on them, are known to rely on: all that it is now, for each that this changed.

    Each is written before what depends on it is looked up, so that none that begins to depend on it meanwhile is missed.
    """
    changed: dict[str, tuple[str, ...]] = {}
    level = {id: set(superseded) for id, superseded in relies.items()}
    while level:
        before = {row["id"]: set(row["relies"] or ()) for row in await rows(tx, _LOCKED, given={"ids": sorted(level)})}
        added = {id: superseded - before[id] for id, superseded in level.items() if superseded - before[id]}
        now = {id: tuple(sorted(before[id] | added[id])) for id in sorted(added)}
        flags = [{"id": id, "relies": list(now[id])} for id in now]
        level = {}
        for row in await rows(tx, _FLAG, given={"flags": flags}) if flags else ():
            level.setdefault(row["other"], set()).update(added[row["id"]])
        changed |= now
    return changed


async def by_story(tx: neo4j.AsyncManagedTransaction, decisions: Collection[str]) -> dict[str, tuple[str, ...]]:
    """These decisions by each story that they affect."""
    found: dict[str, set[str]] = {}
    for row in await rows(tx, _STORIES, given={"ids": sorted(decisions)}) if decisions else ():
        found.setdefault(row["story_id"], set()).add(row["id"])
    return {story: tuple(sorted(ids)) for story, ids in found.items()}


async def raise_stories(tx: neo4j.AsyncManagedTransaction, stories: Sequence[str]) -> dict[str, int]:
    """Gives each story its next version: that version, by the story."""
    found = await rows(tx, _RAISE, given={"stories": stories}) if stories else []
    return {row["id"]: row["version"] for row in found}
