"""One part while it runs: started, waited for, watched, and started again when it ends unexpectedly."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import signal
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path

from fleet.local import processes
from fleet.local.guard import Guard
from fleet.local.parts import Part
from fleet_wire.errors import FleetError, Precondition
from fleet_wire.logs import hide_passwords

START_TIMEOUT = dt.timedelta(seconds=180)
MAX_CRASHES = 6
"""Unexpected ends in a row before the stack gives up; one that was up for STEADY begins a new row."""
STEADY = dt.timedelta(seconds=60)
STARTING_NICE = 4
"""Of a part while it starts, unless it goes first."""
CHECK_EVERY = dt.timedelta(seconds=2)
MAX_SILENT = 6
"""Checks in a row without an answer after which a part, that had been ready, is killed and started again."""
LAST_LINES = 15
BAD_SETTING = 2
"""Exit code of a service that cannot run with its settings; no restart mends that."""


class PartFailed(FleetError):
    """A part did not start, or ended too often. The text is a sentence that names it and its log, `tail` the log's end."""

    def __init__(self, sentence: str, tail: str = "") -> None:
        super().__init__(sentence)
        self.tail = tail


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    ENDED = "ended"
    STOPPED = "stopped"


@dataclasses.dataclass(frozen=True)
class Change:
    """What became of a part. `seconds` is how long it took to become ready; `detail` why it is not."""

    name: str
    state: State
    detail: str = ""
    seconds: float = 0.0
    given: bool = False


Report = Callable[[Change], None]


def backoff(crashes: int) -> dt.timedelta:
    """The pause before a restart: half a second, doubled with each unexpected end in a row, at most 10 s."""
    return min(dt.timedelta(seconds=0.5) * float(2 ** (crashes - 1)), dt.timedelta(seconds=10))


class RunningPart:
    """The handle of a part. `live` is its one owner; the other methods ask it, and wait until it is done."""

    def __init__(self, part: Part, log: Path, mark: Mapping[str, str], guard: Guard, report: Report) -> None:
        self.part = part
        self.name = part.name
        self.log = log
        self.state = State.WAITING
        self.detail = ""
        self.pid: int | None = None
        self.starts = 0
        self.ready_seconds = 0.0
        self.ready = asyncio.Event()
        self._came_up = False
        self._mark = mark
        self._guard = guard
        self._report = report
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._down = asyncio.Event()
        self._down.set()

    async def live(self) -> None:
        """Runs the part until cancelled. Raises PartFailed where it cannot be kept running."""
        crashes = 0
        while True:
            await self._wanted.wait()
            begun = time.monotonic()
            code = await self._once()
            self.ready.clear()
            if not self._wanted.is_set():
                self._change(State.STOPPED)
                continue
            how = f"ended with code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
            if self.part.is_service and code == BAD_SETTING:
                raise PartFailed(f"{self.name} cannot run: {self._last_line()} (log: {self.log})")
            if not self._came_up:
                raise self._failed(f"{how} before it was ready")
            crashes = 1 if time.monotonic() - begun > STEADY.total_seconds() else crashes + 1
            if crashes >= MAX_CRASHES:
                raise self._failed(f"{how}, {crashes} times in a row")
            pause = backoff(crashes)
            self._change(State.ENDED, f"{how}; starts again in {pause.total_seconds():g} s (log: {self.log})")
            await asyncio.sleep(pause.total_seconds())

    async def stop(self) -> None:
        """SIGTERM to the group, SIGKILL after the part's grace; it stays down until `start`."""
        self._wanted.clear()
        await self._end(signal.SIGTERM)

    async def kill(self, restart: bool = True) -> None:
        """Ends the whole group as a crash would. It is started again like after any crash, or, without `restart`, stays
        down until `start`."""
        if not restart:
            self._wanted.clear()
        await self._end(signal.SIGKILL)

    async def start(self) -> None:
        """Starts it after a `stop`, and returns when it is ready."""
        self._must_be_ours()
        self._wanted.set()
        await self.wait_ready()

    async def restart(self) -> None:
        """`stop`, then `start`."""
        await self.stop()
        await self.start()

    async def wait_ready(self, timeout: dt.timedelta = START_TIMEOUT) -> None:
        """Returns when it is ready; raises TimeoutError."""
        await asyncio.wait_for(self.ready.wait(), timeout.total_seconds())

    async def _end(self, number: signal.Signals) -> None:
        self._must_be_ours()
        pid = self.pid
        if pid is None:
            return
        self.ready.clear()
        processes.signal_group(pid, number)
        try:
            await asyncio.wait_for(self._down.wait(), self.part.grace.total_seconds())
        except TimeoutError:
            processes.signal_group(pid, signal.SIGKILL)
            await self._down.wait()

    async def _once(self) -> int:
        """Starts it, waits for it to be ready and then for its end; its exit code. Nothing of its group is left then."""
        if self.part.given:
            await self._become_ready()
            await asyncio.Event().wait()  # until cancelled
        begun = time.monotonic()
        process = await self._spawn()
        self.pid = process.pid
        if not self.part.goes_first:
            processes.set_weight(process.pid, STARTING_NICE)
        self.starts += 1
        self._down.clear()
        self._guard.add(process.pid)
        self._change(State.STARTING)
        ended = asyncio.create_task(process.wait())
        watching = asyncio.create_task(self._watch(begun))
        try:
            await asyncio.wait({ended, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done() and not ended.done():
                watching.result()
                processes.signal_group(process.pid, signal.SIGKILL)
            return await ended
        finally:
            watching.cancel()
            processes.signal_group(process.pid, signal.SIGKILL)  # what a part may have left of its group
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await ended
            self._guard.remove(process.pid)
            self.pid = None
            self._down.set()

    async def _spawn(self) -> asyncio.subprocess.Process:
        try:
            with self.log.open("ab") as log:
                return await asyncio.create_subprocess_exec(
                    *self.part.argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.part.cwd,
                    env={**self.part.env, **self._mark},
                    start_new_session=True,
                )
        except OSError as error:
            raise PartFailed(f"{self.name} cannot be started: {error}") from error

    async def _watch(self, begun: float) -> None:
        """Ends when a part that was ready has stopped to answer though its process lives: a Ray head without its node does
        so. A service may well be not ready while something it needs is away, so only its process counts."""
        await self._become_ready(begun)
        silent = 0
        while self.part.is_service or silent < MAX_SILENT:
            await asyncio.sleep(CHECK_EVERY.total_seconds())
            silent = 0 if await self.part.ready() is None else silent + 1

    async def _become_ready(self, begun: float | None = None) -> None:
        begun = time.monotonic() if begun is None else begun
        pause = 0.05
        while (why := await self._why_not_ready()) is not None:
            if time.monotonic() - begun > START_TIMEOUT.total_seconds():
                if self.part.given:
                    raise PartFailed(
                        f"{self.name}, which a setting says is at {hide_passwords(self.part.address)}, is {why}"
                    )
                raise self._failed(f"is {why} after {START_TIMEOUT.total_seconds():g} s")
            if why != self.detail:
                self._change(State.STARTING, why)
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, 0.3)
        self.ready_seconds = time.monotonic() - begun
        self._came_up = True
        if self.pid is not None:
            processes.set_weight(self.pid, 0)
        self.ready.set()
        self._change(State.READY)

    async def _why_not_ready(self) -> str | None:
        why = await self.part.ready()
        if why is None and self.part.then is not None:
            try:
                await self.part.then()
            except FleetError as error:
                return str(error)
        return why

    def _change(self, state: State, detail: str = "") -> None:
        self.state, self.detail = state, detail
        seconds = self.ready_seconds if state is State.READY else 0.0
        self._report(Change(self.name, state, detail, seconds, self.part.given))

    def _must_be_ours(self) -> None:
        if self.part.given:
            raise Precondition(
                f"{self.name} is not part of this stack: a setting says that it runs at {hide_passwords(self.part.address)}"
            )

    def _failed(self, what: str) -> PartFailed:
        return PartFailed(f"{self.name} {what}; its log: {self.log}", last_lines(self.log, LAST_LINES))

    def _last_line(self) -> str:
        return last_lines(self.log, 1).strip() or "it gave no reason"


def last_lines(log: Path, count: int) -> str:
    """The end of a log, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(f"  {line}" for line in [line for line in lines if line.strip()][-count:])
