"""What is kept briefly of a bucket: read once a moment, and never in the way of a write."""

import pytest

from fleet.orchestrator import councils
from fleet.orchestrator.brieflykept import GOOD_SECONDS, BrieflyKept
from fleet.orchestrator.councils import Council
from fleet_wire.errors import Conflict
from fleet_wire.kv import Entry, MemoryBucket, change


class Counting(MemoryBucket[Council]):
    """The twin, counting its reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def get(self, key: str) -> Entry[Council] | None:
        self.reads += 1
        return await super().get(key)


async def agents(bucket: BrieflyKept[Council]) -> int:
    entry = await bucket.get("DEV")
    return len(entry.value.agents) if entry else 0


async def test_a_record_is_read_once_until_its_moment_is_over() -> None:
    bucket, now = Counting(), [0.0]
    kept = BrieflyKept(bucket, lambda: now[0])
    revision = await bucket.create("DEV", councils.make("DEV", 3))
    assert [await agents(kept) for _ in range(3)] == [3, 3, 3]
    assert bucket.reads == 2  # the twin's own look before its create
    await bucket.update("DEV", councils.make("DEV", 5), revision)
    assert await agents(kept) == 3
    now[0] = GOOD_SECONDS
    assert await agents(kept) == 5


async def test_a_missing_record_and_what_this_replica_writes_are_never_taken_from_memory() -> None:
    bucket = Counting()
    kept = BrieflyKept(bucket, lambda: 0.0)
    assert await agents(kept) == 0
    revision = await kept.create("DEV", councils.make("DEV", 3))
    assert await agents(kept) == 3
    await kept.update("DEV", councils.make("DEV", 4), revision)
    assert await agents(kept) == 4
    await kept.delete("DEV")
    assert await agents(kept) == 0


async def test_a_change_meets_what_another_replica_wrote() -> None:
    bucket = Counting()
    kept = BrieflyKept(bucket, lambda: 0.0)
    revision = await kept.create("DEV", councils.make("DEV", 3))
    assert await agents(kept) == 3
    await bucket.update("DEV", councils.make("DEV", 4), revision)
    with pytest.raises(Conflict):
        await kept.update("DEV", councils.make("DEV", 9), revision)
    assert await agents(kept) == 4
    await bucket.update("DEV", councils.make("DEV", 5), revision + 1)
    changed = await change(kept, "DEV", lambda council: council and councils.with_agent(council, ""))
    assert changed is not None
    assert len(changed.agents) == 6
