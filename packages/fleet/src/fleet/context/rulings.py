"""A person's rulings in the graph: an override takes the place of a decision, a constraint binds a story or a task of it, and
a decision may be said to affect a further story.

Each is one transaction and leaves an (Event), by which a repeated one finds what the first did. An override and a constraint are
decisions too, `decided_by` a person: (Decision)-[:SUPERSEDES]->(Decision), (Decision)-[:CONSTRAINS]->(Task or Story). What an
override supersedes says so in `superseded_by`, and all that depends on it is flagged; it takes over what that affected and bound.
Every story whose contexts this changes gets its next version.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import neo4j

from fleet.bolt import Graph, rows
from fleet.context import domain, reliance
from fleet.context.projection import line, stamp
from fleet_wire import ids
from fleet_wire.errors import AlreadyExists, NotFound, Precondition
from fleet_wire.fingerprint import whole

# A write comes before anything is looked at: it makes others who rule on it wait for, or fail after, this one. It changes
# something, since the embedded server does not write what a SET leaves as it was.
_OPEN = """
MERGE (e:Event {event_id: $event_id}) SET e.lock = true
RETURN e.fingerprint AS fingerprint, e.ruled AS ruled"""
_DECISION = """
MATCH (c:Decision {decision_id: $decision_id}) WHERE c.decided_at IS NOT NULL
SET c.lock = true, c.rulings = coalesce(c.rulings, 0) + 1
RETURN c"""
_STORY = "MATCH (s:Story {story_id: $story_id}) RETURN s.story_id AS story_id"
_TASK = """
MATCH (p:Plan {plan_id: $plan_id})-[:HAS_TASK]->(t:Task {key: $key})
WHERE p.story_id = $story_id AND t.title IS NOT NULL
RETURN t.role AS role"""
_DECIDE = """
MERGE (c:Decision {decision_id: $decision_id}) SET c += $values"""
_SUPERSEDE = """
MERGE (c:Decision {decision_id: $decision_id})
MERGE (old:Decision {decision_id: $old}) SET old.superseded_by = $decision_id
CREATE (c)-[:SUPERSEDES]->(old)"""
_TAKE_BOUND = """
MATCH (old:Decision {decision_id: $old})-[:CONSTRAINS]->(bound)
MERGE (c:Decision {decision_id: $decision_id})
CREATE (c)-[:CONSTRAINS]->(bound)
RETURN c.decision_id AS id"""
_BINDS = "MATCH (c:Decision {decision_id: $decision_id})-[:CONSTRAINS]->(bound) RETURN count(bound) AS count"
_AFFECT = """
MERGE (c:Decision {decision_id: $decision_id})
MERGE (s:Story {story_id: $story_id})
MERGE (c)-[:AFFECTS]->(s)"""
_BIND_STORY = """
MERGE (c:Decision {decision_id: $decision_id})
MERGE (s:Story {story_id: $story_id})
CREATE (c)-[:CONSTRAINS]->(s)"""
_BIND_TASK = """
MERGE (c:Decision {decision_id: $decision_id})
MERGE (t:Task {key: $key})
CREATE (c)-[:CONSTRAINS]->(t)"""
_CLOSE = """
UNWIND $given.events AS e
MERGE (n:Event {event_id: e.event_id}) SET n += e.values"""


@dataclasses.dataclass(frozen=True)
class Ruling:
    """What a person rules, its texts without secrets. `ruling_id` is the request's: the same again changes nothing, and `at`
    is then the first one's.

    An override says `decision_id`, `title` and `content`; a constraint `story_id`, `title` and `content`, with `plan_id` and
    `task_id` for one task; affects `decision_id` and the further `story_id`.
    """

    ruling_id: str
    kind: Literal["override", "constraint", "affects"]
    by: str
    reason: str
    at: dt.datetime
    decision_id: str = ""
    story_id: str = ""
    plan_id: str = ""
    task_id: str = ""
    title: str = ""
    content: str = ""

    @property
    def event_id(self) -> str:
        """What its event is known by."""
        return f"context.ruling:{self.ruling_id}"

    @property
    def made(self) -> str:
        """Id of the decision that it makes; of the one that it is about, where it makes none."""
        return self.decision_id if self.kind == "affects" else ids.derived("dec", "ruling", self.ruling_id)


class Ruled(msgspec.Struct, frozen=True, kw_only=True):
    """What a ruling did: the decision that it made (or is about, where it makes none), what that superseded, what relies on
    that, these by each story that they affect (not known of what an earlier release wrote), and the version that each story
    got, its own first. An ad-hoc decision has no story. `new`: this call wrote it."""

    decision_id: str
    story_id: str
    plan_id: str
    superseded: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()
    flagged_in: dict[str, tuple[str, ...]] | None = None
    versions: dict[str, int] = {}
    new: bool = True


async def rule(graph: Graph, ruling: Ruling) -> Ruled:
    """Writes a ruling in one transaction, once.

    Raises NotFound for a decision, story or task that the graph does not have, Precondition for a decision that is superseded
    already, naming by what, and for a constraint that is to affect a further story, AlreadyExists for another ruling under the
    same id, Unavailable while the database is away.
    """
    fingerprint, of_earlier_releases = _fingerprints(ruling)

    async def work(tx: neo4j.AsyncManagedTransaction) -> Ruled:
        [found] = await rows(tx, _OPEN, event_id=ruling.event_id)
        if found["fingerprint"] is not None:
            if found["fingerprint"] not in (fingerprint, of_earlier_releases):
                raise AlreadyExists(f"ruling {ruling.ruling_id} is there already, with another content")
            before = msgspec.json.decode(found["ruled"], type=Ruled)
            return msgspec.structs.replace(before, new=False)
        ruled, affected, said = await _STEPS[ruling.kind](tx, ruling)
        flagged_in = await reliance.by_story(tx, ruled.flagged)
        versions = await reliance.raise_stories(tx, sorted({*affected, *flagged_in}))
        own_first = _own_first(versions, ruled.story_id)
        ruled = msgspec.structs.replace(ruled, flagged_in=flagged_in if ruled.flagged else None, versions=own_first)
        events = _events(ruling, ruled, affected, {**said, "fingerprint": fingerprint})
        await rows(tx, _CLOSE, given={"events": events})
        return ruled

    try:
        return await graph.write(work)
    except Precondition:
        # It may stand in its own way, where another replica wrote the same meanwhile: then it is found now.
        return await graph.write(work)


_Step = tuple[Ruled, list[str], dict[str, str]]
"""What was done, the stories that the decision affects, and what their timelines say of it."""


def _said(tells_of: str, role: str, text: str) -> dict[str, str]:
    """The kind of block that the ruling is about, the council that decided, and the line."""
    return {"tells_of": tells_of, "role": role, "summary": line(text)}


async def _override(tx: neo4j.AsyncManagedTransaction, ruling: Ruling) -> _Step:
    old = await _standing(tx, ruling.decision_id)
    names = {"decision_id": ruling.made, "old": ruling.decision_id}
    belongs = {name: old[name] for name in ("story_id", "plan_id", "task_id", "role")}
    await rows(tx, _DECIDE, decision_id=ruling.made, values=_values(ruling, belongs))
    await rows(tx, _SUPERSEDE, **names)
    binds = bool(await rows(tx, _TAKE_BOUND, **names))
    affected = await reliance.take_stories(tx, [ruling.decision_id], ruling.made)
    flagged = await reliance.flag(tx, await reliance.dependents(tx, [ruling.decision_id]))
    ruled = Ruled(
        decision_id=ruling.made,
        story_id=old["story_id"],
        plan_id=old["plan_id"],
        superseded=(ruling.decision_id,),
        flagged=tuple(sorted(flagged)),
    )
    text = f"{ruling.by} overruled {old['title']} ({ruling.decision_id}): {ruling.title} ({ruling.made})"
    return ruled, affected, _said("constraint" if binds else "decision", old["role"], text)


async def _constraint(tx: neo4j.AsyncManagedTransaction, ruling: Ruling) -> _Step:
    await check_story(tx, ruling.story_id)
    key, role = domain.task_key(ruling.plan_id, ruling.task_id), ""
    if ruling.task_id:
        found = await rows(tx, _TASK, plan_id=ruling.plan_id, key=key, story_id=ruling.story_id)
        if not found:
            raise NotFound(f"story {ruling.story_id} has no task {ruling.task_id} in a plan {ruling.plan_id}")
        role = found[0]["role"]
    belongs = {
        "story_id": ruling.story_id,
        "plan_id": ruling.plan_id,
        "task_id": ruling.task_id,
        "role": role,
    }
    await rows(tx, _DECIDE, decision_id=ruling.made, values=_values(ruling, belongs))
    await rows(tx, _AFFECT, decision_id=ruling.made, story_id=ruling.story_id)
    if ruling.task_id:
        await rows(tx, _BIND_TASK, decision_id=ruling.made, key=key)
    else:
        await rows(tx, _BIND_STORY, decision_id=ruling.made, story_id=ruling.story_id)
    ruled = Ruled(decision_id=ruling.made, story_id=ruling.story_id, plan_id=ruling.plan_id)
    text = f"{ruling.by} bound {ruling.task_id or 'the story'}: {ruling.title} ({ruling.made})"
    return ruled, [ruling.story_id], _said("constraint", role, text)


async def _affects(tx: neo4j.AsyncManagedTransaction, ruling: Ruling) -> _Step:
    decision = await _standing(tx, ruling.decision_id)
    await check_story(tx, ruling.story_id)
    if (await rows(tx, _BINDS, decision_id=ruling.decision_id))[0]["count"]:
        raise Precondition(
            f"decision {ruling.decision_id} is a constraint: bind story {ruling.story_id} with one of its own"
        )
    await rows(tx, _AFFECT, decision_id=ruling.decision_id, story_id=ruling.story_id)
    ruled = Ruled(decision_id=ruling.decision_id, story_id=ruling.story_id, plan_id="")
    text = f"{ruling.by}: {decision['title']} ({ruling.decision_id}) affects story {ruling.story_id}"
    return ruled, [ruling.story_id], _said("decision", decision["role"], text)


_STEPS = {"override": _override, "constraint": _constraint, "affects": _affects}


async def _standing(tx: neo4j.AsyncManagedTransaction, decision_id: str) -> dict[str, Any]:
    """The decision, locked; raises where there is none, or where it is superseded."""
    found = await rows(tx, _DECISION, decision_id=decision_id)
    if not found:
        raise NotFound(f"there is no decision {decision_id}")
    decision: dict[str, Any] = found[0]["c"]
    if decision.get("superseded_by"):
        raise Precondition(f"decision {decision_id} is superseded by {decision['superseded_by']}: rule on that one")
    return decision


async def check_story(tx: neo4j.AsyncManagedTransaction, story_id: str) -> None:
    """Raises NotFound for a story that the graph does not have."""
    if not await rows(tx, _STORY, story_id=story_id):
        raise NotFound(f"there is no story {story_id}")


def _events(ruling: Ruling, ruled: Ruled, affected: list[str], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The record of the ruling, and a line in the timeline of each other story that it affects."""
    said = {**values, "kind": f"context.{ruling.kind}", "plan_id": ruled.plan_id, "at": stamp(ruling.at)}
    own = ruled.story_id
    record = {**said, "story_id": own, "version": ruled.versions.get(own, 0), "ruled": domain.as_json(ruled)}
    return [
        {"event_id": ruling.event_id, "values": record},
        *(
            {
                "event_id": f"{ruling.event_id}:{story}",
                "values": {**said, "story_id": story, "version": ruled.versions[story]},
            }
            for story in affected
            if story != own
        ),
    ]


def _values(ruling: Ruling, belongs: Mapping[str, str]) -> dict[str, Any]:
    return {
        **belongs,
        "deliberation_id": "",
        "kind": ruling.kind,
        "decided_by": ruling.by,
        "protocol": "person",
        "winner": "",
        "title": ruling.title,
        "content": ruling.content,
        "rationale": ruling.reason,
        "words": domain.searched(f"{ruling.title}\n{ruling.content}"),
        "score": 0.0,
        "margin": 0.0,
        "decided_at": stamp(ruling.at),
    }


def _own_first(versions: Mapping[str, int], own: str) -> dict[str, int]:
    return {story: versions[story] for story in sorted(versions, key=lambda story: (story != own, story))}


def _fingerprints(ruling: Ruling) -> tuple[str, str]:
    """Of all but the moment, since a retry comes later: of what is not empty, and of all, as earlier releases kept it."""
    fields = dataclasses.asdict(ruling)
    del fields["at"]
    return whole({name: value for name, value in fields.items() if value}), whole(fields)
