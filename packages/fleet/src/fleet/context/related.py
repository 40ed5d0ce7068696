"""What stands around a decision in the graph: what it depended on, what has depended on it since, what took whose place."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import neo4j

from fleet.bolt import rows

MOST_DEPENDENTS = 200

_BASES = "MATCH (c:Decision {decision_id: $decision_id})-[:DEPENDS_ON]->(o:Decision) RETURN o ORDER BY o.decision_id"
_SUPERSEDES = (
    "MATCH (c:Decision {decision_id: $decision_id})-[:SUPERSEDES]->(o:Decision) WHERE o.decided_at IS NOT NULL "
    "RETURN o ORDER BY o.decision_id"
)
_ONE = "MATCH (o:Decision {decision_id: $decision_id}) RETURN o"
_DEPENDENTS = """
UNWIND $given.ids AS id
MATCH (c:Decision {decision_id: id})<-[:DEPENDS_ON]-(o:Decision)
WHERE o.decided_at IS NOT NULL
RETURN id, o ORDER BY o.decided_at, o.decision_id"""
_AFFECTS = "MATCH (c:Decision {decision_id: $decision_id})-[:AFFECTS]->(s:Story) RETURN s.story_id AS id ORDER BY id"
_CONSTRAINS = """
MATCH (c:Decision {decision_id: $decision_id})-[:CONSTRAINS]->(n)
RETURN coalesce(n.key, n.story_id) AS id ORDER BY id"""


@dataclasses.dataclass(frozen=True)
class RelatedDecision:
    """A decision beside the one that is asked for, `through` which or another one it is related."""

    decision_id: str
    title: str
    role: str
    kind: str
    decided_by: str
    superseded_by: str
    through: str


@dataclasses.dataclass(frozen=True)
class Related:
    """`dependents` are the nearest first, those through others too, MOST_DEPENDENTS of them; `superseded_by` leads to
    the decision that stands. `constrains` names stories, and tasks as plan/task."""

    bases: tuple[RelatedDecision, ...]
    dependents: tuple[RelatedDecision, ...]
    dependents_cut: bool
    supersedes: tuple[RelatedDecision, ...]
    superseded_by: tuple[RelatedDecision, ...]
    affects: tuple[str, ...]
    constrains: tuple[str, ...]


async def related(tx: neo4j.AsyncManagedTransaction, decision_id: str) -> Related:
    """What is around a decision that is there."""
    names = {"decision_id": decision_id}
    dependents = await _dependents(tx, decision_id)
    return Related(
        bases=tuple(_related(row["o"], decision_id) for row in await rows(tx, _BASES, **names)),
        dependents=tuple(dependents[:MOST_DEPENDENTS]),
        dependents_cut=len(dependents) > MOST_DEPENDENTS,
        supersedes=tuple(_related(row["o"], decision_id) for row in await rows(tx, _SUPERSEDES, **names)),
        superseded_by=await _superseded_by(tx, decision_id),
        affects=tuple(row["id"] for row in await rows(tx, _AFFECTS, **names)),
        constrains=tuple(row["id"] for row in await rows(tx, _CONSTRAINS, **names)),
    )


async def _dependents(tx: neo4j.AsyncManagedTransaction, decision_id: str) -> list[RelatedDecision]:
    """A step away each time, until none is new or there are too many."""
    seen, found = {decision_id}, list[RelatedDecision]()
    step: Sequence[str] = [decision_id]
    while step and len(found) <= MOST_DEPENDENTS:
        fresh = []
        for row in await rows(tx, _DEPENDENTS, given={"ids": step}):
            if (one := _related(row["o"], row["id"])).decision_id not in seen:
                seen.add(one.decision_id)
                fresh.append(one)
        found += fresh
        step = [one.decision_id for one in fresh]
    return found


async def _superseded_by(tx: neo4j.AsyncManagedTransaction, decision_id: str) -> tuple[RelatedDecision, ...]:
    found = list[RelatedDecision]()
    at, seen = decision_id, set[str]()
    while at not in seen:
        seen.add(at)
        [row] = await rows(tx, _ONE, decision_id=at)
        if at != decision_id:
            found.append(_related(row["o"], found[-1].decision_id if found else decision_id))
        at = row["o"].get("superseded_by") or at
    return tuple(found)


def _related(node: Mapping[str, Any], through: str) -> RelatedDecision:
    """A decision that was only named so far has nothing but its id."""
    texts = {name: node.get(name) or "" for name in ("title", "role", "decided_by", "superseded_by")}
    return RelatedDecision(decision_id=node["decision_id"], kind=node.get("kind") or "", through=through, **texts)
