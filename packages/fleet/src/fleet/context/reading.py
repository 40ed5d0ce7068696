"""The memory in the graph database: what contexts are made from."""

import dataclasses
import datetime as dt
import functools
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from fleet.batching import Batches
from fleet.bolt import Graph, is_answer
from fleet.context import arrivals, domain
from fleet.context.arrivals import Arrivals
from fleet.context.blocks import told_in
from fleet.context.projection import Arriving, line
from fleet_wire.errors import FleetError, Invalid, NotFound, Unavailable

READINGS = 5
"""How often a request is read anew because its story was written meanwhile."""

_HEADS = """
UNWIND $given.stories AS id
MATCH (s:Story {story_id: id})
RETURN id, s.born AS born, s.version AS version"""
_FIELDS = domain.Decision.__struct_fields__


def _listed(decision: str) -> str:
    """The properties of this decision as `_decision` takes them; null where there is none. Its node holds more, and says the name
    of each again: that would be twice as much to send and to read."""
    return f"CASE WHEN {decision} IS NULL THEN null ELSE [{', '.join(f'{decision}.{name}' for name in _FIELDS)}] END"


# What binds a task or the story is no decision that affects the story, whoever overruled it since.
# Of the timeline, only the newest that the scope allows are picked, as `blocks.told_in` says, which looks again at what is found.
# One statement for what most contexts are made of: each costs more to send, to plan and to take apart than most of what is read.
_FACTS = f"""
UNWIND $given.requests AS q
MATCH (s:Story {{story_id: q.story_id}})
OPTIONAL MATCH (p:Plan {{plan_id: q.plan_id}})
OPTIONAL MATCH (t:Task {{key: q.key}})
OPTIONAL MATCH (t)-[:DEPENDS_ON]->(:Task)<-[:DELIBERATES]-(:Deliberation)-[:DECIDED]->(d:Decision)
WITH q, s, p, t, collect({_listed("d")}) AS depended_on
OPTIONAL MATCH (x:Decision)-[:CONSTRAINS]->(s) WHERE x.superseded_by IS NULL
WITH q, s, p, t, depended_on, collect({_listed("x")}) AS of_story
OPTIONAL MATCH (y:Decision)-[:CONSTRAINS]->(t) WHERE y.superseded_by IS NULL
WITH q, s, p, t, depended_on, of_story, collect({_listed("y")}) AS of_task
OPTIONAL MATCH (v:Decision)-[:AFFECTS]->(s) WHERE v.superseded_by IS NULL AND NOT (v)-[:CONSTRAINS]->()
WITH q, s, p, t, depended_on, of_story, of_task, v ORDER BY v.decided_at DESC, v.decision_id
WITH q, s, p, t, depended_on, of_story, of_task,
     collect(CASE WHEN v.role IN q.roles THEN {_listed("v")} END)[..$affecting] AS affecting,
     collect(CASE WHEN NOT v.role IN q.roles THEN v.decision_id END)[..$affecting] AS out_of_scope
RETURN 'request' AS part, q.number AS of, [s, p, t, depended_on, of_story + of_task, affecting, out_of_scope] AS found
UNION ALL
UNWIND $given.plans AS id
MATCH (:Plan {{plan_id: id}})-[:HAS_TASK]->(k:Task) WHERE k.title IS NOT NULL
OPTIONAL MATCH (k)-[:DEPENDS_ON]->(n:Task)
WITH id, k, collect(n.task_id) AS needs
OPTIONAL MATCH (k)<-[:DELIBERATES]-(:Deliberation)-[:DECIDED]->(c:Decision)
WITH id, k, needs, count(c) AS decided
RETURN 'task' AS part, id AS of, [k.place, k.task_id, k.title, k.role, needs, decided] AS found
UNION ALL
UNWIND $given.looks AS q
MATCH (e:Event {{story_id: q.story_id}})
WITH q, e, CASE
    WHEN coalesce(e.tells_of, '') = '' THEN e.kind IN q.events OR (e.kind IN q.decided AND coalesce(e.role, '') IN q.roles)
    WHEN e.tells_of = 'decision' THEN e.tells_of IN q.kinds AND coalesce(e.role, '') IN q.roles
    ELSE e.tells_of IN q.kinds END AS seen
ORDER BY e.at DESC, e.event_id
WITH q, collect(CASE WHEN e.kind <> $summary AND seen THEN e END)[..$milestones] AS milestones,
     collect(CASE WHEN e.kind <> $summary AND NOT seen THEN e END)[..$milestones] AS hidden,
     collect(CASE WHEN e.kind = $summary THEN e END)[..1] AS summaries
RETURN 'timeline' AS part, q.number AS of, [milestones + hidden, summaries] AS found
UNION ALL
UNWIND $given.required AS id
MATCH (c:Decision {{decision_id: id}}) WHERE c.decided_at IS NOT NULL
RETURN 'decision' AS part, id AS of, {_listed("c")} AS found"""
_DECISIONS = f"""
UNWIND $given.ids AS id
MATCH (c:Decision {{decision_id: id}}) WHERE c.decided_at IS NOT NULL
RETURN {_listed("c")} AS found"""
_BINDING = """
UNWIND $given.ids AS id
MATCH (c:Decision {decision_id: id})-[:CONSTRAINS]->()
RETURN DISTINCT id"""
HEADS_AT_ONCE, FACTS_AT_ONCE = 64, 8
"""In one query. What becomes of facts takes much longer than to have read them: so few come at once that others are not kept
waiting by it."""
MOST_AFFECTING = 64
"""Decisions that affect a story without the task depending on them, of the councils in scope and of the others: the newest."""
MILESTONES = 5
"""Of a story's timeline: the newest that the scope allows, and the newest that it hides."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """What contexts are made from; requests that come at once share their queries."""

    heads: Batches[str, domain.StoryHead | None]
    facts_now: Batches[tuple[domain.ContextRequest, domain.StoryHead], domain.Facts]
    arrivals: Arrivals

    async def head(self, story_id: str) -> domain.StoryHead | None:
        """The story's version; None for a story that no event has named yet."""
        return await self.heads.ask(story_id)

    async def facts(self, request: domain.ContextRequest, head: domain.StoryHead | None = None) -> domain.Facts:
        """What the graph holds for a request, all of one version of the story; `head` is it, where it was read for this request.
        A plan that is being written to it is taken from its event.

        Raises Unavailable until the plan and the required decisions are there, or while the story is written without a pause;
        NotFound for a task that the plan does not have; Invalid for a plan or decision of another story.
        """
        head = head or await self.head(request.story_id)
        for _ in range(READINGS):
            if head is None:
                return self._arrived(request)
            found = await self.facts_now.ask((request, head))
            # What was written while the parts were read shows in the version afterwards.
            head = await self.head(request.story_id)
            if head == found.head:
                return found
        raise Unavailable(f"story {request.story_id} is being written: try again")

    def _arrived(self, request: domain.ContextRequest) -> domain.Facts:
        """All that there is of a story that the graph does not know."""
        arriving = self.arrivals.of(request.plan_id)
        if arriving is None:
            raise Unavailable(f"plan {request.plan_id} is not in the graph yet")
        facts = _checked(
            request, domain.StoryHead(request.story_id, "", 0), _NOTHING, {}, frozenset(), [], ([], []), arriving
        )
        if isinstance(facts, FleetError):
            raise facts
        return facts


def reader(graph: Graph, arriving: Arrivals | None = None) -> Reader:
    """Reads from this graph, and of plans that are being written to it."""
    arriving = arriving or Arrivals()
    return Reader(
        Batches(functools.partial(_heads, graph), HEADS_AT_ONCE, tells=is_answer),
        Batches(functools.partial(_facts, graph, arriving), FACTS_AT_ONCE, tells=is_answer),
        arriving,
    )


async def prepare(graph: Graph) -> None:
    """Has the database plan what contexts are read with, by asking for one of nothing: on a Neo4j that has just started that may
    take longer than a request does. Raises Unavailable."""
    nothing = domain.ContextRequest("", "", "", "", "", 0, domain.Scope(kinds=("milestone",)), required=("",))
    await _facts(graph, Arrivals(), [(nothing, domain.StoryHead("", "", 0))])


async def _heads(graph: Graph, story_ids: Sequence[str]) -> list[domain.StoryHead | None]:
    found = {row["id"]: row for row in await graph.ask(_HEADS, given={"stories": sorted(set(story_ids))})}
    return [domain.StoryHead(id, row["born"], row["version"]) if (row := found.get(id)) else None for id in story_ids]


async def _facts(
    graph: Graph, arriving: Arrivals, asked: Sequence[tuple[domain.ContextRequest, domain.StoryHead]]
) -> list[domain.Facts | FleetError]:
    """Where a story is written meanwhile, parts may be of two versions: then its version afterwards is not the head's."""
    requests = [
        {
            "number": number,
            "story_id": request.story_id,
            "plan_id": request.plan_id,
            "key": domain.task_key(request.plan_id, request.task_id),
            "roles": list(request.scope.affects),
        }
        for number, (request, _) in enumerate(asked)
    ]
    looks = {look: number for number, look in enumerate({(one.story_id, one.scope): None for one, _ in asked})}
    parts: dict[str, dict[Any, list[Any]]] = {"request": {}, "task": {}, "timeline": {}, "decision": {}}
    for row in await graph.ask(
        _FACTS,
        given={
            "requests": requests,
            "plans": sorted({request.plan_id for request, _ in asked}),
            "looks": [_look(number, *look) for look, number in looks.items()],
            "required": sorted({id for request, _ in asked for id in request.required}),
        },
        affecting=MOST_AFFECTING,
        milestones=MILESTONES,
        summary=domain.SUMMARIZED,
    ):
        parts[row["part"]].setdefault(row["of"], []).append(row["found"])
    found = {number: _found(*row) for number, [row] in parts["request"].items()}
    known = [
        *(_decision(row) for [row] in parts["decision"].values()),
        *(decision for row in found.values() for decision in row.depended_on),
    ]
    decisions = await _in_force(graph, {decision.decision_id: decision for decision in known})
    required = {id for request, _ in asked for id in request.required} & decisions.keys()
    binding = await _binding(graph, [_standing(decisions[id], decisions) for id in required])
    return [
        _checked(
            request,
            head,
            found.get(number),
            decisions,
            binding,
            parts["task"].get(request.plan_id, []),
            parts["timeline"].get(looks[request.story_id, request.scope], [([], [])])[0],
            arriving.of(request.plan_id),
        )
        for number, (request, head) in enumerate(asked)
    ]


def _look(number: int, story_id: str, scope: domain.Scope) -> dict[str, Any]:
    """Which events of a story's timeline the scope allows: by their kind, those of decisions by the council too."""
    kinds = scope.kinds if "milestone" in scope.kinds else ()
    telling = {kind: tells_of for kind, tells_of in domain.TELLS_OF.items() if tells_of in kinds}
    return {
        "number": number,
        "story_id": story_id,
        "kinds": list(kinds),
        "events": [kind for kind, tells_of in telling.items() if tells_of != "decision"],
        "decided": [kind for kind, tells_of in telling.items() if tells_of == "decision"],
        "roles": ["", *scope.affects],
    }


@dataclasses.dataclass(frozen=True)
class _Found:
    """What the graph has of one request, its nodes by their properties."""

    story: Mapping[str, Any]
    plan: Mapping[str, Any]
    task: Mapping[str, Any]
    depended_on: tuple[domain.Decision, ...]
    constraints: tuple[domain.Decision, ...]
    affecting: tuple[domain.Decision, ...]
    out_of_scope: tuple[str, ...]


_NOTHING = _Found({}, {}, {}, (), (), (), ())


def _found(
    story: dict[str, Any],
    plan: dict[str, Any] | None,
    task: dict[str, Any] | None,
    depended_on: list[list[Any]],
    constraints: list[list[Any]],
    affecting: list[list[Any]],
    out_of_scope: list[str],
) -> _Found:
    decisions = [tuple(map(_decision, rows)) for rows in (depended_on, constraints, affecting)]
    return _Found(story, plan or {}, task or {}, decisions[0], decisions[1], decisions[2], tuple(out_of_scope))


async def _in_force(graph: Graph, known: Mapping[str, domain.Decision]) -> dict[str, domain.Decision]:
    """The decisions that are known, and those that stand in the place of any of them, by id."""
    found = dict(known)
    while ids := {decision.superseded_by for decision in found.values()} - found.keys() - {""}:
        new = [_decision(row["found"]) for row in await graph.ask(_DECISIONS, given={"ids": sorted(ids)})]
        if not new:
            break
        found |= {decision.decision_id: decision for decision in new}
    return found


async def _binding(graph: Graph, decisions: Sequence[domain.Decision]) -> frozenset[str]:
    """Those that bind a story or a task: a person's only."""
    ruled = sorted({decision.decision_id for decision in decisions if decision.kind != "council"})
    return frozenset(row["id"] for row in await graph.ask(_BINDING, given={"ids": ruled})) if ruled else frozenset()


def _standing(decision: domain.Decision, known: Mapping[str, domain.Decision]) -> domain.Decision:
    """The decision, or the last of those that superseded it one after the other."""
    while decision.superseded_by in known:
        decision = known[decision.superseded_by]
    return decision


def _checked(
    request: domain.ContextRequest,
    head: domain.StoryHead,
    found: _Found | None,
    known: Mapping[str, domain.Decision],
    binding: frozenset[str],
    tasks: Sequence[Sequence[Any]],
    timeline: Sequence[Any],
    arriving: Arriving | None,
) -> domain.Facts | FleetError:
    """`arriving` is the plan's event where it is being written; what the graph says of the plan goes before it."""
    in_graph = arriving is None or found is None or found.plan.get("plan_version") is not None
    if arriving is not None and found is not None and not in_graph:
        found, tasks, timeline = _with_arrived(request, found, timeline, arriving)
    if found is None or found.plan.get("plan_version") is None:
        return Unavailable(f"plan {request.plan_id} is not in the graph yet")
    if found.plan["story_id"] != request.story_id:
        return Invalid(
            f"story_id: plan {request.plan_id} belongs to story {found.plan['story_id']}, not to {request.story_id}"
        )
    if request.task_id and found.task.get("title") is None:
        return NotFound(f"plan {request.plan_id} has no task {request.task_id}")
    missing = sorted(set(request.required) - known.keys())
    if missing:
        return Unavailable(f"not in the graph yet: {', '.join(missing)}")
    required = [known[id] for id in request.required]
    for decision in required:
        if decision.story_id != request.story_id:
            return Invalid(
                f"required_decision_ids: {decision.decision_id} is not a decision of story {request.story_id}"
            )
    milestones, summaries = timeline
    return domain.Facts(
        head=head,
        story=_story(found.story),
        task=_task(found.task) if request.task_id else None,
        plan=_plan(found.plan, tasks),
        required=tuple(_standing(decision, known) for decision in required),
        # Once, where it and an earlier try that it superseded are both there.
        depended_on=tuple(dict.fromkeys(_standing(decision, known) for decision in found.depended_on)),
        superseded={
            decision.decision_id: standing.decision_id
            for decision in (*required, *found.depended_on)
            if (standing := _standing(decision, known)) is not decision
        },
        binding=binding,
        affecting=found.affecting,
        out_of_scope=found.out_of_scope,
        constraints=found.constraints,
        milestones=tuple(map(milestone_of, milestones)),
        summary=next(map(milestone_of, summaries), None),
        in_graph=in_graph,
    )


def _with_arrived(
    request: domain.ContextRequest, found: _Found, timeline: Sequence[Any], arriving: Arriving
) -> tuple[_Found, list[Any], Sequence[Any]]:
    """What the graph will have of the story, the plan with its tasks, and the timeline, once it is written."""
    plan = arrivals.plan(arriving)
    needs: dict[str, list[str]] = {}
    for edge in plan["edges"]:
        needs.setdefault(edge["task"], []).append(edge["other"].partition("/")[2])
    values = {task["key"]: task["values"] for task in plan["tasks"]}
    tasks = [
        [task["place"], task["task_id"], task["title"], task["role"], needs.get(key, []), 0]
        for key, task in values.items()
    ]
    entries = [arrivals.entry(arriving), *timeline[0]]
    entries.sort(key=itemgetter("event_id"))
    entries.sort(key=itemgetter("at"), reverse=True)
    seen = [entry for entry in entries if told_in(request.scope, milestone_of(entry))]
    hidden = [entry for entry in entries if entry not in seen]
    of_plan = {"plan_id": plan["plan_id"], "story_id": plan["story_id"], **plan["values"]}
    task = values.get(domain.task_key(request.plan_id, request.task_id), {})
    told = dataclasses.replace(found, story=arrivals.story(arriving, found.story), plan=of_plan, task=task)
    return told, tasks, (seen[:MILESTONES] + hidden[:MILESTONES], timeline[1])


def decision_of(node: Mapping[str, Any]) -> domain.Decision:
    """A decision from the properties of its node."""
    return _decision([node.get(name) for name in _FIELDS])


def _decision(values: Sequence[Any]) -> domain.Decision:
    """A decision from its properties in the order of its fields; those that a council's lacks are null."""
    *_, decided_at, kind, decided_by, superseded_by, relies = values
    moment = dt.datetime.fromisoformat(decided_at)
    told = (kind or "council", decided_by or "", superseded_by or "", tuple(relies or ()))
    return domain.Decision(*(*values[:-5], moment, *told))


def _story(node: Mapping[str, Any]) -> domain.Story:
    return domain.Story(
        node["story_id"], node["title"], node["brief"], tuple(node["acceptance"]), node.get("state") or ""
    )


def _plan(node: Mapping[str, Any], tasks: Sequence[Sequence[Any]]) -> domain.Plan:
    planned = [
        domain.PlannedTask(task_id, title, role, tuple(sorted(needs)), decided > 0)
        for _, task_id, title, role, needs, decided in sorted(tasks, key=itemgetter(0, 1))
    ]
    return domain.Plan(node["plan_id"], node["plan_version"], node["approved_by"], tuple(planned))


def milestone_of(node: Mapping[str, Any]) -> domain.Milestone:
    """An entry of a timeline from the properties of its node."""
    names = (field.name for field in dataclasses.fields(domain.Milestone))
    told = domain.Milestone(**{name: node.get(name) or "" for name in names})
    # The line of what an earlier release wrote was made of what stood in the graph.
    return dataclasses.replace(told, summary=line(told.summary))


def _task(node: Mapping[str, Any]) -> domain.Task:
    return domain.Task(
        plan_id=node["plan_id"],
        task_id=node["task_id"],
        title=node["title"],
        description=node["description"],
        requirements=tuple(node["requirements"]),
        acceptance=tuple(node["acceptance"]),
    )
