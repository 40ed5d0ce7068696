"""The connection to the graph database, over Bolt: one driver, transactions with retries, typed errors.

Plain Cypher only: the same statements run on Neo4j and on the embedded server of the local stack.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import neo4j
import neo4j.graph
import structlog
from neo4j.exceptions import ConstraintError, DriverError, Neo4jError

from fleet.settings import GraphSettings
from fleet_wire.errors import Unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")
Work = Callable[[neo4j.AsyncManagedTransaction], Awaitable[T]]

WALKED_INTO = "Neo.ClientError.Statement.EntityNotFound"
CONSTRAINT_TRIES = 10
"""A MERGE that loses a race against another of the same key ends in a broken constraint, which the driver does not try
again. Twenty at once all got through within ten tries."""


class Graph:
    """Runs units of work in one database. Raises Unavailable while the server is away."""

    def __init__(self, settings: GraphSettings) -> None:
        self.uri = settings.neo4j_uri
        self._database = settings.neo4j_database
        self._agent = ""
        self._driver = neo4j.AsyncGraphDatabase.driver(
            settings.neo4j_uri,
            auth=(settings.neo4j_user, settings.neo4j_password.get_secret_value()),
            connection_timeout=3,
            connection_acquisition_timeout=5,
            max_transaction_retry_time=5,
            notifications_min_severity="OFF",
        )

    async def write(self, work: Work[T]) -> T:
        """Runs the work in a write transaction. It may run several times: it must be a function of what it reads."""
        for _ in range(CONSTRAINT_TRIES):
            try:
                async with self._session() as session:
                    return await session.execute_write(work)
            except (DriverError, Neo4jError) as error:
                if not lost_race(error):
                    raise self._away(error) from error
                lost = error
                await asyncio.sleep(random.uniform(0, 0.05))
        raise self._away(lost)

    async def read(self, work: Work[T]) -> T:
        """Runs the work in a read transaction."""
        try:
            async with self._session() as session:
                return await session.execute_read(work)
        except (DriverError, Neo4jError) as error:
            raise self._away(error) from error

    async def ask(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """All records of one reading query as dicts, in a transaction of its own that costs one round trip instead of three."""
        try:
            async with self._session() as session:
                return await rows(session, query, **parameters)
        except (DriverError, Neo4jError) as error:
            if not error.is_retryable():
                raise self._away(error) from error
        return await self.read(lambda tx: rows(tx, query, **parameters))  # which tries again

    async def agent(self) -> str:
        """What the server calls itself. It is asked once."""
        if not self._agent:
            try:
                async with self._session() as session:
                    summary = await (await session.run("RETURN 1")).consume()
            except (DriverError, Neo4jError) as error:
                raise self._away(error) from error
            self._agent = summary.server.agent
        return self._agent

    async def close(self) -> None:
        await self._driver.close()

    def _session(self) -> neo4j.AsyncSession:
        return self._driver.session(database=self._database, initial_retry_delay=0.02)

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(f"the graph database at {self.uri} cannot be used: {error}")


def lost_race(error: Exception) -> bool:
    """Whether another writer was quicker, in a way that the driver does not try again: of the same key, or, on the embedded
    server, by a relation that its transaction took back while this one walked along it."""
    return isinstance(error, ConstraintError) or (isinstance(error, Neo4jError) and error.code == WALKED_INTO)


def is_answer(error: Exception) -> bool:
    """Whether an error is what the database answered to a statement, and not that it is away."""
    return not isinstance(error, Unavailable) or isinstance(error.__cause__, Neo4jError)


async def rows(
    tx: neo4j.AsyncManagedTransaction | neo4j.AsyncSession, query: str, **parameters: Any
) -> list[dict[str, Any]]:
    """All records of a query as dicts, their nodes and maps as dicts too. Relations and paths are for queries to take apart.

    Lists of any length are passed in one map, `given`. Neo4j plans a statement anew for every order of magnitude that the length
    of each list among its parameters has, which takes it a second for a large one; it does not look into maps.
    """
    result = await tx.run(query, parameters)
    return [dict(zip(record.keys(), map(_plain, record), strict=True)) async for record in result]


_PLAIN = (str, type(None), int, float, bool)


def _plain(value: Any) -> Any:
    """As the driver's `Record.data`, which asks of each single text and number whether it is any of several abstract classes: a
    sixth of the processor's time that a context takes."""
    if isinstance(value, list):
        return [item if type(item) in _PLAIN else _plain(item) for item in value]
    if isinstance(value, neo4j.graph.Node):
        return dict(value.items())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
