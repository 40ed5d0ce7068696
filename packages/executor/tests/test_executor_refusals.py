"""When there is no cluster, the wrong one, or one that goes away: the service stays up, and says what is missing."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
import stack
from grpc_health.v1 import health_pb2
from integration import Client, request
from test_executor_service import health

from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb
from fleet_wire.rpc import call


async def reason(client: Client, words: str) -> str:
    async def check() -> str:
        status = await client.status()
        return status.reason if not status.ready and words in status.reason else ""

    found: str = await client.until(f"a reason with {words!r}", check)
    return found


@pytest.mark.reference_only
async def test_without_a_cluster_it_says_so_and_takes_no_jobs(nats_url: str, bus: Bus, tmp_path: Path) -> None:
    address = f"127.0.0.1:{stack.free_port()}"
    executor = stack.Executor(tmp_path, {"NATS_URL": nats_url, "RAY_ADDRESS": address, "LOG_FORMAT": "json"})
    try:
        async with Client(executor.address) as client:
            assert address in await reason(client, "ray: the Ray cluster at")
            assert await health(executor) == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(Unavailable, match="the Ray cluster"):
                await client.execute(request(["a"]))
            with pytest.raises(Unavailable):
                await call(client.stub.GetClusterStats(pb.GetClusterStatsRequest(), timeout=15), "the executor")
        assert executor.stop() == 0
    finally:
        executor.kill()


@pytest.mark.reference_only
async def test_without_its_streams_it_waits_and_names_them(tmp_path: Path, model: object) -> None:
    with stack.nats_server(tmp_path) as url:
        address = f"127.0.0.1:{stack.free_port()}"
        executor = stack.Executor(tmp_path, {"NATS_URL": url, "RAY_ADDRESS": address, "LOG_FORMAT": "json"})
        try:
            async with Client(executor.address) as client:
                said = await reason(client, "KV_jobs does not exist")
                assert "AGENT_RESULTS" in said and "fleet streams apply" in said
            assert executor.stop() == 0
        finally:
            executor.kill()


@pytest.mark.reference_only
async def test_an_executor_of_other_versions_says_what_to_install(
    other_python: str, settings: dict[str, str], bus: Bus, tmp_path: Path
) -> None:
    executor = stack.Executor(tmp_path, settings, python=other_python)
    try:
        async with Client(executor.address) as client:
            said = await reason(client, "runs Ray")
            theirs = f"{sys.version_info.major}.{sys.version_info.minor}"
            assert re.search(rf"install ray=={metadata.version('ray')} on Python {theirs}", said)
            assert f"this executor runs Ray {metadata.version('ray')}" not in said
            assert await health(executor) == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        executor.kill()
