"""The memory in the graph database: what events write. Plain Cypher, the same on Neo4j and on the embedded server.

(Story)-[:HAS_PLAN]->(Plan)-[:HAS_TASK]->(Task)-[:DEPENDS_ON]->(Task)
(Deliberation)-[:DELIBERATES]->(Task), (Deliberation)-[:DECIDED]->(Decision)-[:AFFECTS]->(Story)
(Agent)-[:PROPOSED]->(Proposal)-[:CHECKED]->(Check), (Proposal)-[:SUPPORTS]->(Decision) where it won,
(Proposal)-[:DISSENTS {content, argument}]->(Decision), (Decision)-[:DEPENDS_ON]->(Decision)
(Decision)-[:SUPERSEDES]->(Decision) of an earlier try of its task, or, where it is a person's, of a later one

Every event leaves an (Event) with its message id, its content's fingerprint, the version it gave its story, and what the
story's timeline shows of it. An event that comes again finds it and writes nothing; so does another content under the same id:
the first one stays. An event that comes before the one it refers to makes nodes with nothing but their ids, which the later one
fills.

Nodes are named with MERGE in every statement, also where they must be there: on the embedded server a MATCH may miss what the
same transaction has just merged while others merge the same, and a statement on nothing would go unnoticed. What no other event
can make is created, since the Event guards it: a MERGE would look through all that an agent ever proposed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import neo4j

from fleet.bolt import Graph, rows
from fleet.context import domain, reliance
from fleet.context.projection import Arriving, Row, Writing, writing
from fleet_wire import events
from fleet_wire.errors import Invalid
from fleet_wire.fingerprint import is_of

KEYS = {
    "Story": "story_id",
    "Plan": "plan_id",
    "Task": "key",
    "Deliberation": "deliberation_id",
    "Agent": "agent_id",
    "Proposal": "key",
    "Check": "key",
    "Decision": "decision_id",
    "Event": "event_id",
}
"""Each label and the property that is unique in it."""

# A write to the story comes first: it makes other writers of this story wait for, or fail after, this one. An event that has no
# version yet is one that this statement has made; its story's next version is its own.
_OPEN = """
UNWIND $given.events AS e
MERGE (s:Story {story_id: e.story_id}) ON CREATE SET s.version = 0, s.born = e.born
SET s.lock = true
MERGE (a:Event {event_id: e.event_id}) ON CREATE SET a += e.values
WITH e, s, a, a.version IS NULL AS new
SET s.version = CASE WHEN new THEN s.version + 1 ELSE s.version END
SET a.version = CASE WHEN new THEN s.version ELSE a.version END
RETURN e.event_id AS event_id, new, a.fingerprint AS fingerprint, a.version AS version, a.effects AS effects,
       s.text_version AS text_version, s.text_plan AS text_plan, s.state_version AS state_version"""
_OPEN_WITHOUT_STORY = """
UNWIND $given.events AS e
MERGE (a:Event {event_id: e.event_id}) ON CREATE SET a += e.values
WITH e, a, a.version IS NULL AS new
SET a.version = coalesce(a.version, 0)
RETURN e.event_id AS event_id, new, a.fingerprint AS fingerprint, a.version AS version, a.effects AS effects"""
_SET_STORIES = """
UNWIND $given.stories AS e
MERGE (s:Story {story_id: e.story_id}) SET s += e.values"""
_SET_EFFECTS = """
UNWIND $given.effects AS e
MERGE (a:Event {event_id: e.event_id}) SET a.effects = e.effects"""
_SET_PLANS = """
UNWIND $given.plans AS e
MERGE (s:Story {story_id: e.story_id})
MERGE (p:Plan {plan_id: e.plan_id}) ON CREATE SET p.story_id = e.story_id
SET p += e.values
MERGE (s)-[:HAS_PLAN]->(p)
FOREACH (task IN e.tasks |
  MERGE (t:Task {key: task.key}) SET t += task.values
  MERGE (p)-[:HAS_TASK]->(t))
FOREACH (edge IN e.edges |
  MERGE (a:Task {key: edge.task})
  MERGE (b:Task {key: edge.other})
  MERGE (a)-[:DEPENDS_ON]->(b))
RETURN e.plan_id AS plan_id, e.story_id AS wanted, p.story_id AS owner"""
_SET_DECISIONS = """
UNWIND $given.decisions AS e
MERGE (s:Story {story_id: e.story_id})
MERGE (p:Plan {plan_id: e.plan_id}) ON CREATE SET p.story_id = e.story_id
MERGE (s)-[:HAS_PLAN]->(p)
MERGE (t:Task {key: e.task}) SET t.plan_id = e.plan_id, t.task_id = e.task_id
MERGE (p)-[:HAS_TASK]->(t)
MERGE (d:Deliberation {deliberation_id: e.deliberation_id}) SET d += e.deliberation
CREATE (d)-[:DELIBERATES]->(t)
MERGE (c:Decision {decision_id: e.decision_id}) SET c += e.decision
CREATE (d)-[:DECIDED]->(c)
CREATE (c)-[:AFFECTS]->(s)
RETURN e.plan_id AS plan_id, e.story_id AS wanted, p.story_id AS owner"""
_SET_AD_HOC_DECISIONS = """
UNWIND $given.decisions AS e
MERGE (d:Deliberation {deliberation_id: e.deliberation_id}) SET d += e.deliberation
MERGE (c:Decision {decision_id: e.decision_id}) SET c += e.decision
CREATE (d)-[:DECIDED]->(c)"""
_SET_PROPOSALS = """
UNWIND $given.proposals AS e
MERGE (a:Agent {agent_id: e.agent_id})
CREATE (a)-[:PROPOSED]->(p:Proposal {key: e.key}) SET p += e.values
FOREACH (k IN e.checks |
  CREATE (p)-[:CHECKED]->
    (:Check {key: k.key, place: k.place, name: k.name, status: k.status, score: k.score, detail: k.detail}))
FOREACH (id IN e.supports |
  MERGE (c:Decision {decision_id: id})
  CREATE (p)-[:SUPPORTS]->(c))
FOREACH (entry IN e.dissents |
  MERGE (c:Decision {decision_id: entry.decision_id})
  CREATE (p)-[:DISSENTS {content: entry.content, argument: entry.argument}]->(c))"""
MOST_AT_ONCE = 64
"""Events in one transaction."""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What became of an event: the version it gave its story (0 where it has none), whether this call wrote it, whether what
    stands under its id is this content, on which superseded decisions the one that it brought relies, and what that did to
    others when it was written."""

    version: int
    new: bool
    same: bool
    relies: tuple[str, ...] = ()
    effects: reliance.Effects = reliance.NO_EFFECTS


async def prepare(graph: Graph) -> None:
    """Has the database plan what a decided deliberation is written with, by writing nothing: a Neo4j that has just started may
    take longer to plan it than an event is waited for. Raises Unavailable."""

    async def work(tx: neo4j.AsyncManagedTransaction) -> None:
        for statement, name in ((_OPEN, "events"), (_SET_DECISIONS, "decisions"), (_SET_PROPOSALS, "proposals")):
            await rows(tx, statement, given={name: []})
        await reliance.rely(tx, ())

    await graph.write(work)


async def record(graph: Graph, batch: Sequence[Arriving]) -> list[Recorded]:
    """Writes events in one transaction, each once, and answers in their order. No two may have the same turn.

    Raises Unavailable while the database is away or too many write the same story, Invalid where one of the plans belongs to
    another story: nothing is written then.
    """
    # In one order in all replicas, so that none waits for a story whose writer waits for it.
    ordered = sorted(batch, key=lambda one: one.turn)

    async def work(tx: neo4j.AsyncManagedTransaction) -> list[Recorded]:
        found = await _opened(tx, ordered)
        new = {one: writing(one.event, found[one.name]) for one in ordered if found[one.name]["new"]}
        settled = await _fill(tx, new)
        known = {
            one: one.event.decision_id
            for one in batch
            if one not in new and isinstance(one.event, events.DeliberationCompleted) and one.event.based_on
        }
        relied = {**settled.relies, **await reliance.relied(tx, set(known.values()))}
        return [
            Recorded(
                version=found[one.name]["version"],
                new=one in new,
                same=one in new or is_of(found[one.name]["fingerprint"], one.event),
                relies=relied.get(_decision_id(new[one]) if one in new else known.get(one, ""), ()),
                effects=settled.effects.get(_decision_id(new[one]), reliance.NO_EFFECTS)
                if one in new
                else _effects_of(found[one.name]),
            )
            for one in batch
        ]

    return await graph.write(work)


async def _opened(tx: neo4j.AsyncManagedTransaction, batch: Sequence[Arriving]) -> dict[str, dict[str, Any]]:
    """Notes what arrives and gives its story the next version: what is known of each event and of its story, by the event's
    name."""
    found: dict[str, dict[str, Any]] = {}
    for statement, group in (
        (_OPEN, [one for one in batch if one.story_id]),
        (_OPEN_WITHOUT_STORY, [one for one in batch if not one.story_id]),
    ):
        opening = [
            {
                "event_id": one.name,
                "story_id": one.story_id,
                "born": one.born,
                "values": {**one.milestone, "fingerprint": one.fingerprint},
            }
            for one in group
        ]
        if opening:
            found |= {row["event_id"]: row for row in await rows(tx, statement, given={"events": opening})}
    return found


def _decision_id(written: Writing) -> str:
    return written.decision["decision_id"] if written.decision else ""


def _effects_of(row: Row) -> reliance.Effects:
    return msgspec.json.decode(row["effects"], type=reliance.Effects) if row["effects"] else reliance.NO_EFFECTS


async def _fill(tx: neo4j.AsyncManagedTransaction, new: Mapping[Arriving, Writing]) -> reliance.Settled:
    """Writes all that new events say: what their decisions rely on and did to others."""
    written = list(new.values())
    if stories := [{"story_id": one.story_id, "values": new[one].story} for one in new if new[one].story]:
        await rows(tx, _SET_STORIES, given={"stories": stories})
    if plans := [plan for one in written for plan in one.plans]:
        _check_owners(await rows(tx, _SET_PLANS, given={"plans": plans}))
    if decided := [one.decision for one in written if one.decision]:
        for statement, group in (
            (_SET_DECISIONS, [one for one in decided if one["story_id"]]),
            (_SET_AD_HOC_DECISIONS, [one for one in decided if not one["story_id"]]),
        ):
            if group:
                _check_owners(await rows(tx, statement, given={"decisions": group}))
        # In one order in all replicas: most councils have the same agents.
        proposals = [proposal for one in written for proposal in one.proposals]
        await rows(tx, _SET_PROPOSALS, given={"proposals": sorted(proposals, key=itemgetter("agent_id", "key"))})
    bases = [base for one in written for base in one.bases]
    earlier = [row for one in written for row in one.supersedes]
    if not bases and not earlier:
        return reliance.NOTHING
    own = {one.decision["decision_id"]: one.decision["story_id"] for one in written if one.decision}
    settled = await reliance.settle(tx, bases, earlier, own)
    effects = [
        {"event_id": one.name, "effects": domain.as_json(settled.effects[id])}
        for one in new
        if (id := _decision_id(new[one])) in settled.effects
    ]
    if effects:
        await rows(tx, _SET_EFFECTS, given={"effects": effects})
    return settled


def _check_owners(plans: Sequence[Row]) -> None:
    for plan in plans:
        if plan["owner"] != plan["wanted"]:
            raise Invalid(f"story_id: plan {plan['plan_id']} belongs to story {plan['owner']}, not to {plan['wanted']}")
