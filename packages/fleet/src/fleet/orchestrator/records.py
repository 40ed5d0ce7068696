"""Records that are moved by events, as one replica reads and moves them.

A replica remembers what it wrote last, and writes on top of that: the compare-and-set says where another replica wrote since, and
only then it reads again. What comes for one record at once, or while a write of it is under way, is folded in together, in one
write; what may wait for a write of something else does so for a moment.
"""

import asyncio
import dataclasses
import datetime as dt
import random
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from fleet.recent import Recent
from fleet_wire.errors import Conflict, Unavailable
from fleet_wire.kv import Bucket, Entry

log = structlog.get_logger(__name__)

S = TypeVar("S")
E = TypeVar("E")
KEPT = 4096
"""Records that a replica remembers of a kind."""
LATER_SECONDS = 2.0
"""How long what may wait for another write waits for one."""


@dataclasses.dataclass(frozen=True)
class Rules(Generic[S, E]):
    """What a kind of record is: where it stands, how an event moves it, how long it lives, and whether it is over."""

    key: Callable[[str], str]
    advance: Callable[[S, E], S]
    ttl: Callable[[S], dt.timedelta | None]
    over: Callable[[S], bool]


@dataclasses.dataclass(eq=False)
class _Fold(Generic[S, E]):
    events: Sequence[E]
    done: bool = False
    state: S | None = None


class Records(Generic[S, E]):
    """One replica's view of the records of a kind. What it remembers is never older than what it wrote itself."""

    def __init__(self, bucket: Bucket[S], rules: Rules[S, E]) -> None:
        self._bucket = bucket
        self._rules = rules
        self._known: Recent[Entry[S]] = Recent(KEPT)
        self._waiting: dict[str, list[_Fold[S, E]]] = {}
        self._later: dict[str, tuple[E, ...]] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def create(self, name: str, state: S) -> tuple[S, bool]:
        """Saves a new record; answers with the one that stands, and whether it is this one."""
        try:
            revision = await self._bucket.create(self._rules.key(name), state, self._rules.ttl(state))
        except Conflict:
            found = await self.read(name)
            if found is None:
                raise
            return found, False
        self._known.put(name, Entry(self._rules.key(name), state, revision))
        return state, True

    def remembered(self, name: str) -> S | None:
        """The record as this replica remembers it; None where it does not."""
        entry = self._known.get(name)
        return self._with_later(name, entry.value) if entry else None

    async def known(self, name: str) -> S | None:
        """The record as this replica knows it, read where it does not. Another replica may have moved it since."""
        known = self.remembered(name)
        return known if known is not None else await self.read(name)

    async def read(self, name: str) -> S | None:
        """The record as it stands; None where there is none."""
        entry = await self._read(name)
        return entry.value if entry else None

    def over(self, state: S) -> bool:
        """Whether nothing is to be done with it any more."""
        return self._rules.over(state)

    def forget(self, name: str) -> None:
        """Has the record read anew when it is needed next; what has not been written of it is left."""
        self._known.drop(name)
        self._later.pop(name, None)

    async def later(self, name: str, events: Sequence[E]) -> S | None:
        """Moves the record by these events as this replica knows it; they are written with its next write, after LATER_SECONDS at
        the latest. For what does no harm when it is lost with the process, and done once more."""
        entry = self._known.get(name)
        if entry is None:
            return await self.fold(name, events)
        if name not in self._later:
            self._write_soon(name)
        self._later[name] = (*self._later.get(name, ()), *events)
        return self._with_later(name, entry.value)

    def note(self, name: str, events: Sequence[E]) -> S | None:
        """Moves the record by these events as this replica knows it, and writes nothing: for what another record tells anyway.
        None where it is not known."""
        entry = self._known.get(name)
        if entry is None:
            return None
        state = entry.value
        for event in events:
            state = self._rules.advance(state, event)
        self._known.put(name, Entry(entry.key, state, entry.revision))
        return state

    def _with_later(self, name: str, state: S) -> S:
        for event in self._later.get(name, ()):
            state = self._rules.advance(state, event)
        return state

    def _write_soon(self, name: str) -> None:
        asyncio.get_running_loop().call_later(LATER_SECONDS, self._write_later, name)

    def _taken_along(self, name: str, events: tuple[E, ...]) -> None:
        """These are written, or lost: what came to wait meanwhile still does. Till now they stood in what this replica knows."""
        waiting = self._later.get(name, ())
        if events and waiting[: len(events)] == events:
            del self._later[name]
            if left := waiting[len(events) :]:
                self._later[name] = left
                self._write_soon(name)

    def _write_later(self, name: str) -> None:
        if name in self._later:
            task = asyncio.create_task(self._written(name))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _written(self, name: str) -> None:
        try:
            await self.fold(name, ())
        except (Unavailable, Conflict) as error:
            log.info("record not written", name=name, reason=str(error))
        except Exception:
            log.exception("record not written", name=name)

    async def fold(
        self, name: str, events: Sequence[E], then: Callable[[S], Awaitable[Sequence[E]]] | None = None
    ) -> S | None:
        """Moves the record by these events; what stands after that, None where there is no record.

        `then` says what follows at once on a state, for the same write. It may be left out where other events lead that write.
        """
        mine = _Fold[S, E](events)
        self._waiting.setdefault(name, []).append(mine)
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        try:
            async with lock:
                if not mine.done:
                    await asyncio.sleep(0)  # lets those in that are as far as this one
                    batch = self._waiting.pop(name, [])
                    if mine not in batch:  # who took it along was cut off
                        batch.append(mine)
                    later = self._later.get(name, ())
                    try:
                        state = await self._move(
                            name, [*later, *(event for fold in batch for event in fold.events)], then
                        )
                    finally:
                        self._taken_along(name, later)
                    for fold in batch:
                        fold.done, fold.state = True, state
            return mine.state
        finally:
            self._leave(name, mine)

    def _leave(self, name: str, mine: _Fold[S, E]) -> None:
        """Takes back what nobody has taken along."""
        waiting = self._waiting.get(name)
        if waiting is not None and mine in waiting:
            waiting.remove(mine)
            if not waiting:
                del self._waiting[name]

    async def _move(
        self, name: str, events: Sequence[E], then: Callable[[S], Awaitable[Sequence[E]]] | None
    ) -> S | None:
        entry = self._known.get(name)
        fresh = False
        while True:
            if entry is None:
                entry, fresh = await self._read(name), True
            if entry is None:
                return None
            state = entry.value
            for event in events:
                state = self._rules.advance(state, event)
            if state == entry.value and fresh:
                return state
            if state == entry.value:  # what changes nothing here may change what another replica wrote since
                entry = None
                continue
            for event in await then(state) if then else ():
                state = self._rules.advance(state, event)
            try:
                revision = await self._bucket.update(entry.key, state, entry.revision, self._rules.ttl(state))
            except Conflict:
                if fresh:
                    await asyncio.sleep(random.uniform(0, 0.02))
                entry = None
                continue
            except Unavailable:
                self.forget(name)  # it may have been written all the same
                raise
            self._keep(name, Entry(entry.key, state, revision))
            return state

    async def _read(self, name: str) -> Entry[S] | None:
        entry = await self._bucket.get(self._rules.key(name))
        if entry is None:
            self.forget(name)
        else:
            self._keep(name, entry)
        return entry

    def _keep(self, name: str, entry: Entry[S]) -> None:
        known = self._known.get(name)
        if known is None or known.revision < entry.revision:
            self._known.put(name, entry)
