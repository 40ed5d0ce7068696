"""Real parts for the tests of the control plane: started once a session where tests can share them by unique ids."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
import realparts
from hypothesis import settings

from fleet.bolt import Graph
from fleet.settings import GraphSettings
from fleet_wire import apply
from fleet_wire import bus as bus_module

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("fleet", deadline=None)
settings.load_profile("fleet")


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A nats-server with JetStream, shared. Do not remove its streams: take `own_nats` for that."""
    with realparts.nats_server(tmp_path_factory.mktemp("nats")) as server:
        yield server.url


@pytest.fixture
def own_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[realparts.Nats]:
    """A nats-server of the test's own, empty, which it may kill and start again (`own_nats.process`)."""
    with realparts.nats_server(tmp_path_factory.mktemp("own-nats")) as server:
        yield server


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[realparts.GraphServer]:
    """The embedded graph server, shared."""
    with realparts.arcade_server(tmp_path_factory.mktemp("graph")) as server:
        yield server


@pytest.fixture(scope="session")
def neo4j(tmp_path_factory: pytest.TempPathFactory) -> Iterator[realparts.GraphServer]:
    """A Neo4j, shared: that of TEST_NEO4J_URI where set, else one of ours. Only contract tests of the stores run on it."""
    if given := realparts.neo4j_of_environment():
        yield given
        return
    if reason := realparts.why_no_neo4j():
        pytest.skip(f"NOT TESTED on Neo4j: {reason}")
    with realparts.neo4j_server(tmp_path_factory.mktemp("neo4j")) as server:
        yield server


@pytest.fixture(scope="session")
def graph(request: pytest.FixtureRequest) -> realparts.GraphServer:
    """A graph server, shared: the Neo4j of TEST_NEO4J_URI where set, else the embedded one. `.env()` is what a service
    process is told of it."""
    server: realparts.GraphServer = request.getfixturevalue("neo4j" if realparts.neo4j_of_environment() else "embedded")
    return server


@pytest.fixture(params=["embedded", "neo4j"])
def each_graph(request: pytest.FixtureRequest) -> realparts.GraphServer:
    """Both kinds of graph server, one after the other: for the contract tests of what reads and writes there."""
    server: realparts.GraphServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def empty_graph(embedded: realparts.GraphServer) -> Iterator[realparts.GraphServer]:
    """The shared embedded graph server with nothing in it, before the test and after it: in seconds less than one of its own."""
    realparts.empty(embedded)
    yield embedded
    realparts.empty(embedded)


@pytest.fixture
def empty_neo4j(neo4j: realparts.GraphServer) -> Iterator[realparts.GraphServer]:
    """The same on the shared Neo4j, where it is ours to empty."""
    if realparts.neo4j_of_environment():
        pytest.skip("NOT TESTED on Neo4j: the database of TEST_NEO4J_URI is not ours to empty")
    realparts.empty(neo4j)
    yield neo4j
    realparts.empty(neo4j)


@pytest.fixture
def own_graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[realparts.GraphServer]:
    """An embedded graph server of the test's own, empty, which it may kill and start again (`own_graph.process`)."""
    with realparts.arcade_server(tmp_path_factory.mktemp("own-graph")) as server:
        yield server


@pytest.fixture(scope="session")
def graph_settings(graph: realparts.GraphServer) -> GraphSettings:
    """The shared graph server as settings."""
    return graph.settings()


@pytest_asyncio.fixture
async def bolt(graph_settings: GraphSettings) -> AsyncIterator[Graph]:
    """A connection to the shared graph server, of the test's own event loop."""
    connection = Graph(graph_settings)
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def each_bolt(each_graph: realparts.GraphServer) -> AsyncIterator[Graph]:
    """A connection to both kinds of graph server, one after the other."""
    connection = Graph(each_graph.settings())
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey, shared."""
    with realparts.valkey_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest_asyncio.fixture
async def bus(nats_url: str) -> AsyncIterator[bus_module.Bus]:
    """A connection to the shared nats-server, all streams and buckets there."""
    connection = await bus_module.connect(nats_url, "tests")
    await apply.apply(connection)
    yield connection
    await connection.close()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes ids that no other test has: `unique("story")`."""
    return lambda prefix: f"{prefix}-{uuid.uuid4().hex[:12]}"
