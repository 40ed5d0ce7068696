"""Counts the open calls to the model, and refuses more than its endpoint takes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Optional

import structlog

from fleet_executor.jobs import OpenJob, calls_model
from fleet_executor.pressure import has_room, next_limit
from fleet_executor.registry import Registry
from fleet_wire.errors import Exhausted

log = structlog.get_logger(__name__)

LISTING_SECONDS = 0.25
"""How old a list of open jobs may be for a refusal."""


class ModelCalls:
    """A call is open from the acceptance of its job to the job's end. The count is brought up to the registry's list every
    two seconds, and before a request is refused; in between it knows of what was accepted here and not of what ended, so it
    is never too low by what this executor took. `setting` is the highest that `limit` gets."""

    def __init__(self, registry: Registry, setting: int) -> None:
        self.setting = setting
        self.limit = setting
        self._registry = registry
        self._open: dict[str, int] = {}
        self._serial = 0
        self._unrecorded: set[str] = set()
        self._listing: Optional[asyncio.Task[None]] = None
        self._listed_at = float("-inf")
        self._measures: Optional[bool] = None

    @property
    def open(self) -> int:
        return len(self._open)

    @contextlib.asynccontextmanager
    async def taken(self, jobs: Sequence[OpenJob]) -> AsyncIterator[None]:
        """The jobs count from the beginning of the block, in which they are recorded; where it fails they count no more.
        Raises Exhausted where there is no room for those that are not known."""
        new = await self._admitted([job.key for job in jobs if calls_model(job)])
        for key in new:
            self._serial += 1
            self._open[key] = self._serial
        self._unrecorded.update(new)
        try:
            yield
        except BaseException:
            for key in new:
                self._open.pop(key, None)
            raise
        finally:
            self._unrecorded.difference_update(new)

    def mark(self) -> int:
        """To be had before jobs are listed, and given to `learn` with them."""
        return self._serial

    def learn(self, jobs: Iterable[OpenJob], mark: int) -> None:
        """These, and what was taken since the mark, are the open jobs."""
        since = {key: at for key, at in self._open.items() if at > mark or key in self._unrecorded}
        self._open = {**{job.key: 0 for job in jobs if calls_model(job)}, **since}

    def measured(self, requests_waiting: float) -> None:
        """What the model server said of itself."""
        self._note(True)
        before, self.limit = self.limit, next_limit(self.limit, self.setting, self.open, requests_waiting)
        if self.limit < before:
            log.info("fewer calls to the model", limit=self.limit, open=self.open, waiting=requests_waiting)

    def unmeasured(self) -> None:
        """The model server does not say how many requests wait."""
        self.limit = self.setting
        self._note(False)

    async def _admitted(self, keys: list[str]) -> list[str]:
        """Those of the keys that are not counted yet. No other request comes between the last look and the answer."""
        new = self._new(keys)
        if has_room(len(new), self.open, self.limit):
            return new
        await self._list()
        new = self._new(keys)
        if not has_room(len(new), self.open, self.limit):
            known = await asyncio.gather(*(self._registry.knows(key) for key in new))
            new = self._new([key for key, is_known in zip(new, known) if not is_known])
        if not has_room(len(new), self.open, self.limit):
            raise Exhausted(
                f"the model's endpoint has {self.open} calls open and takes {self.limit} at most now, so not {len(new)} more "
                f"(MODEL_CALLS_LIMIT is {self.setting}): try again when some have ended"
            )
        return new

    def _new(self, keys: Iterable[str]) -> list[str]:
        return [key for key in keys if key not in self._open]

    async def _list(self) -> None:
        """Requests that come at once share one look."""
        if self._listing is None or self._listing.done():
            if asyncio.get_running_loop().time() - self._listed_at < LISTING_SECONDS:
                return
            self._listing = asyncio.ensure_future(self._look())
        await asyncio.shield(self._listing)

    async def _look(self) -> None:
        mark = self.mark()
        entries = await self._registry.open_jobs()
        self.learn((entry.value for entry in entries), mark)
        self._listed_at = asyncio.get_running_loop().time()

    def _note(self, measures: bool) -> None:
        if measures != self._measures:
            self._measures = measures
            what = "follows its /metrics" if measures else "is the setting: it does not say how many requests wait"
            log.info(f"the limit of open calls to the model {what}", limit=self.limit)
