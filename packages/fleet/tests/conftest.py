"""Real parts for the tests of the control plane: started once a session where tests can share them by unique ids."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
import realparts

from fleet.bolt import Graph
from fleet.settings import GraphSettings
from fleet_wire import apply
from fleet_wire import bus as bus_module


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
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[realparts.GraphServer]:
    """A graph server, shared; `.env()` is what a service process is told of it."""
    with realparts.graph_server(tmp_path_factory.mktemp("graph")) as server:
        yield server


@pytest.fixture
def own_graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[realparts.GraphServer]:
    """An embedded graph server of the test's own, empty, which it may kill and start again (`own_graph.process`)."""
    with realparts.arcade_server(tmp_path_factory.mktemp("own-graph")) as server:
        yield server


@pytest.fixture(scope="session")
def graph_settings(graph: realparts.GraphServer) -> GraphSettings:
    """The shared graph server as settings."""
    return GraphSettings.model_validate({name.lower(): value for name, value in graph.env().items()})


@pytest_asyncio.fixture
async def bolt(graph_settings: GraphSettings) -> AsyncIterator[Graph]:
    """A connection to the shared graph server, of the test's own event loop."""
    connection = Graph(graph_settings)
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
