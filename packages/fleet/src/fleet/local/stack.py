"""The local stack as one thing: `running_stack` starts it, gives it, and leaves nothing behind, however the block ends."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from fleet.local import home as homes
from fleet.local import processes
from fleet.local.guard import Guard
from fleet.local.home import Home
from fleet.local.layout import Layout, choose_ports, lay_out
from fleet.local.parts import Then
from fleet.local.ports import Choice
from fleet.local.running import Change, PartFailed, Report, RunningPart, State
from fleet_wire.errors import NotFound

TEMPORARY_PREFIX = "fleet-"


class Stack:
    """A running stack. `env` are the settings with which commands and tests find it."""

    def __init__(
        self, home: Home, layout: Layout, stack_id: str, temporary: Path, guard: Guard, report: Report
    ) -> None:
        self.home = home
        self.stack_id = stack_id
        self.env: dict[str, str] = dict(layout.env)
        self._temporary = temporary
        self._report = report
        self._failure: PartFailed | None = None
        self._ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._last: frozenset[str] = frozenset()
        mark = {processes.MARK: stack_id}
        self.parts = {
            part.name: RunningPart(part, home.log(part.name), mark, guard, self._changed) for part in layout.parts
        }

    @property
    def dashboard(self) -> str:
        """The dashboard's address."""
        return f"http://127.0.0.1:{self.env['MONITORING_PORT']}"

    def part(self, name: str) -> RunningPart:
        """The handle of a part or service; raises NotFound."""
        if name not in self.parts:
            raise NotFound(f"there is no part {name!r}; there are {', '.join(self.parts)}")
        return self.parts[name]

    def log_path(self, name: str) -> Path:
        """Where a part's output goes."""
        return self.home.log(name)

    async def start(self, last: Collection[str] = ()) -> None:
        """Starts all parts, each as soon as what it needs is ready, and returns when all are, but for those named in `last`,
        which start when all others are ready, and are not waited for. Raises PartFailed."""
        self._last = frozenset(last)
        self.write_record()
        self._tasks = [asyncio.create_task(self._live(part), name=part.name) for part in self.parts.values()]
        waits = [asyncio.create_task(self._all_ready()), asyncio.create_task(self._ended.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    async def until_ended(self) -> None:
        """Waits until the stack ends by itself, which it only does because a part failed for good: raises PartFailed."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """Stops the services, then the parts that they use. Nothing is left of the stack then."""
        for services in (True, False):
            ours = [it for it in self.parts.values() if it.part.is_service is services and not it.part.given]
            await asyncio.gather(*(running.stop() for running in ours))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(processes.end_all, self.stack_id, (), 0.5)

    def write_record(self) -> None:
        """Writes stack.json, which only this user may read: it holds the passwords that other commands need."""
        record: dict[str, Any] = {
            "id": self.stack_id,
            "supervisor": {"pid": os.getpid(), "started_at": processes.started_at(os.getpid())},
            "temporary": str(self._temporary),
            "env": self.env,
            "parts": [
                {
                    "name": running.name,
                    "state": running.state,
                    "pid": running.pid,
                    "started_at": processes.started_at(running.pid) if running.pid else None,
                    "address": running.part.address,
                    "given": running.part.given,
                    "log": None if running.part.given else str(running.log),
                }
                for running in self.parts.values()
            ],
        }
        self.home.write_record(record)

    async def _all_ready(self) -> bool:
        for running in self.parts.values():
            if running.name not in self._last:
                await running.ready.wait()
        return True

    async def _live(self, running: RunningPart) -> None:
        if running.name in self._last:
            await self._all_ready()
        for name in running.part.after:
            await self.parts[name].ready.wait()
        try:
            await running.live()
        except PartFailed as failure:
            self._failure = self._failure or failure
        except Exception as error:  # noqa: BLE001 (whatever it is, nobody may wait for this part for ever)
            self._failure = self._failure or PartFailed(f"{running.name}: {type(error).__name__}: {error}")
        self._ended.set()

    def _changed(self, change: Change) -> None:
        self.write_record()
        self._report(change)


@contextlib.asynccontextmanager
async def running_stack(
    home: Home | Path | None = None,
    *,
    free_ports: bool | None = None,
    env: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    last: Collection[str] = (),
    report: Callable[[Change], None] = lambda change: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> AsyncIterator[Stack]:
    """Starts the stack in a state folder, gives it when all of it is ready, and stops it when the block ends.

    `free_ports` True takes free ports, False the contract's (raising Precondition where one is taken), None the contract's
    where they are free. `env` comes before the process's environment. `only` names the parts to start, where not all are
    wanted, `last` those that start last and are not waited for. SIGTERM and SIGHUP end the block like Ctrl-C.

    Raises Precondition where a stack runs in the folder already, Invalid for bad settings, PartFailed for a part that does
    not start.
    """
    place = home if isinstance(home, Home) else homes.at(home) if home else homes.find()
    environment = {**os.environ, **(env or {})}
    choice: Choice = "free_if_taken" if free_ports is None else "free" if free_ports else "standard"
    with place.held():
        clean_up(place, say)
        place.prepare()
        # Short, since Ray keeps sockets in it, whose paths may have no more than 107 characters.
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
        guard = None
        try:
            at = choose_ports(environment, choice, say)
            layout = lay_out(place, environment, at, str(temporary), _apply_streams, only)
            stack_id = uuid.uuid4().hex
            guard = Guard(stack_id, temporary)
            stack = Stack(place, layout, stack_id, temporary, guard, report)
            with _ended_by_signals():
                try:
                    await stack.start(last)
                    yield stack
                finally:
                    await stack.stop()
                    guard.dismiss()
                    place.record_path.unlink(missing_ok=True)
        finally:
            if guard is None or guard.dismissed:
                shutil.rmtree(temporary, ignore_errors=True)


def clean_up(home: Home, say: Callable[[str], None]) -> None:
    """Ends what a stack left behind in this folder whose supervisor and guard are both gone."""
    record = home.read_record()
    if record is None:
        return
    leaders = [
        part["pid"]
        for part in record.get("parts", [])
        if part.get("pid") and processes.started_at(part["pid"]) == part.get("started_at")
    ]
    count = processes.end_all(str(record.get("id")), leaders)
    if count:
        say(f"{count} processes of an earlier stack in {home.path} were still there and have been ended")
    temporary = Path(str(record.get("temporary", "")))
    if temporary.name.startswith(TEMPORARY_PREFIX) and temporary.parent == Path(tempfile.gettempdir()):
        shutil.rmtree(temporary, ignore_errors=True)
    home.record_path.unlink(missing_ok=True)


def _apply_streams(url: str, creds: str | None) -> Then:
    """Creates the streams; also after a restart of the server, which forgets streams that live in memory."""

    async def then() -> None:
        from fleet_wire import apply
        from fleet_wire import bus as bus_module

        bus = await bus_module.connect(url, "streams", creds)
        try:
            await apply.apply(bus)
        finally:
            await bus.close()

    return then


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP cancel the current task for the block, as SIGINT does under asyncio.run. Where the task is over
    (a test's fixture, say) they do what they do to any process."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def end(number: signal.Signals) -> None:
        if task is None or not task.cancel():
            loop.remove_signal_handler(number)
            signal.raise_signal(number)

    added = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(
            ValueError, RuntimeError
        ):  # not in the main thread: then signals are another's business
            loop.add_signal_handler(number, end, number)
            added.append(number)
    try:
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)


__all__ = ["Change", "PartFailed", "Stack", "State", "running_stack"]
