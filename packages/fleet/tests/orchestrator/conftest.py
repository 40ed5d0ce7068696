"""What most tests of the orchestrator stand on: a NATS server with all streams, and the services around it, played."""

from collections.abc import AsyncIterator

import harness
import pytest
import realparts

from fleet_wire.bus import Bus


@pytest.fixture
async def server(own_nats: realparts.Nats) -> AsyncIterator[Bus]:
    connection = await harness.fresh_bus(own_nats.url)
    yield connection
    await connection.close()


@pytest.fixture
def peers(server: Bus) -> harness.Peers:
    return harness.Peers(server)
