"""Drives records by their keys: each key is worked on by one worker at a time, and again for as long as it was woken meanwhile.

What fails in passing is tried again with a back-off of its own per key, so that one deliberation whose executor is away holds
up no other. Nothing here is durable: what is due stands in the saved state, and the sweep wakes it after a restart.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from fleet_wire.errors import Conflict, Unavailable

log = structlog.get_logger(__name__)

R = TypeVar("R")

FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 5.0
SHORTEST_DELAY_SECONDS = 0.01
"""What a wake leaves of the pause after a failure, so that many of them make no busy loop."""


class Driver:
    """Calls `step(key)` for every key that is woken. `step` brings the record as far as it goes and returns."""

    step: Callable[[str], Awaitable[None]]

    def __init__(self, workers: int = 64) -> None:
        self._slots = asyncio.Semaphore(workers)
        self._woken: set[str] = set()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, asyncio.Event] = {}

    def wake(self, key: str) -> None:
        """Has the key worked on soon: a pause before its next try ends. Cheap, and safe to call at any time."""
        self._woken.add(key)
        if key in self._pauses:
            self._pauses[key].set()
        elif key not in self._running:
            self._running[key] = asyncio.create_task(self._drive(key))

    def hurry(self, key: str) -> None:
        """Wakes a key that is waited for or worked on; what rests is left alone."""
        if key in self._running:
            self.wake(key)

    async def run(self, stop: asyncio.Event) -> None:
        """Waits for the stop, then ends what runs. What is cut off stays due in its saved state."""
        await stop.wait()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def idle(self) -> None:
        """Returns when nothing is woken or running. For tests."""
        while self._running:
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _drive(self, key: str) -> None:
        tries = 0
        try:
            while key in self._woken:
                self._woken.discard(key)
                tries = 0 if await self._try(key, tries + 1) else tries + 1
        finally:
            # Here, and not in a callback that runs later: a wake in between would find the key running and be lost.
            del self._running[key]

    async def _try(self, key: str, tries: int) -> bool:
        """One step; where it fails, the pause before the next. Answers whether it went well."""
        try:
            async with self._slots:
                await self.step(key)
        except (Unavailable, Conflict) as error:
            log.info("deliberation step again later", key=key, tries=tries, reason=str(error))
            await self._pause(key, SHORTEST_DELAY_SECONDS, delay_seconds(tries))
        except Exception:
            log.exception("deliberation step failed", key=key, tries=tries)
            await self._pause(key, LONGEST_DELAY_SECONDS, LONGEST_DELAY_SECONDS)
        else:
            return True
        return False

    async def _pause(self, key: str, shortest: float, longest: float) -> None:
        """Waits until the key is woken, or was while it was worked on, but not less and not more than this. Then it is woken."""
        woken = self._pauses.setdefault(key, asyncio.Event())
        if key in self._woken:
            woken.set()
        try:
            await asyncio.sleep(shortest)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), longest - shortest)
        finally:
            del self._pauses[key]
        self._woken.add(key)


def delay_seconds(tries: int) -> float:
    """The pause after the `tries`-th failure in a row: doubling up to the longest, with a quarter of jitter."""
    return float(min(FIRST_DELAY_SECONDS * 2 ** min(tries - 1, 10), LONGEST_DELAY_SECONDS) * random.uniform(0.75, 1.25))


async def at_once(steps: Sequence[Coroutine[Any, Any, R]]) -> Sequence[R | BaseException]:
    """What each of them gives, or raises. A single one, as most are, needs no task, and raises it itself."""
    if len(steps) == 1:
        return [await steps[0]]
    found: list[R | BaseException] = await asyncio.gather(*steps, return_exceptions=True)
    return found
