"""A bucket whose records are read often and written by people: what was read is good for a moment."""

import datetime as dt
import time
from collections.abc import AsyncIterator, Callable
from typing import Generic

from fleet.recent import Recent
from fleet_wire.kv import Bucket, Entry, T

GOOD_SECONDS = 1.0
"""How long another replica's write may go unnoticed here."""
KEPT = 64


class BrieflyKept(Generic[T]):
    """The bucket, with `get` answered from memory for GOOD_SECONDS. This replica's own writes show at once; that a record is
    missing is never remembered."""

    def __init__(self, bucket: Bucket[T], clock: Callable[[], float] = time.monotonic) -> None:
        self._bucket = bucket
        self._clock = clock
        self._known: Recent[tuple[float, Entry[T]]] = Recent(KEPT)

    async def get(self, key: str) -> Entry[T] | None:
        now = self._clock()
        known = self._known.get(key)
        if known is not None and now < known[0]:
            return known[1]
        entry = await self._bucket.get(key)
        self._known.drop(key)
        if entry is not None:
            self._known.put(key, (now + GOOD_SECONDS, entry))
        return entry

    async def create(self, key: str, value: T, ttl: dt.timedelta | None = None) -> int:
        try:
            return await self._bucket.create(key, value, ttl)
        finally:
            self._known.drop(key)

    async def update(self, key: str, value: T, revision: int, ttl: dt.timedelta | None = None) -> int:
        try:
            return await self._bucket.update(key, value, revision, ttl)
        finally:  # after a conflict, too, it is read anew
            self._known.drop(key)

    async def expire(self, entry: Entry[T], ttl: dt.timedelta) -> None:
        self._known.drop(entry.key)
        await self._bucket.expire(entry, ttl)

    async def delete(self, key: str) -> None:
        try:
            await self._bucket.delete(key)
        finally:
            self._known.drop(key)

    def entries(self, prefix: str = "") -> AsyncIterator[Entry[T]]:
        return self._bucket.entries(prefix)
