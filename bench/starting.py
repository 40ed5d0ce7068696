"""Starts what is to be measured, each in processes of its own. What cannot run here is left out, loudly."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from bench import child, load, postgres, usage
from bench.measure import Say, Subject
from fleet.local import processes

OURS = "fleet"
NAMES = ("bare", "bare_streamed", OURS, "autogen", "langgraph", "langgraph_durable", "dbos", "crewai")
ON_POSTGRES = {"langgraph_durable", "dbos"}


@dataclasses.dataclass
class Started:
    """What runs, and what the report has to say of it. `kept` is how many deliberations this system keeps."""

    subjects: list[Subject] = dataclasses.field(default_factory=list)
    durability: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    kept: Callable[[], int] = lambda: 0


@dataclasses.dataclass
class Starter:
    """Everything is started for as long as `cleanup` is open."""

    python: Path
    logs: Path
    fsync: bool
    protocol: str
    say: Say
    cleanup: contextlib.AsyncExitStack
    url: str = ""
    database: str = ""
    database_pid: int = 0
    started: Started = dataclasses.field(default_factory=Started)

    async def start(self, wanted: list[str]) -> Started:
        """Raises child.Broken where the model server does not start, and PartFailed where this system does not."""
        self.url = await self._enter(child.model_server(Path(sys.executable), self.logs / "model.log"))
        if ON_POSTGRES & set(wanted):
            await self._postgres()
        for name in wanted:
            await getattr(self, f"_{name}")()
        return self.started

    async def _enter(self, context: contextlib.AbstractAsyncContextManager[child.T]) -> child.T:
        return await self.cleanup.enter_async_context(context)

    async def _postgres(self) -> None:
        try:
            self.database, self.database_pid = await self._enter(postgres.running(self.python, self.fsync))
        except postgres.Missing as error:
            self._left_out("PostgreSQL", str(error))
            return
        self.started.durability["PostgreSQL"] = (
            "fsync on"
            if self.fsync
            else "fsync off: a commit survives a crash of any process, not of the machine, as with JetStream's default"
        )

    async def _bare(self) -> None:
        await self._library("bare", "bare", "bare calls", "bare")

    async def _bare_streamed(self) -> None:
        await self._library("bare_streamed", "bare_streamed", "bare calls, streamed", "bare_streamed")

    async def _autogen(self) -> None:
        await self._library("autogen", "autogen", "AutoGen")

    async def _langgraph(self) -> None:
        await self._library("langgraph", "langgraph", "LangGraph")

    async def _langgraph_durable(self) -> None:
        if self.database:
            told = {"postgres": await postgres.make_database(self.python, self.database, "langgraph")}
            durable = "PostgreSQL, each step"
        else:
            told, durable = {"sqlite": str(self.logs / "langgraph.sqlite")}, "SQLite, each step"
            self.started.durability["SQLite"] = "as LangGraph opens it, with a write-ahead log"
        await self._library(
            "langgraph_durable", "langgraph", "LangGraph with a checkpointer", durable=durable, told=told
        )

    async def _dbos(self) -> None:
        if not self.database:
            self._left_out("DBOS", "it needs PostgreSQL")
            return
        told = {"postgres": await postgres.make_database(self.python, self.database, "dbos")}
        await self._library("dbos", "dbos", "DBOS", durable="PostgreSQL, each step", told=told)

    async def _crewai(self) -> None:
        await self._library("crewai", "crewai", "CrewAI", slow=True)

    async def _library(
        self,
        name: str,
        module: str,
        title: str,
        over: str = "bare",
        durable: str = "",
        slow: bool = False,
        told: dict[str, str] | None = None,
    ) -> None:
        self.say(f"starts {title}")
        told = told or {}
        try:
            process = await self._enter(
                child.subject(self.python, module, {"url": self.url, **told}, self.logs / f"{name}.log")
            )
        except child.Broken as error:
            self._left_out(title, str(error))
            return
        pids = [process.pid, *([self.database_pid] if "postgres" in told else [])]
        look = functools.partial(usage.family, pids)
        self.started.subjects.append(Subject(name, title, over, process.run, look, durable, slow))

    async def _fleet(self) -> None:
        from bench import system

        self.say("starts this system")
        ours = await self._enter(system.running(self.url, self.protocol, self.fsync))
        self.started.durability["NATS JetStream"] = (
            "file storage, sync_interval always"
            if self.fsync
            else "file storage, sync_interval 2m (its default): survives a crash of any process, not of the machine"
        )
        self.started.kept = lambda: ours.kept
        self.started.subjects.append(
            Subject(
                OURS,
                "this system, streamed",
                "bare_streamed",
                functools.partial(load.run, ours.deliberate),
                functools.partial(processes.marked, ours.stack.stack_id),
                "JetStream, each step",
            )
        )

    def _left_out(self, what: str, why: str) -> None:
        self.say(f"SKIPPED {what}: {why}")
        self.started.notes.append(f"{what} was not measured: {why}")


@contextlib.asynccontextmanager
async def started(
    wanted: list[str], python: Path, logs: Path, fsync: bool, protocol: str, say: Say
) -> AsyncIterator[Started]:
    """What of `wanted` can run here; everything is ended with the block."""
    async with contextlib.AsyncExitStack() as cleanup:
        yield await Starter(python, logs, fsync, protocol, say, cleanup).start(wanted)
