"""Real parts for the integration tests, each in a process group of its own that is ended with the test session."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

SOURCE = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
REFERENCE = SOURCE.parent / ".venv-executor" / "bin" / "python"
NEWEST = SOURCE.parent / ".venv-executor-newest" / "bin" / "python"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_port_in(first: int, last: int) -> int:
    """For Ray: outside the ranges that it gives its workers (10002 to 19999) and its clients' servers (from 23000)."""
    for port in range(first + os.getpid() % 1000, last):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise RuntimeError(f"no free port from {first} to {last}")


def wait_for(what: str, check: Any, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come within {seconds:g} s")


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
        return True
    return False


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


PATIENT = {"RAY_health_check_timeout_ms": "60000", "RAY_health_check_failure_threshold": "20"}
"""So that a busy machine's node is not taken for a dead one."""


def no_gpu(folder: Path) -> Path:
    """A folder with an nvidia-smi that reports no GPU: where there is none at all, Ray's agent on Python 3.9 now and then dies
    of looking for it, and its node with it."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    script = place / "nvidia-smi"
    script.write_text("#!/bin/sh\nexit 9\n")
    script.chmod(0o755)
    return place


class Process:
    """A process in its own group, its output in a file."""

    def __init__(self, command: list[str], log: Path, env: Optional[dict[str, str]] = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=env, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self, seconds: float = 15) -> int:
        """SIGTERM; answers with the exit code."""
        self._process.terminate()
        return self._process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to the whole group, leftovers included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def kill_all(self) -> None:
        """SIGKILL to it and everything that descends from it, whatever its group: as when a machine goes."""
        for pid in _descendants(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill()


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = children.get(pid, [])
    return found + [below for child in found for below in _descendants(child)]


@contextlib.contextmanager
def nats_server(folder: Path) -> Iterator[str]:
    port = free_port()
    command = [str(BIN / "nats-server"), "-js", "-a", "127.0.0.1", "-p", str(port), "-sd", str(folder / "js")]
    process = Process(command, folder / "nats.log")
    try:
        wait_for("nats-server", lambda: listens(port))
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()


class RayHead:
    """A cluster of one's own. Its folder's name is short, since Ray puts sockets there."""

    def __init__(self, running: Optional[str] = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fx", dir="/tmp"))
        self.address = running or f"127.0.0.1:{free_port_in(21000, 22999)}"
        self._process: Optional[Process] = None
        self._starts = 0
        self.own = not running
        if self.own:
            self.start()

    def start(self) -> None:
        options = [
            f"--port={self.address.split(':')[1]}",
            f"--temp-dir={self.folder}",
            f"--ray-client-server-port={free_port_in(24000, 25999)}",
            "--node-ip-address=127.0.0.1",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--dashboard-agent-listen-port=0",
            "--include-dashboard=false",
            "--num-cpus=2",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
        ]
        command = [sys.executable, str(BIN / "ray"), "start", "--head", "--block", *options]
        env = {**os.environ, "PATH": f"{os.environ['PATH']}{os.pathsep}{no_gpu(self.folder)}", **PATIENT}
        for _ in range(3):  # of the ports that Ray takes by itself one may be lost to somebody else
            self._starts += 1
            process = self._process = Process(command, self.folder / f"head-{self._starts}.log", env)
            wait_for("Ray", lambda: "Ray runtime started" in process.output or not process.running, 120)  # noqa: B023
            time.sleep(1)  # with --block it ends when one of its parts does
            if process.running:
                return
            process.kill()
        raise AssertionError(f"Ray did not start: {process.output[-2000:]}")

    def add_node(self) -> Process:
        """Another node of the cluster, on this machine: a raylet of its own, which ends with its workers."""
        options = [
            f"--address={self.address}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--dashboard-agent-listen-port=0",
            "--num-cpus=1",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
        ]
        command = [sys.executable, str(BIN / "ray"), "start", "--block", *options]
        env = {**os.environ, "PATH": f"{os.environ['PATH']}{os.pathsep}{no_gpu(self.folder)}", **PATIENT}
        process = Process(command, self.folder / "node.log", env)
        wait_for("the node", lambda: "Ray runtime started" in process.output or not process.running, 60)
        assert process.running, process.output[-2000:]
        return process

    def logs(self) -> Path:
        """Where the workers' logs are."""
        found = (
            [self.folder / "session_latest" / "logs"] if self._process else Path("/tmp").glob("fx*/session_latest/logs")
        )
        return max((path for path in found if path.exists()), key=lambda path: path.stat().st_mtime)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Executor:
    """The service as a process. `sources` stands before the installed code; `python` is another environment's."""

    def __init__(self, folder: Path, settings: dict[str, str], sources: str = "", python: str = sys.executable) -> None:
        self.port = free_port()
        self._log = folder / f"executor-{self.port}.log"
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **settings, "GRPC_PORT": str(self.port)}
        if sources:
            self._env["PYTHONPATH"] = sources
        self._python = python
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = Process([self._python, "-m", "fleet_executor"], self._log, self._env)
        wait_for(f"the executor's port ({self._log})", lambda: listens(self.port) or not self.process.running)

    @property
    def output(self) -> str:
        return self.process.output

    @property
    def driver(self) -> int:
        """Process id of the child that speaks with Ray; 0 where there is none."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and b"fleet_executor.driver" in (entry / "cmdline").read_bytes():
                    parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                    if int(parent) == self.process.pid:
                        return int(entry.name)
        return 0

    def stop(self) -> int:
        return self.process.stop()

    def kill(self) -> None:
        self.process.kill()
