"""The memory in the graph database: what events write. Plain Cypher, the same on Neo4j and on the embedded server.

(Story)-[:HAS_PLAN]->(Plan)-[:HAS_TASK]->(Task)-[:DEPENDS_ON]->(Task), (Task)-[:DELIBERATED_IN]->(Deliberation),
(Deliberation)-[:HAS_PROPOSAL]->(Proposal), (Deliberation)-[:DECIDED]->(Decision)-[:CHOSE]->(Proposal),
(Proposal)-[:DISSENTS_FROM {content, argument}]->(Decision)-[:BASED_ON]->(Decision).

Every event leaves an (Arrival) with its message id, its content's fingerprint and the version it gave its story. An event that
comes again finds its Arrival and writes nothing; so does another content under the same id: the first one stays. An event
that comes before the one it refers to makes nodes with nothing but their ids, which the later one fills.

Nodes are named with MERGE in every statement, also where they must be there: on the embedded server a MATCH may miss what the
same transaction has just merged while others merge the same, and a statement on nothing would go unnoticed.
"""

import asyncio
import dataclasses
import datetime as dt
import hashlib
import weakref
from collections.abc import Mapping
from typing import Any

import msgspec
import neo4j

from fleet.bolt import Graph, rows
from fleet.context import domain
from fleet.deliberation.plan_rules import tasks_of
from fleet_wire import events
from fleet_wire.errors import Invalid

KEYS = {
    "Story": "story_id",
    "Plan": "plan_id",
    "Task": "key",
    "Deliberation": "deliberation_id",
    "Proposal": "key",
    "Decision": "decision_id",
    "Arrival": "event",
}
"""Each label and the property that is unique in it."""

# A write to the story comes first: it makes other writers of this story wait for, or fail after, this one.
_OPEN = """
MERGE (s:Story {story_id: $story_id}) ON CREATE SET s.version = 0, s.born = $born
SET s.lock = true
MERGE (a:Arrival {event: $event})
RETURN a.fingerprint AS fingerprint, a.version AS version,
       s.text_version AS text_version, s.text_plan AS text_plan, s.state_version AS state_version"""
_CLOSE = """
MERGE (s:Story {story_id: $story_id}) SET s.version = s.version + 1
MERGE (a:Arrival {event: $event}) SET a.fingerprint = $fingerprint, a.version = s.version
RETURN a.version AS version"""
_OPEN_WITHOUT_STORY = "MERGE (a:Arrival {event: $event}) RETURN a.fingerprint AS fingerprint, a.version AS version"
_CLOSE_WITHOUT_STORY = """
MERGE (a:Arrival {event: $event}) SET a.fingerprint = $fingerprint, a.version = 0
RETURN a.version AS version"""
_SET_STORY = "MERGE (s:Story {story_id: $story_id}) SET s += $values"
_SET_PLAN = """
MERGE (s:Story {story_id: $story_id})
MERGE (p:Plan {plan_id: $plan_id}) ON CREATE SET p.story_id = $story_id
SET p += $values
MERGE (s)-[:HAS_PLAN]->(p)
FOREACH (task IN $tasks |
  MERGE (t:Task {key: task.key}) SET t += task.values
  MERGE (p)-[:HAS_TASK]->(t))
FOREACH (edge IN $edges |
  MERGE (a:Task {key: edge.task})
  MERGE (b:Task {key: edge.other})
  MERGE (a)-[:DEPENDS_ON]->(b))
RETURN p.story_id AS story_id"""
_SET_DECISION = """
MERGE (d:Deliberation {deliberation_id: $deliberation_id}) SET d += $deliberation
MERGE (c:Decision {decision_id: $decision_id}) SET c += $decision
MERGE (d)-[:DECIDED]->(c)
FOREACH (proposal IN $proposals |
  MERGE (p:Proposal {key: proposal.key}) SET p += proposal.values
  MERGE (d)-[:HAS_PROPOSAL]->(p))
MERGE (w:Proposal {key: $winner})
MERGE (c)-[:CHOSE]->(w)
FOREACH (entry IN $dissent |
  MERGE (o:Proposal {key: entry.key})
  MERGE (o)-[r:DISSENTS_FROM]->(c) SET r.content = entry.content, r.argument = entry.argument)
FOREACH (id IN $based_on |
  MERGE (b:Decision {decision_id: id})
  MERGE (c)-[:BASED_ON]->(b))"""
_LINK_DELIBERATION = """
MERGE (d:Deliberation {deliberation_id: $deliberation_id})
MERGE (t:Task {key: $key})
MERGE (t)-[:DELIBERATED_IN]->(d)"""


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What became of an event: the version it gave its story (0 where it has none), whether this call wrote it, and whether
    what stands under its id is this content."""

    version: int
    new: bool
    same: bool


def stamp(moment: dt.datetime) -> str:
    """A moment as stored: UTC with microseconds, so that the order of the texts is the order in time."""
    return moment.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Turns:
    """One writer of a story at a time in this process, so that writers do not undo each other's work: in the database only the
    first of them to commit wins, and the others begin again. Replicas meet there all the same."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def of(self, story_id: str) -> asyncio.Lock:
        """Hold it while writing the story."""
        return self._locks.setdefault(story_id, asyncio.Lock())


async def record(graph: Graph, event: events.Event, story_id: str, born: str) -> Recorded:
    """Writes an event in one transaction, once. `born` marks the story's node if this makes it.

    Raises Unavailable while the database is away or too many write the same story, Invalid where the plan belongs to another
    story.
    """
    name, fingerprint = event.message_id(), hashlib.sha256(events.encode(event)).hexdigest()

    async def work(tx: neo4j.AsyncManagedTransaction) -> Recorded:
        begin, end = (_OPEN, _CLOSE) if story_id else (_OPEN_WITHOUT_STORY, _CLOSE_WITHOUT_STORY)
        [found] = await rows(tx, begin, event=name, story_id=story_id, born=born)
        if found["fingerprint"] is not None:
            return Recorded(found["version"], new=False, same=found["fingerprint"] == fingerprint)
        await _fill(tx, event, found)
        [closed] = await rows(tx, end, event=name, story_id=story_id, fingerprint=fingerprint)
        return Recorded(closed["version"], new=True, same=True)

    return await graph.write(work)


async def _fill(tx: neo4j.AsyncManagedTransaction, event: events.Event, story: Mapping[str, Any]) -> None:
    """Writes what the event says; `story` is the state its story is in."""
    match event:
        case events.StoryCreated():
            await _fill_text(tx, story, event.story_id, 0, "", {"title": event.title, "brief": event.brief})
        case events.StoryTransitioned():
            if story["state_version"] is None or event.version > story["state_version"]:
                values = {"state": event.to_state, "state_version": event.version, "state_actor": event.actor}
                await rows(tx, _SET_STORY, story_id=event.story_id, values=values)
        case events.PlanApproved():
            await _fill_plan(tx, event, story)
        case events.DeliberationCompleted():
            await _fill_decision(tx, event)
        case _:
            raise Invalid(f"{event.TYPE} is nothing that the memory records")


async def _fill_text(
    tx: neo4j.AsyncManagedTransaction,
    story: Mapping[str, Any],
    story_id: str,
    version: int,
    plan_id: str,
    values: Mapping[str, Any],
) -> None:
    """The story's text: that of its newest plan, whatever came first."""
    if story["text_version"] is None or (version, plan_id) > (story["text_version"], story["text_plan"]):
        values = {**values, "text_version": version, "text_plan": plan_id}
        await rows(tx, _SET_STORY, story_id=story_id, values=values)


async def _set_plan(
    tx: neo4j.AsyncManagedTransaction,
    story_id: str,
    plan_id: str,
    values: Mapping[str, Any],
    tasks: list[dict[str, Any]],
    edges: list[dict[str, str]],
) -> None:
    names = {"story_id": story_id, "plan_id": plan_id}
    [plan] = await rows(tx, _SET_PLAN, **names, values=values, tasks=tasks, edges=edges)
    if plan["story_id"] != story_id:
        raise Invalid(f"story_id: plan {plan_id} belongs to story {plan['story_id']}, not to {story_id}")


async def _fill_plan(tx: neo4j.AsyncManagedTransaction, event: events.PlanApproved, story: Mapping[str, Any]) -> None:
    plan = event.plan_id
    await _fill_text(tx, story, event.story_id, event.plan_version, plan, msgspec.to_builtins(event.story))
    values = {
        "plan_version": event.plan_version,
        "approved_by": event.approved_by,
        "approved_at": stamp(event.approved_at),
    }
    tasks = [
        {
            "key": domain.task_key(plan, task.task_id),
            "values": {
                "plan_id": plan,
                "task_id": task.task_id,
                "place": place,
                "title": task.title,
                "description": task.description,
                "role": task.role,
                "requirements": task.requirements,
                "acceptance": task.acceptance,
                "protocol": task.protocol,
            },
        }
        for place, task in enumerate(tasks_of(event))
    ]
    edges = [
        {"task": domain.task_key(plan, task.task_id), "other": domain.task_key(plan, other)}
        for task in tasks_of(event)
        for other in task.depends_on
    ]
    await _set_plan(tx, event.story_id, plan, values, tasks, edges)


async def _fill_decision(tx: neo4j.AsyncManagedTransaction, event: events.DeliberationCompleted) -> None:
    text = event.decision
    names = {"deliberation_id": event.deliberation_id, "decision_id": event.decision_id}
    belongs = {"story_id": event.story_id, "plan_id": event.plan_id, "task_id": event.task_id, "role": event.role}
    deliberation = {
        **belongs,
        "protocol": event.protocol,
        "decided_at": stamp(event.decided_at),
        "duration_seconds": event.duration_seconds,
        "prompt_tokens": event.usage.prompt,
        "completion_tokens": event.usage.completion,
        "cached_tokens": event.usage.cached,
        "missing": _json(event.missing),
        "how": _json(domain.how(event)),
    }
    decision = {
        **belongs,
        "deliberation_id": event.deliberation_id,
        "protocol": event.protocol,
        "winner": event.winner,
        "title": text.title,
        "content": text.content,
        "rationale": text.rationale,
        "words": domain.searched(f"{text.title}\n{text.content}"),
        "score": next(entry.score for entry in event.ranking if entry.agent_id == event.winner),
        "margin": event.margin,
        "decided_at": stamp(event.decided_at),
    }
    proposals = [
        {
            "key": domain.proposal_key(event.deliberation_id, entry.agent_id),
            "values": {
                "agent_id": entry.agent_id,
                "rank": entry.rank,
                "score": entry.score,
                "checks": _json(entry.checks),
                "content": entry.content,
                "content_cut": entry.content_cut,
                "revised": entry.revised,
            },
        }
        for entry in event.ranking
    ]
    dissent = [
        {
            "key": domain.proposal_key(event.deliberation_id, entry.agent_id),
            "content": entry.content,
            "argument": entry.argument,
        }
        for entry in event.dissent
    ]
    await rows(
        tx,
        _SET_DECISION,
        **names,
        deliberation=deliberation,
        decision=decision,
        proposals=proposals,
        winner=domain.proposal_key(event.deliberation_id, event.winner),
        dissent=dissent,
        based_on=event.based_on,
    )
    if event.plan_id:
        key = domain.task_key(event.plan_id, event.task_id)
        task = {"key": key, "values": {"plan_id": event.plan_id, "task_id": event.task_id}}
        await _set_plan(tx, event.story_id, event.plan_id, {}, [task], [])
        await rows(tx, _LINK_DELIBERATION, key=key, deliberation_id=event.deliberation_id)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
