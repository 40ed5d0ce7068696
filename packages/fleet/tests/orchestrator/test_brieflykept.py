"""What is kept briefly of a bucket: read once a moment where a deliberation starts, and never in the way of a write."""

import pytest
from harness import Peers, task

from fleet.orchestrator import councils, main, policies
from fleet.orchestrator.brieflykept import GOOD_SECONDS, BrieflyKept
from fleet.orchestrator.councils import Council
from fleet.orchestrator.settings import OrchestratorSettings
from fleet.orchestrator.starting import bench_of
from fleet_wire.bus import Bus
from fleet_wire.errors import NotFound
from fleet_wire.kv import Entry, MemoryBucket


class Counting(MemoryBucket[Council]):
    """The twin, counting its reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    async def get(self, key: str) -> Entry[Council] | None:
        self.reads += 1
        return await super().get(key)


async def agents(kept: BrieflyKept[Council]) -> int:
    entry = await kept.get("DEV")
    return len(entry.value.agents) if entry else 0


async def test_a_record_is_read_once_until_its_moment_is_over_and_a_missing_one_each_time() -> None:
    bucket, now = Counting(), [0.0]
    kept = BrieflyKept(bucket, lambda: now[0])
    assert await agents(kept) == 0
    revision = await bucket.create("DEV", councils.make("DEV", 3))
    bucket.reads = 0
    assert [await agents(kept) for _ in range(3)] == [3, 3, 3]
    assert bucket.reads == 1
    await bucket.update("DEV", councils.make("DEV", 5), revision)
    assert await agents(kept) == 3
    now[0] = GOOD_SECONDS
    assert await agents(kept) == 5


async def test_a_change_of_a_council_meets_what_another_replica_wrote(server: Bus) -> None:
    peers = Peers(server)
    one, other = (
        main.assemble(OrchestratorSettings(), server, peers.executor, peers.memory, peers.plan_book, policies.load())
        for _ in range(2)
    )
    await one.requests.create_council(councils.make("DEV", 3))
    bench = await bench_of(one.store, task("a"))
    assert bench.council is not None
    await other.requests.change_council("DEV", lambda council: councils.with_agent(council, "agent-DEV-004"))
    fewer = await one.requests.change_council("DEV", lambda council: councils.without_agent(council, "agent-DEV-004"))
    assert fewer == bench.council
    await bench_of(one.store, task("a"))
    await other.requests.delete_council("DEV")
    with pytest.raises(NotFound):
        await one.requests.delete_council("DEV")
