"""A decision with what it was chosen from, as the graph holds it."""

import dataclasses
from typing import Any

import msgspec
import neo4j

from fleet.bolt import Graph, rows
from fleet.context import domain
from fleet.context.reading import decision_of
from fleet.context.related import Related, related
from fleet_wire import events
from fleet_wire.errors import NotFound

_STORY = "MATCH (s:Story {story_id: $story_id}) RETURN s"
_TASK = "MATCH (t:Task {key: $key}) RETURN t"
_DECISION = "MATCH (c:Decision {decision_id: $decision_id}) WHERE c.decided_at IS NOT NULL RETURN c"
_DELIBERATION = "MATCH (d:Deliberation {deliberation_id: $deliberation_id}) RETURN d"
_PROPOSALS = """
MATCH (p:Proposal {deliberation_id: $deliberation_id})
OPTIONAL MATCH (p)-[:CHECKED]->(k:Check)
WITH p, k ORDER BY k.place
RETURN p, collect(k) AS checks ORDER BY p.rank, p.agent_id"""
_DISSENT = """
MATCH (p:Proposal)-[r:DISSENTS]->(c:Decision {decision_id: $decision_id})
RETURN p.agent_id AS agent_id, r.content AS content, r.argument AS argument ORDER BY p.rank, p.agent_id"""


@dataclasses.dataclass(frozen=True)
class Proposal:
    agent_id: str
    rank: int
    score: float
    checks: tuple[events.Check, ...]
    content: str
    content_cut: bool
    revised: bool


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A decision with what it was chosen from, and what that took: `tokens` of prompts and answers. Titles are empty for an
    ad-hoc one, or before its plan has arrived."""

    decision: domain.Decision
    proposals: tuple[Proposal, ...]
    dissent: tuple[events.Dissent, ...]
    missing: tuple[events.MissingAgent, ...]
    related: Related
    story_title: str
    task_title: str
    how: domain.How
    tokens: int
    duration_seconds: float


async def explain(graph: Graph, decision_id: str) -> Explanation:
    """Raises NotFound for an unknown decision."""
    return await graph.read(lambda tx: _explain(tx, decision_id))


async def _explain(tx: neo4j.AsyncManagedTransaction, decision_id: str) -> Explanation:
    found = await rows(tx, _DECISION, decision_id=decision_id)
    if not found:
        raise NotFound(f"there is no decision {decision_id}")
    decision = decision_of(found[0]["c"])
    deliberation = {"deliberation_id": decision.deliberation_id}
    deliberated = await rows(tx, _DELIBERATION, **deliberation)
    record = deliberated[0]["d"] if deliberated else {}  # a person's ruling has none
    story = await rows(tx, _STORY, story_id=decision.story_id)
    task = await rows(tx, _TASK, key=domain.task_key(decision.plan_id, decision.task_id))
    return Explanation(
        decision=decision,
        proposals=tuple(_proposal(row["p"], row["checks"]) for row in await rows(tx, _PROPOSALS, **deliberation)),
        dissent=tuple(
            events.Dissent(agent_id=row["agent_id"], content=row["content"], argument=row["argument"] or "")
            for row in await rows(tx, _DISSENT, decision_id=decision_id)
        ),
        missing=msgspec.json.decode(record.get("missing") or "[]", type=tuple[events.MissingAgent, ...]),
        related=await related(tx, decision_id),
        story_title=story[0]["s"].get("title") or "" if story else "",
        task_title=task[0]["t"].get("title") or "" if task else "",
        # A decision of an earlier release says less.
        how=msgspec.json.decode(record.get("how") or "{}", type=domain.How),
        tokens=(record.get("prompt_tokens") or 0) + (record.get("completion_tokens") or 0),
        duration_seconds=record.get("duration_seconds") or 0.0,
    )


def _proposal(node: dict[str, Any], checks: list[dict[str, Any]]) -> Proposal:
    # A proposal of an earlier release holds its checks as JSON.
    found = checks or msgspec.json.decode(node.get("checks") or "[]")
    return Proposal(
        agent_id=node["agent_id"],
        rank=node["rank"],
        score=node["score"],
        checks=msgspec.convert(found, tuple[events.Check, ...]),
        content=node["content"],
        content_cut=node["content_cut"],
        revised=bool(node.get("revised")),
    )
