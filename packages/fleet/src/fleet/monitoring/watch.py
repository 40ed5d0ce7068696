"""Asks the executor for what no event tells: that it accepted a deliberation's jobs, and that an actor owns each.

At a low rate and only as needed: of deliberations that lack one of the two steps, and of each at most TRIES times after it
has ended.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from fleet.monitoring.board import Board, Change
from fleet.monitoring.domain import Deliberation
from fleet.steps import JobSeen
from fleet_wire.errors import FleetError, Unavailable

EVERY_SECONDS = 0.5
AT_ONCE = 5
"""Deliberations asked for in one round."""
TRIES = 3

JobsOf = Callable[[str], Awaitable[list[JobSeen]]]


class Watch:
    """Fills in the steps `submitted` and `running`."""

    def __init__(self, board: Board, jobs_of: JobsOf, publish: Callable[[Change], None]) -> None:
        self._board = board
        self._jobs_of = jobs_of
        self._publish = publish
        self._tries: dict[str, int] = {}
        self._rounds: dict[str, int] = {}
        self._round = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), EVERY_SECONDS)

    async def round(self) -> None:
        """Asks for those that were asked longest ago. An executor that is away ends the round, and is not counted."""
        self._round += 1
        known = self._board.deliberations()
        kept = {one.deliberation_id for one in known}
        self._tries = {key: count for key, count in self._tries.items() if key in kept}
        self._rounds = {key: number for key, number in self._rounds.items() if key in kept}
        due = [one for one in known if self._due(one)]
        due.sort(key=lambda one: self._rounds.get(one.deliberation_id, 0))
        for one in due[:AT_ONCE]:
            key = one.deliberation_id
            self._rounds[key] = self._round
            try:
                jobs = await self._jobs_of(key)
            except Unavailable:
                return  # the source `jobs` shows that it is away
            except FleetError:  # NOT_FOUND: not handed over yet, or forgotten since
                jobs = []
            if one.end is not None:
                self._tries[key] = self._tries.get(key, 0) + 1
            if self._board.note_jobs(key, jobs):
                self._publish(Change(deliberations=(key,)))

    def _due(self, one: Deliberation) -> bool:
        lacking = not {"submitted", "running"} <= one.steps.keys()
        return lacking and one.state != "unknown" and self._tries.get(one.deliberation_id, 0) < TRIES
