import asyncio
import contextlib
import datetime as dt
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import stack
from scripted_model import ScriptedModel

from fleet_wire import apply
from fleet_wire.bus import Bus, connect


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "reference_only: something that takes long, tested on the reference line of Ray and not on the newest",
    )


@pytest.fixture(scope="session")
def model() -> Iterator[ScriptedModel]:
    server = ScriptedModel()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _fresh_script(request: pytest.FixtureRequest) -> None:
    if "model" in request.fixturenames:
        server = request.getfixturevalue("model")
        server.script.clear()
        server.asked.clear()
        server.peers.clear()
        server.waiting = None


@contextlib.contextmanager
def nats_with_streams(directory: Path) -> Iterator[str]:
    """A server with all streams."""

    async def streams(url: str) -> None:
        made = await connect(url, "test", wait=dt.timedelta(seconds=10))
        await apply.apply(made)
        await made.close()

    with stack.nats_server(directory) as url:
        asyncio.run(streams(url))
        yield url


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Shared by all tests that let the executor's processes live on."""
    with nats_with_streams(tmp_path_factory.mktemp("nats")) as url:
        yield url


@pytest.fixture(scope="module")
def quiet_nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """For tests that play an actor themselves: no executor looks after their jobs and hands them to others."""
    with nats_with_streams(tmp_path_factory.mktemp("quiet-nats")) as url:
        yield url


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    made = await connect(nats_url, "test", wait=dt.timedelta(seconds=10))
    yield made
    await made.close()


@pytest.fixture(scope="session")
def ray_head() -> Iterator[stack.RayHead]:
    """A cluster for the whole session; FLEET_TEST_RAY_ADDRESS names one that runs already, to save its start."""
    head = stack.RayHead(os.environ.get("FLEET_TEST_RAY_ADDRESS"))
    yield head
    head.close()


@pytest.fixture(scope="session")
def settings(nats_url: str, ray_head: stack.RayHead, model: ScriptedModel) -> dict[str, str]:
    return {"NATS_URL": nats_url, "RAY_ADDRESS": ray_head.address, "VLLM_URL": model.url, "LOG_FORMAT": "json"}


@pytest.fixture(scope="session")
def executor(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]) -> Iterator[stack.Executor]:
    made = stack.Executor(tmp_path_factory.mktemp("executor"), settings)
    yield made
    made.kill()


@pytest.fixture(scope="session")
def other_python() -> str:
    """Python with the Ray of the other line: the newest where the reference runs the tests, and the other way round."""
    other = stack.REFERENCE if sys.version_info[:2] == (3, 13) else stack.NEWEST
    if not other.exists():
        pytest.skip(f"NOT TESTED: no environment with another Ray ({other.parent.parent.name})")
    return str(other)
