"""The store in the graph database. Its nodes are PlanningStory, PlanningPlan, PlanningTransition and PlanningOutbox; nobody else
writes them.

What is asked for stands in properties of its own; lists, budgets, and the story as a plan saw it, are JSON text.

Two writers of one story, of its plans or of its counter of plans must not both win. A lock in the database (Neo4j, which reads
committed data only and keeps no reader out) or its refusal of the later one (the embedded server) sees to that, provided that the
story's node is written, by `_lock`, before what decides is read.
"""

import dataclasses
import datetime as dt
from typing import Any

import msgspec
import neo4j

from fleet.bolt import Graph, rows
from fleet.migrations import migrate
from fleet.planning.domain import Plan, PlanState, PlanSummary, Story, StoryWithPlans, Transitioned
from fleet.planning.migrations import MIGRATIONS
from fleet.planning.store import Outgoing, PlanStep, StoryStep, position, stamp
from fleet.planning.transitions import FIRST, StoryState
from fleet_wire.errors import NotFound

KEYS = {"PlanningStory": "story_id", "PlanningPlan": "plan_id", "PlanningTransition": "transition_id"}
"""Each label that is kept and the property that is unique in it."""

Tx = neo4j.AsyncManagedTransaction


class GraphStore:
    """See `store.Store`."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    async def prepare(self) -> None:
        await migrate(self._graph, "planning", MIGRATIONS)

    async def create_story(self, story: Story, event: Outgoing) -> Story:
        async def work(tx: Tx) -> Story:
            found = await _story(tx, story.story_id)
            if found is not None:
                return found
            values = {**_story_values(story), "plans": 0}
            await rows(tx, "CREATE (s:PlanningStory) SET s = $values", values=values)
            await _save_event(tx, event)
            return story

        return await self._graph.write(work)

    async def story(self, story_id: str) -> StoryWithPlans | None:
        async def work(tx: Tx) -> StoryWithPlans | None:
            story = await _story(tx, story_id)
            return None if story is None else await _whole(tx, story)

        return await self._graph.read(work)

    async def stories(
        self, limit: int, before: str = "", plan_state: PlanState | None = None, state: StoryState | None = None
    ) -> list[StoryWithPlans]:
        start = (
            "MATCH (p:PlanningPlan {state: $plan_state}) WITH DISTINCT p.story_id AS story_id " if plan_state else ""
        )
        match = "MATCH (s:PlanningStory {story_id: story_id}) " if plan_state else "MATCH (s:PlanningStory) "
        # Stories written before they had states are in the first.
        tests = ["s.position < $before"] * bool(before) + ["coalesce(s.state, $first) = $state"] * bool(state)
        where = f"WHERE {' AND '.join(tests)} " if tests else ""
        query = start + match + where + "RETURN s ORDER BY s.position DESC LIMIT $limit"

        async def work(tx: Tx) -> list[StoryWithPlans]:
            found = await rows(tx, query, plan_state=plan_state, state=state, first=FIRST, before=before, limit=limit)
            return await _with_plans(tx, [_read_story(row["s"]) for row in found])

        return await self._graph.read(work)

    async def transition_story(self, story_id: str, transition_id: str, step: StoryStep) -> Transitioned:
        async def work(tx: Tx) -> Transitioned:
            old = await _lock(tx, story_id)
            found = await rows(tx, "MATCH (t:PlanningTransition {transition_id: $id}) RETURN t", id=transition_id)
            if found:
                return msgspec.convert(found[0]["t"], Transitioned)
            new, record, event = step(await _whole(tx, old))
            values = {**dataclasses.asdict(record), "transitioned_at": stamp(record.transitioned_at)}
            await _set_story(tx, old, new)
            await rows(tx, "CREATE (t:PlanningTransition) SET t = $values", values=values)
            await _save_event(tx, event)
            return record

        return await self._graph.write(work)

    async def propose_plan(self, plan: Plan) -> Plan:
        story_id = plan.story.story_id

        async def work(tx: Tx) -> Plan:
            found = await _plan(tx, plan.plan_id)
            if found is not None:
                return found
            counted = await rows(
                tx,
                "MATCH (s:PlanningStory {story_id: $story_id}) SET s.plans = s.plans + 1 RETURN s.plans AS version",
                story_id=story_id,
            )
            if not counted:
                raise NotFound(f"there is no story {story_id}")
            new = dataclasses.replace(plan, version=counted[0]["version"])
            await rows(tx, "CREATE (p:PlanningPlan) SET p = $values", values=_plan_values(new))
            return new

        return await self._graph.write(work)

    async def plan(self, plan_id: str) -> Plan | None:
        async def work(tx: Tx) -> Plan | None:
            return await _plan(tx, plan_id)

        return await self._graph.read(work)

    async def change_plan(self, plan_id: str, step: PlanStep) -> Plan:
        async def work(tx: Tx) -> Plan:
            found = await rows(
                tx, "MATCH (p:PlanningPlan {plan_id: $plan_id}) RETURN p.story_id AS story_id", plan_id=plan_id
            )
            if not found:
                raise NotFound(f"there is no plan {plan_id}")
            story = await _lock(tx, found[0]["story_id"])
            old = await _plan(tx, plan_id)
            assert old is not None, "plans are never deleted"
            change = step(old, await _whole(tx, story))
            await _set_story(tx, story, change.story)
            if change.plan != old:
                await rows(
                    tx,
                    "MATCH (p:PlanningPlan {plan_id: $plan_id}) SET p += $values",
                    plan_id=plan_id,
                    values=_decided(change.plan),
                )
            if change.superseded:
                await rows(
                    tx,
                    "UNWIND $others AS id MATCH (p:PlanningPlan {plan_id: id}) "
                    "SET p.state = 'superseded', p.superseded_by = $plan_id",
                    others=list(change.superseded),
                    plan_id=plan_id,
                )
            if change.event is not None:
                await _save_event(tx, change.event)
            return change.plan

        return await self._graph.write(work)

    async def pending(self, limit: int) -> list[Outgoing]:
        query = "MATCH (o:PlanningOutbox) RETURN o ORDER BY o.position LIMIT $limit"

        async def work(tx: Tx) -> list[Outgoing]:
            return [msgspec.convert(row["o"], Outgoing) for row in await rows(tx, query, limit=limit)]

        # What is committed while the nodes are gone through may be passed by in part: a story's later event seen, the one
        # before it not. Whoever looks a second time finds those that come before one that was seen; where all that were seen
        # are gone by then, another relay is at work.
        while seen := {item.story_id: item.position for item in await self._graph.read(work)}:
            found = [item for item in await self._graph.read(work) if item.position <= seen.get(item.story_id, "")]
            if found:
                return found
        return []

    async def forget(self, message_id: str) -> None:
        async def work(tx: Tx) -> None:
            await rows(tx, "MATCH (o:PlanningOutbox {message_id: $message_id}) DELETE o", message_id=message_id)

        await self._graph.write(work)


async def _story(tx: Tx, story_id: str) -> Story | None:
    found = await rows(tx, "MATCH (s:PlanningStory {story_id: $story_id}) RETURN s", story_id=story_id)
    return _read_story(found[0]["s"]) if found else None


async def _lock(tx: Tx, story_id: str) -> Story:
    """The story, which nobody else can change until the transaction ends: it is written first and read after that."""
    await rows(
        tx,
        "MATCH (s:PlanningStory {story_id: $story_id}) SET s.changes = coalesce(s.changes, 0) + 1",
        story_id=story_id,
    )
    story = await _story(tx, story_id)
    if story is None:
        raise NotFound(f"there is no story {story_id}")
    return story


async def _set_story(tx: Tx, old: Story, new: Story) -> None:
    if new != old:
        values = _story_values(new)
        await rows(
            tx, "MATCH (s:PlanningStory {story_id: $story_id}) SET s += $values", story_id=new.story_id, values=values
        )


async def _plan(tx: Tx, plan_id: str) -> Plan | None:
    found = await rows(tx, "MATCH (p:PlanningPlan {plan_id: $plan_id}) RETURN p", plan_id=plan_id)
    return _read_plan(found[0]["p"]) if found else None


async def _whole(tx: Tx, story: Story) -> StoryWithPlans:
    found = await rows(
        tx, "MATCH (t:PlanningTransition {story_id: $id}) RETURN t ORDER BY t.version", id=story.story_id
    )
    made = tuple(msgspec.convert(row["t"], Transitioned) for row in found)
    return dataclasses.replace((await _with_plans(tx, [story]))[0], transitions=made)


async def _with_plans(tx: Tx, stories: list[Story]) -> list[StoryWithPlans]:
    plans: dict[str, list[PlanSummary]] = {story.story_id: [] for story in stories}
    found = await rows(
        tx,
        "UNWIND $ids AS id MATCH (p:PlanningPlan {story_id: id}) "
        "RETURN p.story_id AS story_id, p.plan_id AS plan_id, p.version AS version, p.state AS state, "
        "p.proposed_at AS proposed_at ORDER BY p.version",
        ids=list(plans),
    )
    for row in found:
        plans[row["story_id"]].append(msgspec.convert(row, PlanSummary))
    return [StoryWithPlans(story, tuple(plans[story.story_id])) for story in stories]


async def _save_event(tx: Tx, event: Outgoing) -> None:
    await rows(tx, "CREATE (o:PlanningOutbox) SET o = $values", values=dataclasses.asdict(event))


def _story_values(story: Story) -> dict[str, Any]:
    return {
        "story_id": story.story_id,
        "position": position(story),
        "title": story.title,
        "brief": story.brief,
        "acceptance": _json(story.acceptance),
        "phase": story.phase,
        "actor": story.actor,
        "created_at": stamp(story.created_at),
        "state": story.state,
        "version": story.version,
        "changed_at": _stamp(story.changed_at),
    }


def _read_story(values: dict[str, Any]) -> Story:
    return msgspec.convert({**values, "acceptance": msgspec.json.decode(values["acceptance"])}, Story)


def _plan_values(plan: Plan) -> dict[str, Any]:
    return {
        "plan_id": plan.plan_id,
        "story_id": plan.story.story_id,
        "story": _json(plan.story),
        "version": plan.version,
        "roles": _json(plan.roles),
        "tasks": _json(plan.tasks),
        "budget": _json(plan.budget),
        "proposed_at": stamp(plan.proposed_at),
        **_decided(plan),
    }


def _decided(plan: Plan) -> dict[str, Any]:
    """What may still change of a plan."""
    return {
        "state": plan.state,
        "decided_by": plan.decided_by,
        "decided_at": _stamp(plan.decided_at),
        "reject_reason": plan.reject_reason,
        "completed_at": _stamp(plan.completed_at),
        "superseded_by": plan.superseded_by,
    }


def _read_plan(values: dict[str, Any]) -> Plan:
    texts = {"budget": "{}", **values}  # plans written before there were budgets have none
    parsed = {name: msgspec.json.decode(texts[name]) for name in ("story", "roles", "tasks", "budget")}
    return msgspec.convert({**values, **parsed}, Plan)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _stamp(moment: dt.datetime | None) -> str | None:
    return None if moment is None else stamp(moment)
