"""A real nats-server per test, on a port of its own, that a test may kill and start again."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from fleet_wire import apply
from fleet_wire.bus import Bus, connect


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """A nats-server with JetStream in a folder; what it stored outlives `kill`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = Path(sys.executable).parent / "nats-server"
        command = [str(binary) if binary.exists() else shutil.which("nats-server") or "nats-server"]
        command += ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.01)
        raise AssertionError("nats-server did not start: see " + str(self.folder / "log"))

    def kill(self) -> None:
        """As a crash does: SIGKILL."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    folder = tmp_path / "nats"
    folder.mkdir()
    server = NatsServer(folder)
    server.start()
    yield server
    server.kill()


Connect = Callable[..., Awaitable[Bus]]


@pytest.fixture
async def connected(nats_server: NatsServer) -> AsyncIterator[Connect]:
    """Makes connections to the server, and closes them after the test."""
    buses = []

    async def make(service: str = "test") -> Bus:
        bus = await connect(nats_server.url, service)
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(bus.close(), 5)


@pytest.fixture
async def bare_bus(connected: Connect) -> Bus:
    """A connection to a server without any stream."""
    return await connected()


@pytest.fixture
async def bus(bare_bus: Bus) -> Bus:
    """A connection to a server with all streams."""
    await apply.apply(bare_bus)
    return bare_bus


async def eventually(what: Callable[[], bool], seconds: float = 10) -> None:
    """Returns as soon as it holds; fails the test where it does not within the time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not what():
        assert asyncio.get_running_loop().time() < deadline, "did not happen in time"
        await asyncio.sleep(0.01)
