"""Records that are read often and seldom written: what was read is good for a moment."""

import time
from collections.abc import Callable
from typing import Generic

from fleet.recent import Recent
from fleet_wire.kv import Bucket, Entry, T

GOOD_SECONDS = 1.0
"""How long a write may go unnoticed here, this replica's own too."""
KEPT = 64


class BrieflyKept(Generic[T]):
    """Reads of a bucket, answered from memory for GOOD_SECONDS; that a record is missing is never remembered. What is about to
    write reads the bucket itself."""

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
