"""Brings a service's part of the graph database to the form that this release needs: numbered migrations, each recorded.

A migration is never changed or taken away once it was released, and a new one gets the next number. Its statements must be
safe to repeat (IF NOT EXISTS, IF EXISTS, or a MERGE): Neo4j takes no data in the transaction of a constraint, so each statement
is a transaction of its own, and what a crash cut off is run again from its beginning. Replicas that start at once may all run
the same ones. Each goes through to the last that it found missing, whatever the others record meanwhile, so that the database
is left as the last migration leaves it.
"""

import asyncio
import dataclasses
import functools
import random
from collections.abc import Collection, Sequence

import neo4j
from neo4j.exceptions import ClientError

from fleet.bolt import Graph, rows
from fleet_wire import clock
from fleet_wire.errors import Unavailable

TRIES = 3

_RECORD_IS_UNIQUE = "CREATE CONSTRAINT migration_key IF NOT EXISTS FOR (m:Migration) REQUIRE m.key IS UNIQUE"
_RECORDED = "MATCH (m:Migration {service: $service}) RETURN m.number AS number"
_RECORD = """
MERGE (m:Migration {key: $key})
ON CREATE SET m.service = $service, m.number = $number, m.applied_at = $applied_at"""


@dataclasses.dataclass(frozen=True)
class Migration:
    """Statements to be run in order, each safe to repeat."""

    number: int
    statements: tuple[str, ...]


async def migrate(graph: Graph, service: str, migrations: Sequence[Migration]) -> None:
    """Applies what the database does not have yet, in order, and records it as (Migration {service, number, applied_at}).

    Raises Unavailable while the database is away; where a statement fails, naming the migration; and where the database is
    of a newer release. Call it again until it returns: nothing may be read or written before.
    """
    await state(graph, _RECORD_IS_UNIQUE)
    found = await graph.read(lambda tx: rows(tx, _RECORDED, service=service))
    for migration in pending(service, migrations, {row["number"] for row in found}):
        try:
            for statement in migration.statements:
                await state(graph, statement)
        except Unavailable as error:
            raise Unavailable(f"migration {migration.number} of {service} did not go through: {error}") from error
        values = {
            "key": f"{service} {migration.number}",
            "service": service,
            "number": migration.number,
            "applied_at": clock.now().isoformat(),
        }
        await graph.write(functools.partial(_record, values))


def pending(service: str, migrations: Sequence[Migration], applied: Collection[int]) -> list[Migration]:
    """What is still to be applied, in order. Raises Unavailable where more was applied than this release knows."""
    known, newest = max(migration.number for migration in migrations), max(applied, default=0)
    if newest > known:
        raise Unavailable(
            f"the graph database has migration {newest} of {service} and this release knows them up to {known}: "
            "run the release that made it, or a newer one"
        )
    return [migration for migration in migrations if migration.number not in applied]


async def state(graph: Graph, statement: str) -> None:
    """Runs a statement that may be repeated.

    Neo4j refuses one of two who make the same constraint or index at once, IF NOT EXISTS or not: the next try finds it.
    """
    for _ in range(TRIES - 1):
        try:
            await graph.write(functools.partial(_run, statement))
        except Unavailable as error:
            if not isinstance(error.__cause__, ClientError):
                raise
            await asyncio.sleep(random.uniform(0, 0.05))
        else:
            return
    await graph.write(functools.partial(_run, statement))


async def _run(statement: str, tx: neo4j.AsyncManagedTransaction) -> None:
    await (await tx.run(statement)).consume()


async def _record(values: dict[str, object], tx: neo4j.AsyncManagedTransaction) -> None:
    await rows(tx, _RECORD, **values)
