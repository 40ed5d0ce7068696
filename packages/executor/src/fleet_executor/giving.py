"""Gives jobs to actors, many in one call where many come: a call of Ray's costs the processor more than the jobs in it, half
of what an answer of the model does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from fleet_executor.jobs import MAX_JOBS, OpenJob
from fleet_wire.errors import Unavailable

SPACING_SECONDS = 0.05
"""From the beginning of one call of a busy actor to that of the next. No longer than the actor leaves the answers unread that
it has (`vllm.GATHER_SECONDS`), so nobody sees the difference; at 35 deliberations a second on two actors, 2.4 of them share a
call then instead of 1.6."""

Waiting = list[tuple[Sequence[OpenJob], "asyncio.Future[str]"]]


class Giving:
    """One call at a time to each actor: what comes for it meanwhile goes into the next one. Where the actor is busy that one
    waits for company, until SPACING_SECONDS after the last one began; what comes later than that, or for any other actor, is
    given at once."""

    def __init__(
        self, call: Callable[[str, Sequence[OpenJob]], Awaitable[str]], is_busy: Callable[[str], bool]
    ) -> None:
        self._call = call
        self._is_busy = is_busy
        self._waiting: dict[str, Waiting] = {}
        """An actor is in it while a call to it is under way, or was begun too short a time ago."""
        self._calling: set[asyncio.Task[None]] = set()

    async def give(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        """What the call answers. What it raises, this raises too, also for what waits for the next one."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if actor in self._waiting:
            self._waiting[actor].append((jobs, answer))
        else:
            self._waiting[actor] = [(jobs, answer)]
            calling = asyncio.ensure_future(self._give(actor))
            self._calling.add(calling)
            calling.add_done_callback(self._calling.discard)
        return await answer

    async def _give(self, actor: str) -> None:
        batch: Waiting = []
        clock = asyncio.get_running_loop().time
        try:
            while batch := self._next(actor):
                begun = clock()
                answer = await self._call(actor, [job for jobs, _ in batch for job in jobs])
                for _, future in batch:
                    if not future.done():  # else its caller has gone
                        future.set_result(answer)
                batch = []
                if self._is_busy(actor):
                    await asyncio.sleep(begun + SPACING_SECONDS - clock())
        except Exception as error:  # noqa: BLE001 (a caller that is cancelled for it would look like one that has left)
            for _, future in (*batch, *self._waiting[actor]):
                if not future.done():
                    future.set_exception(Unavailable(str(error)) if isinstance(error, Unavailable) else error)
        finally:  # the loop ends
            for _, future in (*batch, *self._waiting.pop(actor)):
                future.cancel()

    def _next(self, actor: str) -> Waiting:
        """What the next call takes of what waits: whole requests, up to MAX_JOBS jobs together."""
        waiting = self._waiting[actor]
        total = 0
        for number, (jobs, _) in enumerate(waiting):
            total += len(jobs)
            if number and total > MAX_JOBS:
                self._waiting[actor] = waiting[number:]
                return waiting[:number]
        self._waiting[actor] = []
        return waiting
