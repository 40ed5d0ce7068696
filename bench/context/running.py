"""What is measured: the context service as a process, with the local stack's NATS and Valkey, on one of the two graph servers."""

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil

from bench import usage
from fleet.bolt import Graph
from fleet.local import processes
from fleet.local.stack import Stack, running_stack
from fleet.settings import GraphSettings

sys.path.append(str(Path(__file__).parents[2] / "packages/fleet/tests"))

import realparts

PARTS = ("nats", "graph", "valkey", "context")
STORES = ("embedded", "neo4j")
NEO4J_JAVA = ("-Xms512m", "-Xmx1g")


@dataclasses.dataclass(frozen=True)
class Running:
    """The service with what it needs. `graph` is a connection of the benchmark's own."""

    stack: Stack
    graph: Graph
    graph_pid: int

    def processes(self) -> Sequence[psutil.Process]:
        """All that is measured: not the one that asks."""
        found = processes.marked(self.stack.stack_id)
        ours = {process.pid for process in found}
        return [*found, *(process for process in usage.family([self.graph_pid]) if process.pid not in ours)]


def why_not(store: str) -> str:
    """Why a store cannot be measured here; empty where it can."""
    return realparts.why_no_neo4j() if store == "neo4j" else ""


@contextlib.asynccontextmanager
async def running(store: str) -> AsyncIterator[Running]:
    """Starts it with an empty graph, on free ports, in a folder that is removed at the end."""
    # Another's settings must not lead the benchmark to another's servers.
    env = dict.fromkeys(("NATS_URL", "NEO4J_URI", "VALKEY_URL", "RAY_ADDRESS", "NATS_CREDS", "VLLM_URL"), "")
    env["LOG_LEVEL"] = "WARNING"
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="bench-context-")))
        pid = None
        if store == "neo4j":
            (folder / "neo4j").mkdir()
            server = cleanup.enter_context(realparts.neo4j_server(folder / "neo4j", NEO4J_JAVA))
            assert server.process is not None
            pid = server.process.pid
            env |= server.env()
        async with running_stack(folder / "stack", free_ports=True, env=env, only=PARTS) as stack:
            told = {name.lower(): value for name, value in stack.env.items() if name.startswith("NEO4J_")}
            graph = Graph(GraphSettings.model_validate(told))
            try:
                yield Running(stack, graph, pid or stack.part("graph").pid or 0)
            finally:
                await graph.close()
