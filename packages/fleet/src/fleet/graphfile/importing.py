"""A file into a graph database: what is missing is added, what is there stays as it is.

It goes by batches, each read and then written: what is there is compared, what is not is made. A crash between two of them
leaves a part; the same file goes on from there, since the first thing written is that this file is being imported.
"""

import dataclasses
import itertools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import neo4j

from fleet.bolt import Graph, rows
from fleet.graphfile import form
from fleet.graphfile.exporting import FORMS, Passed, size
from fleet.migrations import Migration, migrate
from fleet_wire import clock
from fleet_wire.errors import Invalid, Precondition

BATCH_LINES, BATCH_CHARACTERS = 200, 1_000_000
NAMED = 20
"""How many of those that differ are named."""
MIGRATIONS = (
    Migration(1, ("CREATE CONSTRAINT import_sha256 IF NOT EXISTS FOR (n:Import) REQUIRE n.sha256 IS UNIQUE",)),
)
"""(Import {sha256, begun_at}) for each file that was imported."""

_BEGUN = "MATCH (n:Import {sha256: $sha256}) RETURN n.begun_at AS begun_at"
_BEGIN = "MERGE (n:Import {sha256: $sha256}) ON CREATE SET n.begun_at = $now"
_RENEW = "MATCH (s:Story) SET s.born = $born RETURN count(s) AS count"
"""`born` is part of the keys in the cache: what was cached of a story is found no more."""
_HELD_NODES = "UNWIND $rows AS row MATCH (n:{label} {{{key}: row.key}}) RETURN row.at AS at, properties(n) AS held"
_ADD_NODES = """
UNWIND $rows AS row
MERGE (n:{label} {{{key}: row.key}}) ON CREATE SET n += row.values
RETURN row.at AS at"""
_ENDS = "UNWIND $rows AS row MATCH (a:{label} {{{key}: row.key}}) MATCH (b:{to_label} {{{to_key}: row.to}}) "
# Written from the node they lead to: the embedded server goes through all relations of the one that stands first, and an
# agent has as many as it made proposals (a thousand more took 36 s with few there, and 1 s this way around).
_HELD_RELATIONS = _ENDS + "MATCH (b)<-[r:{name}]-(a) RETURN row.at AS at, properties(r) AS held"
_ADD_RELATIONS = _ENDS + "MERGE (b)<-[r:{name}]-(a) ON CREATE SET r += row.values RETURN row.at AS at"

Entry = form.Node | form.Relation


@dataclasses.dataclass
class Counts:
    """What became of the file's lines. `differing` are there with other values, which stay; the first are in `named`."""

    added: int = 0
    same: int = 0
    differing: int = 0
    named: list[str] = dataclasses.field(default_factory=list)


async def imported(graph: Graph, file: form.Checked, merge: bool, dry_run: bool, passed: Passed) -> Counts:
    """Brings a file into the database; with `dry_run` it counts what that would do, and writes nothing.

    Raises Precondition where the file is of another release, or where the database has a memory that this file did not begin
    and `merge` does not allow for that; Unavailable while the database is away: the same call goes on where it was.
    """
    newest = {service: migrations[-1].number for service, migrations in FORMS.items()}
    if file.head.forms != newest:
        raise Precondition(
            f"{file.path} is of migrations {_words(file.head.forms)}, and this release is of {_words(newest)}: import it "
            "with the release that wrote it, and bring the services up to date then"
        )
    if not merge and (await size(graph)).lines and not await graph.ask(_BEGUN, sha256=file.end.sha256):
        raise Precondition(
            "the graph database has a memory already: --merge adds what it lacks, and overwrites nothing"
        )
    if not dry_run:
        for service, migrations in {**FORMS, "graphfile": MIGRATIONS}.items():
            await migrate(graph, service, migrations)
        await _write(graph, _BEGIN, sha256=file.end.sha256, now=clock.now().isoformat())
        await _renew(graph)  # what a crash leaves half done is nowhere cached as it was before
    counts = Counts()
    for batch in _batches(form.lines(file.path)):
        for kind, alike in itertools.groupby(sorted(batch, key=_kind), key=_kind):
            await _bring(graph, kind, list(alike), counts, dry_run)
        passed(len(batch))
    if not dry_run:
        await _renew(graph)  # nor what a context service cached that was not stopped
    return counts


async def _renew(graph: Graph) -> None:
    await _write(graph, _RENEW, born=uuid.uuid4().hex)


async def _bring(graph: Graph, kind: tuple[str, ...], alike: Sequence[Entry], counts: Counts, dry_run: bool) -> None:
    """Entries of one kind: adds those that are not there, and compares the others."""
    held, add = _statements(kind)
    asked = [_row(at, one) for at, one in enumerate(alike)]
    names = [{name: value for name, value in row.items() if name != "values"} for row in asked]
    found = {row["at"]: row["held"] for row in await graph.ask(held, rows=names)}
    missing = [row for row in asked if row["at"] not in found]
    for at, there in found.items():
        if form.kept(there) == alike[at].values:
            counts.same += 1
        else:
            counts.differing += 1
            if len(counts.named) < NAMED:
                counts.named.append(_name(alike[at]))
    if missing and not dry_run and len(await _write(graph, add, rows=missing)) != len(missing):
        raise Invalid(f"a relation {kind[1]} of the file leads from or to a node that neither file nor database has")
    counts.added += len(missing)


def _kind(one: Entry) -> tuple[str, ...]:
    """What entries of one statement have in common. Nodes come before relations."""
    if isinstance(one, form.Node):
        return ("", one.label)
    return ("relation", one.name, one.from_[0], one.to[0])


def _statements(kind: tuple[str, ...]) -> tuple[str, str]:
    """Asks for, and adds, entries of this kind. The names in it were checked when the file was."""
    if kind[0]:
        _, name, label, to_label = kind
        names = {
            "name": name,
            "label": label,
            "key": form.KEYS[label],
            "to_label": to_label,
            "to_key": form.KEYS[to_label],
        }
        return _HELD_RELATIONS.format(**names), _ADD_RELATIONS.format(**names)
    names = {"label": kind[1], "key": form.KEYS[kind[1]]}
    return _HELD_NODES.format(**names), _ADD_NODES.format(**names)


def _row(at: int, one: Entry) -> dict[str, Any]:
    if isinstance(one, form.Relation):
        return {"at": at, "key": one.from_[1], "to": one.to[1], "values": one.values}
    values = {**one.values, "born": uuid.uuid4().hex} if one.label == "Story" else one.values
    return {"at": at, "key": one.key, "values": values}


def _name(one: Entry) -> str:
    if isinstance(one, form.Node):
        return f"{one.label} {one.key}"
    return f"{one.name} from {one.from_[1]} to {one.to[1]}"


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Nodes are never in one batch with relations, which need them."""
    batch: list[Entry] = []
    characters = 0
    for one in entries:
        full = len(batch) == BATCH_LINES or characters > BATCH_CHARACTERS
        if batch and (full or type(one) is not type(batch[0])):
            yield batch
            batch, characters = [], 0
        batch.append(one)
        characters += sum(len(value) for value in one.values.values() if isinstance(value, str))
    if batch:
        yield batch


async def _write(graph: Graph, query: str, **parameters: Any) -> list[dict[str, Any]]:
    async def work(tx: neo4j.AsyncManagedTransaction) -> list[dict[str, Any]]:
        return await rows(tx, query, **parameters)

    return await graph.write(work)


def _words(forms: Mapping[str, int]) -> str:
    return ", ".join(f"{service} {number}" for service, number in sorted(forms.items()))
