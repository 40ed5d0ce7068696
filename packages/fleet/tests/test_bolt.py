"""The contract of the one adapter that speaks Bolt, on both kinds of graph server."""

import asyncio
from collections.abc import Callable
from typing import Any

import neo4j
import pytest
import realparts
from pydantic import SecretStr

from fleet.bolt import Graph, rows
from fleet.migrations import Migration, migrate
from fleet_wire.errors import Invalid, Unavailable

Tx = neo4j.AsyncManagedTransaction
KEPT = (Migration(1, ("CREATE CONSTRAINT bolt_kept IF NOT EXISTS FOR (n:BoltKept) REQUIRE n.key IS UNIQUE",)),)


@pytest.fixture
async def store(each_bolt: Graph) -> Graph:
    """A database in which BoltKept nodes have a unique key."""
    await migrate(each_bolt, "bolt-test", KEPT)
    return each_bolt


async def put(store: Graph, key: str, **values: Any) -> None:
    await store.write(lambda tx: rows(tx, "MERGE (n:BoltKept {key: $key}) SET n += $values", key=key, values=values))


async def got(store: Graph, key: str) -> list[dict[str, Any]]:
    found = await store.read(lambda tx: rows(tx, "MATCH (n:BoltKept {key: $key}) RETURN n", key=key))
    return [row["n"] for row in found]


async def test_what_was_written_is_read_as_it_was(store: Graph, unique: Callable[[str], str]) -> None:
    key = unique("key")
    values = {"text": "“é” \\ \n\x01", "number": 2**40, "share": 0.1, "flag": True, "words": ["a", "b"], "none_of": []}
    await put(store, key, **values, absent=None)
    assert await got(store, key) == [{"key": key, **values}]


async def test_nodes_in_lists_and_maps_are_read_as_nodes_are(store: Graph, unique: Callable[[str], str]) -> None:
    key = unique("key")
    await put(store, key, words=["a", "b"])
    query = "MATCH (n:BoltKept {key: $key}) RETURN collect(n) AS listed, {inner: n, none: null, words: n.words} AS map"
    node = {"key": key, "words": ["a", "b"]}
    [found] = await store.ask(query, key=key)
    assert found == {"listed": [node], "map": {"inner": node, "none": None, "words": ["a", "b"]}}


async def test_work_that_raises_leaves_nothing_and_its_error_comes_out(
    store: Graph, unique: Callable[[str], str]
) -> None:
    key = unique("key")

    async def work(tx: Tx) -> None:
        await rows(tx, "CREATE (n:BoltKept {key: $key})", key=key)
        raise Invalid("not like this")

    with pytest.raises(Invalid, match="not like this"):
        await store.write(work)
    assert await got(store, key) == []


async def test_what_is_not_committed_is_not_read(store: Graph, unique: Callable[[str], str]) -> None:
    key = unique("key")
    await put(store, key, state="before")

    async def work(tx: Tx) -> list[dict[str, Any]]:
        await rows(tx, "MATCH (n:BoltKept {key: $key}) SET n.state = 'after'", key=key)
        return await got(store, key)

    assert [node["state"] for node in await store.write(work)] == ["before"]
    assert [node["state"] for node in await got(store, key)] == ["after"]


async def test_twenty_who_make_one_key_at_once_make_one_node(store: Graph, unique: Callable[[str], str]) -> None:
    key = unique("key")
    await asyncio.gather(*(put(store, key) for _ in range(20)))
    assert await got(store, key) == [{"key": key}]


async def test_who_writes_before_it_reads_sees_what_the_one_before_it_left(
    store: Graph, unique: Callable[[str], str]
) -> None:
    """What planning and context rest on: the write takes the lock, or makes the later one begin again."""
    key = unique("key")
    await put(store, key, count=0)

    async def add(tx: Tx) -> None:
        [row] = await rows(tx, "MATCH (n:BoltKept {key: $key}) SET n.lock = true RETURN n.count AS count", key=key)
        await asyncio.sleep(0)  # others come in between
        await rows(tx, "MATCH (n:BoltKept {key: $key}) SET n.count = $count", key=key, count=row["count"] + 1)

    async def added() -> None:
        while True:
            try:
                return await store.write(add)
            except Unavailable:  # on a busy machine it may lose for longer than the driver tries
                await asyncio.sleep(0.05)

    await asyncio.gather(*(got(store, key) for _ in range(8)))  # opens the connections, so that all begin at once
    await asyncio.gather(*(added() for _ in range(8)))
    assert [node["count"] for node in await got(store, key)] == [8]


async def test_a_wrong_password_is_unavailable_and_is_not_shown(each_graph: realparts.GraphServer) -> None:
    settings = each_graph.settings().model_copy(update={"neo4j_password": SecretStr("wrong-one")})
    graph = Graph(settings)
    with pytest.raises(Unavailable, match=f"the graph database at {each_graph.uri} cannot be used") as refused:
        await graph.read(lambda tx: rows(tx, "RETURN 1 AS one"))
    await graph.close()
    assert "wrong-one" not in str(refused.value)


async def test_a_server_that_is_not_there_is_unavailable(graph_settings: Any) -> None:
    away = Graph(graph_settings.model_copy(update={"neo4j_uri": f"bolt://127.0.0.1:{realparts.free_port()}"}))
    with pytest.raises(Unavailable, match="cannot be used"):
        await away.write(lambda tx: rows(tx, "RETURN 1 AS one"))
    await away.close()
