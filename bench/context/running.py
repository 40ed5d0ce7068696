"""What is measured: the context service as a process, with the local stack's NATS and Valkey, on one of the two graph servers."""

import asyncio
import contextlib
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import psutil

from bench import usage
from fleet.bolt import Graph
from fleet.context.migrations import MIGRATIONS
from fleet.context.search import prepare
from fleet.local import processes
from fleet.local.stack import Stack, running_stack
from fleet.migrations import migrate
from fleet.settings import GraphSettings

sys.path.append(str(Path(__file__).parents[2] / "packages/fleet/tests"))

import realparts

PARTS = ("nats", "graph", "valkey", "context")
STORES = ("embedded", "neo4j")
NEO4J_JAVA = ("-Xms512m", "-Xmx1g")
NEO4J_PAGE_CACHE = "512m"
NEO4J_SECONDS = 600
"""How long it may take to start and, writing all it holds in memory, to end. One that is killed reads its log of transactions
when it starts again: after 20,000 decisions, more than a minute on a slow machine."""
FILLING_JAVA = "-XX:TieredStopAtLevel=4 -Xmx1g"
"""Goes before what the command line says."""


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
async def running(
    store: str, fill: Callable[[Graph], Awaitable[None]], kept: Path | None = None
) -> AsyncIterator[Running]:
    """Starts the graph server in a folder that is removed at the end, has it filled, and then starts it anew with the service
    and all that needs, on free ports. The embedded server is filled by a Java that is tuned for it, and measured as the stack
    starts it. What `kept` holds is not filled again; what is filled is kept there."""
    with tempfile.TemporaryDirectory(prefix="bench-context-") as temporary:
        folder = Path(temporary) / store
        if kept is None or not await asyncio.to_thread(_copied, kept, folder):
            folder.mkdir()
            async with _served(store, folder, ("graph",), FILLING_JAVA) as found:
                await migrate(found.graph, "context", MIGRATIONS)
                await prepare(found.graph)
                await fill(found.graph)
            if kept is not None:
                await asyncio.to_thread(_copied, folder, kept)
        async with _served(store, folder, PARTS) as found:
            yield found


def _copied(source: Path, target: Path) -> bool:
    """Whether the source was there to be copied."""
    if source.exists():
        shutil.copytree(source, target)
    return source.exists()


@contextlib.asynccontextmanager
async def _served(store: str, folder: Path, parts: Sequence[str], java: str = "") -> AsyncIterator[Running]:
    """These parts of a stack, with what an earlier one left in the folder."""
    # Another's settings must not lead the benchmark to another's servers.
    env = dict.fromkeys(("NATS_URL", "NEO4J_URI", "VALKEY_URL", "RAY_ADDRESS", "NATS_CREDS", "VLLM_URL"), "")
    env |= {"LOG_LEVEL": "WARNING"} | ({"_JAVA_OPTIONS": java} if java else {})
    with contextlib.ExitStack() as cleanup:
        pid = None
        if store == "neo4j":
            (folder / "neo4j").mkdir(exist_ok=True)
            server = cleanup.enter_context(
                realparts.neo4j_server(
                    folder / "neo4j", NEO4J_JAVA, replans=True, seconds=NEO4J_SECONDS, page_cache=NEO4J_PAGE_CACHE
                )
            )
            assert server.process is not None
            pid = server.process.pid
            cleanup.callback(server.process.stop, NEO4J_SECONDS)
            env |= server.env()
        async with _started(folder / "stack", env, parts) as (stack, graph):
            yield Running(stack, graph, pid or stack.part("graph").pid or 0)


@contextlib.asynccontextmanager
async def _started(folder: Path, env: dict[str, str], parts: Sequence[str]) -> AsyncIterator[tuple[Stack, Graph]]:
    """These parts of a stack, and a connection to its graph."""
    async with running_stack(folder, free_ports=True, env=env, only=parts) as stack:
        told = {name.lower(): value for name, value in stack.env.items() if name.startswith("NEO4J_")}
        graph = Graph(GraphSettings.model_validate(told))
        try:
            yield stack, graph
        finally:
            await graph.close()
