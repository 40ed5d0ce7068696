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

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
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
UNWIND $arrivals AS e
MERGE (s:Story {story_id: e.story_id}) ON CREATE SET s.version = 0, s.born = e.born
SET s.lock = true
MERGE (a:Arrival {event: e.event})
RETURN e.event AS event, a.fingerprint AS fingerprint, a.version AS version,
       s.text_version AS text_version, s.text_plan AS text_plan, s.state_version AS state_version"""
_CLOSE = """
UNWIND $arrivals AS e
MERGE (s:Story {story_id: e.story_id}) SET s += e.values, s.version = s.version + 1
MERGE (a:Arrival {event: e.event}) SET a.fingerprint = e.fingerprint, a.version = s.version
RETURN e.event AS event, a.version AS version"""
_OPEN_WITHOUT_STORY = """
UNWIND $arrivals AS e
MERGE (a:Arrival {event: e.event})
RETURN e.event AS event, a.fingerprint AS fingerprint, a.version AS version"""
_CLOSE_WITHOUT_STORY = """
UNWIND $arrivals AS e
MERGE (a:Arrival {event: e.event}) SET a.fingerprint = e.fingerprint, a.version = 0
RETURN e.event AS event, a.version AS version"""
_SET_PLANS = """
UNWIND $plans AS e
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
UNWIND $decisions AS e
MERGE (d:Deliberation {deliberation_id: e.deliberation_id}) SET d += e.deliberation
MERGE (c:Decision {decision_id: e.decision_id}) SET c += e.decision
MERGE (d)-[:DECIDED]->(c)
FOREACH (proposal IN e.proposals |
  MERGE (p:Proposal {key: proposal.key}) SET p += proposal.values
  MERGE (d)-[:HAS_PROPOSAL]->(p))
MERGE (w:Proposal {key: e.winner})
MERGE (c)-[:CHOSE]->(w)
FOREACH (entry IN e.dissent |
  MERGE (o:Proposal {key: entry.key})
  MERGE (o)-[r:DISSENTS_FROM]->(c) SET r.content = entry.content, r.argument = entry.argument)
FOREACH (id IN e.based_on |
  MERGE (b:Decision {decision_id: id})
  MERGE (c)-[:BASED_ON]->(b))
FOREACH (key IN e.tasks |
  MERGE (t:Task {key: key})
  MERGE (t)-[:DELIBERATED_IN]->(d))"""
MOST_AT_ONCE = 32
"""Events in one transaction."""


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


@dataclasses.dataclass(frozen=True, eq=False)
class Arriving:
    """An event to be recorded, under its name and with the fingerprint of its content. `story_id` is empty where it belongs to
    none, `born` marks the story's node if this makes it."""

    event: events.Event
    name: str
    fingerprint: str
    story_id: str
    born: str

    @property
    def turn(self) -> str:
        """Events with the same turn are written one after the other: only the first to commit wins, the others begin again."""
        return self.story_id or self.name


def arriving(event: events.Event, story_id: str, born: str) -> Arriving:
    """An event to be recorded. Its fingerprint is of what came, whatever a later release would take out of it."""
    fingerprint = hashlib.sha256(msgspec.json.encode(event)).hexdigest()
    return Arriving(event, event.message_id(), fingerprint, story_id, born)


@dataclasses.dataclass(frozen=True)
class _Writing:
    """What an event says, as the statements take it."""

    story: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    plans: tuple[Mapping[str, Any], ...] = ()
    decisions: tuple[Mapping[str, Any], ...] = ()


async def record(graph: Graph, batch: Sequence[Arriving]) -> list[Recorded]:
    """Writes events in one transaction, each once, and answers in their order. No two may have the same turn.

    Raises Unavailable while the database is away or too many write the same story, Invalid where one of the plans belongs to
    another story: nothing is written then.
    """
    # In one order in all replicas, so that none waits for a story whose writer waits for it.
    ordered = sorted(batch, key=lambda one: one.turn)

    async def work(tx: neo4j.AsyncManagedTransaction) -> list[Recorded]:
        found = await _opened(tx, ordered)
        new = {one: _writing(one.event, found[one.name]) for one in ordered if found[one.name]["fingerprint"] is None}
        await _fill(tx, list(new.values()))
        versions = await _closed(tx, new)
        return [
            Recorded(versions[one.name], new=True, same=True)
            if one in new
            else Recorded(found[one.name]["version"], new=False, same=found[one.name]["fingerprint"] == one.fingerprint)
            for one in batch
        ]

    return await graph.write(work)


async def _opened(tx: neo4j.AsyncManagedTransaction, batch: Sequence[Arriving]) -> dict[str, dict[str, Any]]:
    """What is known of each event and of its story, by the event's name."""
    found: dict[str, dict[str, Any]] = {}
    for statement, group in _by_story(batch, _OPEN, _OPEN_WITHOUT_STORY):
        arrivals = [{"event": one.name, "story_id": one.story_id, "born": one.born} for one in group]
        found |= {row["event"]: row for row in await rows(tx, statement, arrivals=arrivals)}
    return found


async def _closed(tx: neo4j.AsyncManagedTransaction, written: Mapping[Arriving, "_Writing"]) -> dict[str, int]:
    """Notes what arrived, and gives each story its text and its next version: that version, by the event's name."""
    found: dict[str, int] = {}
    for statement, group in _by_story(list(written), _CLOSE, _CLOSE_WITHOUT_STORY):
        arrivals = [
            {
                "event": one.name,
                "story_id": one.story_id,
                "fingerprint": one.fingerprint,
                "values": written[one].story,
            }
            for one in group
        ]
        found |= {row["event"]: row["version"] for row in await rows(tx, statement, arrivals=arrivals)}
    return found


def _by_story(batch: Sequence[Arriving], with_story: str, without: str) -> list[tuple[str, list[Arriving]]]:
    groups = [
        (with_story, [one for one in batch if one.story_id]),
        (without, [one for one in batch if not one.story_id]),
    ]
    return [(statement, group) for statement, group in groups if group]


async def _fill(tx: neo4j.AsyncManagedTransaction, writing: Sequence[_Writing]) -> None:
    if plans := [plan for one in writing for plan in one.plans]:
        for plan in await rows(tx, _SET_PLANS, plans=plans):
            if plan["owner"] != plan["wanted"]:
                raise Invalid(
                    f"story_id: plan {plan['plan_id']} belongs to story {plan['owner']}, not to {plan['wanted']}"
                )
    if decisions := [decision for one in writing for decision in one.decisions]:
        await rows(tx, _SET_DECISIONS, decisions=decisions)


def _writing(event: events.Event, story: Mapping[str, Any]) -> _Writing:
    """What the event says; `story` is the state its story is in."""
    match event:
        case events.StoryCreated():
            return _Writing(_text(story, 0, "", {"title": event.title, "brief": event.brief}))
        case events.StoryTransitioned():
            if story["state_version"] is not None and event.version <= story["state_version"]:
                return _Writing()
            return _Writing({"state": event.to_state, "state_version": event.version, "state_actor": event.actor})
        case events.PlanApproved():
            text = _text(story, event.plan_version, event.plan_id, msgspec.to_builtins(event.story))
            return _Writing(text, plans=(_plan(event),))
        case events.DeliberationCompleted():
            return _Writing(plans=_plan_of(event), decisions=(_decision(event),))
    raise Invalid(f"{event.TYPE} is nothing that the memory records")


def _text(story: Mapping[str, Any], version: int, plan_id: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The story's text: that of its newest plan, whatever came first."""
    if story["text_version"] is not None and (version, plan_id) <= (story["text_version"], story["text_plan"]):
        return {}
    return {**values, "text_version": version, "text_plan": plan_id}


def _plan(event: events.PlanApproved) -> dict[str, Any]:
    plan = event.plan_id
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
    return {"story_id": event.story_id, "plan_id": plan, "values": values, "tasks": tasks, "edges": edges}


def _plan_of(event: events.DeliberationCompleted) -> tuple[dict[str, Any], ...]:
    """The plan and the task that a decision belongs to, by their ids; the plan's own event says the rest."""
    if not event.plan_id:
        return ()
    names = {"plan_id": event.plan_id, "task_id": event.task_id}
    task = {"key": domain.task_key(event.plan_id, event.task_id), "values": names}
    return ({"story_id": event.story_id, "plan_id": event.plan_id, "values": {}, "tasks": [task], "edges": []},)


def _decision(event: events.DeliberationCompleted) -> dict[str, Any]:
    text = event.decision
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
    return {
        "deliberation_id": event.deliberation_id,
        "decision_id": event.decision_id,
        "deliberation": deliberation,
        "decision": decision,
        "proposals": proposals,
        "winner": domain.proposal_key(event.deliberation_id, event.winner),
        "dissent": dissent,
        "based_on": event.based_on,
        "tasks": [domain.task_key(event.plan_id, event.task_id)] if event.plan_id else [],
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
