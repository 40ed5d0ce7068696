"""The memory out of a graph database, line by line.

No transaction sees one state of the whole database, neither on Neo4j nor on the embedded server. So what changes with every
write is read before and after: where it differs, the memory was written meanwhile, and there is no file.

Memory of this process is bounded by the keys of one label, a page, and what leads to one node. The keys are sorted here: the
embedded server would sort all that is left for every page. Relations are read by the node they lead to: an agent leads to every
proposal that it ever made, and to nothing lead so many.
"""

import collections
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping

import neo4j

from fleet.bolt import Graph
from fleet.context.migrations import MIGRATIONS as CONTEXT_MIGRATIONS
from fleet.graphfile import form
from fleet.migrations import Migration
from fleet.planning.migrations import MIGRATIONS as PLANNING_MIGRATIONS
from fleet_wire.errors import Conflict, Precondition

FORMS: Mapping[str, tuple[Migration, ...]] = {"context": CONTEXT_MIGRATIONS, "planning": PLANNING_MIGRATIONS}
PAGE = 200

_FORMS = "MATCH (m:Migration) RETURN m.service AS service, max(m.number) AS number"
_COUNT = "MATCH (n:{label}) RETURN count(n) AS count"
_LED_TO = "MATCH (n:{label})<-[r]-() RETURN count(r) AS count"
_KEYS = "MATCH (n:{label}) RETURN n.{key} AS key"
_NODES = """
UNWIND $keys AS key
MATCH (n:{label} {{{key}: key}})
RETURN key, properties(n) AS held ORDER BY key"""
_RELATIONS = """
UNWIND $keys AS key
MATCH (n:{label} {{{key}: key}})<-[r]-(o)
RETURN key, type(r) AS name, labels(o) AS labels, {other} AS other, properties(r) AS held"""
_OTHER = "CASE labels(o)[0] " + " ".join(f"WHEN '{label}' THEN o.{key}" for label, key in form.KEYS.items()) + " END"
_COUNTERS = {
    "Story": "MATCH (n:Story) RETURN sum(n.version) AS count",
    "PlanningStory": "MATCH (n:PlanningStory) RETURN sum(coalesce(n.changes, 0) + n.plans) AS count",
}
"""What goes up with a write that makes neither a node nor a relation."""

Passed = Callable[[int], object]
"""Is told how many more lines there are."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much there is, as it is counted at first, and the events that planning has not published."""

    nodes: Mapping[str, int]
    relations: Mapping[str, int]
    unpublished: int

    @property
    def lines(self) -> int:
        return sum(self.nodes.values()) + sum(self.relations.values())


async def size(graph: Graph) -> Size:
    """What a file would hold. Relations are counted by the label that they lead to."""
    nodes = {label: await _one(graph, _COUNT.format(label=label)) for label in form.KEYS}
    relations = {label: await _one(graph, _LED_TO.format(label=label)) for label, count in nodes.items() if count}
    return Size(nodes, relations, await _one(graph, _COUNT.format(label="PlanningOutbox")))


async def head(graph: Graph) -> form.Head:
    """The head of a file; raises Precondition where the database is not of the form that this release knows."""
    found = await forms(graph)
    for service, migrations in FORMS.items():
        newest = migrations[-1].number
        if found.get(service, 0) != newest:
            raise Precondition(
                f"the graph database has migration {found.get(service, 0)} of {service} and this release has {newest}: "
                f"start the {service} service of this release once, or use the `fleet` of the release that runs there"
            )
    return form.Head(form.VERSION, {service: found[service] for service in FORMS})


async def forms(graph: Graph) -> dict[str, int]:
    """The last migration that each service has applied."""
    return {row["service"]: row["number"] for row in await graph.ask(_FORMS)}


async def exported(graph: Graph, write: Callable[[bytes], object], passed: Passed) -> form.End:
    """Writes all lines of the file. Raises Precondition as `head` does, Conflict where the memory was written meanwhile."""
    tally = form.Tally()

    def put(line: form.Line) -> None:
        text = form.encode(line)
        tally.add(line, text)
        write(text)

    before = await _mark(graph)
    put(await head(graph))
    async for page in _pages(graph):
        for line in page:
            put(line)
        passed(len(page))
    if await _mark(graph) != before:
        raise Conflict("the memory was written while it was read: stop planning and context, or try again")
    end = tally.end()
    write(form.encode(end))
    return end


async def _pages(graph: Graph) -> AsyncIterator[list[form.Node] | list[form.Relation]]:
    for label, key in sorted(form.KEYS.items()):
        statement = _NODES.format(label=label, key=key)
        async for keys in _by_key(graph, label):
            yield [form.Node(label, form.kept(row["held"])) for row in await graph.ask(statement, keys=keys)]
    for label, key in sorted(form.KEYS.items()):
        statement = _RELATIONS.format(label=label, key=key, other=_OTHER)
        async for keys in _by_key(graph, label):
            made = [
                form.Relation(
                    row["name"], (row["labels"][0], row["other"]), (label, row["key"]), form.kept(row["held"])
                )
                for row in await graph.ask(statement, keys=keys)
                if row["labels"][0] in form.KEYS
            ]
            yield sorted(made, key=lambda one: (one.to, one.name, one.from_))


async def _by_key(graph: Graph, label: str) -> AsyncIterator[list[str]]:
    """The keys of a label, sorted, a page of them each time."""
    query = _KEYS.format(label=label, key=form.KEYS[label])

    async def work(tx: neo4j.AsyncManagedTransaction) -> list[str]:
        return [record["key"] async for record in await tx.run(query)]

    keys = sorted(await graph.read(work))
    for start in range(0, len(keys), PAGE):
        yield keys[start : start + PAGE]


async def _mark(graph: Graph) -> tuple[Mapping[str, int], Mapping[str, int], collections.Counter[str]]:
    now = await size(graph)
    return (
        now.nodes,
        now.relations,
        collections.Counter({name: await _one(graph, it) for name, it in _COUNTERS.items()}),
    )


async def _one(graph: Graph, query: str) -> int:
    [row] = await graph.ask(query)
    return int(row["count"] or 0)
