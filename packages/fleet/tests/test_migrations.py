"""Numbered migrations on both kinds of graph server: in order, once, also by several at once, and never backwards."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import realparts

from fleet.bolt import Graph, rows
from fleet.context import graph as memory
from fleet.context import migrations as context
from fleet.migrations import Migration, migrate, pending
from fleet.planning import migrations as planning
from fleet_wire.errors import Unavailable

LISTS = {"context": context.MIGRATIONS, "planning": planning.MIGRATIONS}


def counting(key: str, number: int) -> Migration:
    """A migration that counts how often it ran, and after how many others."""
    ran = f"MERGE (n:Ran {{key: '{key}'}}) SET n.of_{number} = coalesce(n.of_{number}, 0) + 1"
    order = f"MERGE (n:Ran {{key: '{key}'}}) SET n.order = coalesce(n.order, '') + '{number} '"
    return Migration(number, (ran, order))


async def ran(graph: Graph, key: str) -> dict[str, Any]:
    [row] = await graph.read(lambda tx: rows(tx, "MATCH (n:Ran {key: $key}) RETURN properties(n) AS p", key=key))
    return dict(row["p"])


async def recorded(graph: Graph, service: str) -> list[int]:
    query = "MATCH (m:Migration {service: $service}) RETURN m.number AS number, m.applied_at AS applied_at"
    found = await graph.read(lambda tx: rows(tx, query, service=service))
    assert all(row["applied_at"] for row in found)
    return sorted(row["number"] for row in found)


async def test_each_is_applied_in_order_and_once(each_bolt: Graph, unique: Callable[[str], str]) -> None:
    service = unique("service")
    first, second, third = (counting(service, number) for number in (1, 2, 3))
    await migrate(each_bolt, service, [first, second])
    await migrate(each_bolt, service, [first, second])
    await migrate(each_bolt, service, [first, second, third])
    assert await ran(each_bolt, service) == {"key": service, "of_1": 1, "of_2": 1, "of_3": 1, "order": "1 2 3 "}
    assert await recorded(each_bolt, service) == [1, 2, 3]


async def test_services_do_not_share_their_numbers(each_bolt: Graph, unique: Callable[[str], str]) -> None:
    one, other = unique("one"), unique("other")
    await migrate(each_bolt, one, [counting(one, 1), counting(one, 2)])
    await migrate(each_bolt, other, [counting(other, 1)])
    assert await ran(each_bolt, other) == {"key": other, "of_1": 1, "order": "1 "}


async def test_one_that_fails_is_named_stops_the_rest_and_is_tried_again(
    each_bolt: Graph, unique: Callable[[str], str]
) -> None:
    service, label = unique("service"), unique("Twin").replace("-", "_")
    await each_bolt.write(lambda tx: rows(tx, f"CREATE (:{label} {{key: 1}}) CREATE (:{label} {{key: 1}})"))
    unique_key = f"CREATE CONSTRAINT {label} IF NOT EXISTS FOR (n:{label}) REQUIRE n.key IS UNIQUE"
    migrations = [counting(service, 1), Migration(2, (unique_key,)), counting(service, 3)]
    with pytest.raises(Unavailable, match=f"^migration 2 of {service} did not go through: .*{label}"):
        await migrate(each_bolt, service, migrations)
    assert await recorded(each_bolt, service) == [1]
    await each_bolt.write(lambda tx: rows(tx, f"MATCH (n:{label}) DELETE n"))
    await migrate(each_bolt, service, migrations)
    assert await recorded(each_bolt, service) == [1, 2, 3]
    assert (await ran(each_bolt, service))["order"] == "1 3 "


async def test_a_database_of_a_newer_release_is_refused_and_left_alone(
    each_bolt: Graph, unique: Callable[[str], str]
) -> None:
    service = unique("service")
    known = [counting(service, number) for number in (1, 2, 3)]
    await migrate(each_bolt, service, known)
    with pytest.raises(Unavailable, match=f"has migration 3 of {service} and this release knows them up to 2"):
        await migrate(each_bolt, service, known[:2])
    assert (await ran(each_bolt, service))["order"] == "1 2 3 "


async def test_replicas_that_start_at_once_all_get_through(
    each_graph: realparts.GraphServer, unique: Callable[[str], str]
) -> None:
    labels = [unique("Raced").replace("-", "_") for _ in range(4)]
    statements = [f"CREATE CONSTRAINT {name} IF NOT EXISTS FOR (n:{name}) REQUIRE n.key IS UNIQUE" for name in labels]
    statements += [f"CREATE INDEX {name}_at IF NOT EXISTS FOR (n:{name}) ON (n.at)" for name in labels]
    migrations = [Migration(number, (statement,)) for number, statement in enumerate(statements, 1)]
    service = unique("service")
    replicas = [Graph(each_graph.settings()) for _ in range(4)]
    await asyncio.gather(*(migrate(replica, service, migrations) for replica in replicas))
    assert await recorded(replicas[0], service) == list(range(1, 9))
    for label in labels:
        make = f"UNWIND range(1, 2) AS n CREATE (:{label} {{key: 'one'}})"
        with pytest.raises(Unavailable):
            await replicas[0].write(lambda tx, make=make: rows(tx, make))  # type: ignore[misc]
    for replica in replicas:
        await replica.close()


async def test_both_services_prepare_one_database_at_once(own_graph: realparts.GraphServer) -> None:
    replicas = [(name, Graph(own_graph.settings())) for name in LISTS for _ in range(2)]
    await asyncio.gather(*(migrate(replica, name, LISTS[name]) for name, replica in replicas))
    for name, replica in replicas:
        assert await recorded(replica, name) == [migration.number for migration in LISTS[name]]
        await replica.close()


@pytest.mark.parametrize("service", LISTS)
def test_numbers_rise_by_one_and_statements_can_be_repeated(service: str) -> None:
    migrations = LISTS[service]
    assert [migration.number for migration in migrations] == list(range(1, len(migrations) + 1))
    for migration in migrations:
        for statement in migration.statements:
            repeatable = ("IF NOT EXISTS", "IF EXISTS", "MERGE", " DELETE ", " IS NULL ", " = '' ")
            assert any(words in statement for words in repeatable), statement


def test_every_label_of_the_memory_has_its_unique_key() -> None:
    statements = [statement for migration in context.MIGRATIONS for statement in migration.statements]
    for label, key in memory.KEYS.items():
        assert any(f"FOR (n:{label}) REQUIRE n.{key} IS UNIQUE" in statement for statement in statements), label


def test_what_is_recorded_is_not_pending() -> None:
    migrations = [Migration(number, ()) for number in (1, 2, 3)]
    assert pending("s", migrations, set()) == migrations
    assert pending("s", migrations, {1, 2}) == migrations[2:]
    assert pending("s", migrations, {1, 2, 3}) == []
