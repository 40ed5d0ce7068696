"""The contract of a bucket, on the real thing and on its twin."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Optional

import msgspec
import pytest
from conftest import NatsServer

from fleet_wire.bus import Bus
from fleet_wire.errors import Conflict, Invalid, Unavailable
from fleet_wire.kv import Bucket, Entry, JetStreamBucket, MemoryBucket, change


class Record(msgspec.Struct, frozen=True):
    count: int = 0
    note: str = ""


class Case:
    """A bucket, and how time passes in it."""

    def __init__(self, bucket: "Bucket[Record]", passes: "Callable[[float], Awaitable[None]]") -> None:
        self.bucket = bucket
        self.passes = passes


@pytest.fixture(params=["memory", "jetstream"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "jetstream":
        return Case(JetStreamBucket(request.getfixturevalue("bus"), "plans", Record), asyncio.sleep)
    clock = [dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)]

    async def passes(seconds: float) -> None:
        clock[0] += dt.timedelta(seconds=seconds)

    return Case(MemoryBucket(lambda: clock[0]), passes)


async def listed(bucket: "Bucket[Record]", prefix: str = "") -> "dict[str, Record]":
    return {entry.key: entry.value async for entry in bucket.entries(prefix)}


async def test_an_unknown_key_is_none(case: Case) -> None:
    assert await case.bucket.get("a") is None


async def test_what_was_created_is_there_with_its_revision(case: Case) -> None:
    revision = await case.bucket.create("a", Record(1, "é\n"))
    entry = await case.bucket.get("a")
    assert entry is not None
    assert (entry.key, entry.value, entry.revision) == ("a", Record(1, "é\n"), revision)


async def test_a_key_is_created_once(case: Case) -> None:
    await case.bucket.create("a", Record(1))
    with pytest.raises(Conflict):
        await case.bucket.create("a", Record(2))
    assert (await listed(case.bucket)) == {"a": Record(1)}


async def test_update_takes_the_newest_revision_only(case: Case) -> None:
    first = await case.bucket.create("a", Record(1))
    second = await case.bucket.update("a", Record(2), first)
    assert second > first
    with pytest.raises(Conflict):
        await case.bucket.update("a", Record(3), first)
    third = await case.bucket.update("a", Record(3), second)
    entry = await case.bucket.get("a")
    assert entry is not None
    assert (entry.value, entry.revision) == (Record(3), third)


async def test_update_of_what_is_not_there_is_a_conflict(case: Case) -> None:
    with pytest.raises(Conflict):
        await case.bucket.update("a", Record(1), 7)


async def test_revisions_of_other_keys_do_not_matter(case: Case) -> None:
    revision = await case.bucket.create("a", Record(1))
    await case.bucket.create("b", Record(1))
    await case.bucket.update("a", Record(2), revision)


async def test_after_delete_it_is_gone_and_can_be_created_again(case: Case) -> None:
    first = await case.bucket.create("a", Record(1))
    await case.bucket.delete("a")
    assert await case.bucket.get("a") is None
    assert await listed(case.bucket) == {}
    with pytest.raises(Conflict):
        await case.bucket.update("a", Record(2), first)
    again = await case.bucket.create("a", Record(2))
    assert again > first
    with pytest.raises(Conflict):
        await case.bucket.create("a", Record(3))


async def test_delete_of_what_is_not_there_is_well(case: Case) -> None:
    await case.bucket.delete("a")
    await case.bucket.delete("a")
    await case.bucket.create("a", Record(1))


async def test_what_is_discarded_is_soon_gone_and_what_was_written_since_is_not(case: Case) -> None:
    first = await case.bucket.create("a", Record(1))
    second = await case.bucket.update("a", Record(2), first)
    kept = await case.bucket.create("b", Record(3))
    await case.bucket.discard("a", first)
    await case.bucket.discard("b")
    await case.bucket.discard("c")
    await gone(case.bucket, "b")
    entry = await case.bucket.get("a")
    assert entry is not None
    assert entry.revision == second
    await case.bucket.discard("a", second)
    await gone(case.bucket, "a")
    assert await case.bucket.create("b", Record(4)) > kept


async def gone(bucket: "Bucket[Record]", key: str) -> None:
    """Waits until there is no such record: nobody is told of what is discarded."""
    for _ in range(200):
        if await bucket.get(key) is None:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{key} is still there")


async def test_a_record_ends_with_its_time_to_live(case: Case) -> None:
    await case.bucket.create("short", Record(1), ttl=dt.timedelta(seconds=1))
    await case.bucket.create("long", Record(2), ttl=dt.timedelta(seconds=60))
    await case.bucket.create("ever", Record(3))
    assert set(await listed(case.bucket)) == {"short", "long", "ever"}
    await case.passes(2.2)
    assert await case.bucket.get("short") is None
    assert set(await listed(case.bucket)) == {"long", "ever"}
    await case.bucket.create("short", Record(4))


async def test_an_update_takes_the_time_to_live_of_its_own(case: Case) -> None:
    kept = await case.bucket.create("kept", Record(1), ttl=dt.timedelta(seconds=1))
    ends = await case.bucket.create("ends", Record(1))
    await case.bucket.update("kept", Record(2), kept)
    await case.bucket.update("ends", Record(2), ends, ttl=dt.timedelta(seconds=1))
    await case.passes(2.2)
    assert await listed(case.bucket) == {"kept": Record(2)}


async def test_a_record_is_given_its_time_to_live_where_nobody_wrote_it_since(case: Case) -> None:
    ends = Entry("ends", Record(1), await case.bucket.create("ends", Record(1)))
    stays = Entry("stays", Record(1), await case.bucket.create("stays", Record(1)))
    await case.bucket.update("stays", Record(2), stays.revision)
    await case.bucket.expire(stays, dt.timedelta(seconds=1))
    await case.bucket.expire(ends, dt.timedelta(seconds=1))
    await case.bucket.create("later", Record(3))
    assert await listed(case.bucket) == {"ends": Record(1), "stays": Record(2), "later": Record(3)}
    await case.passes(2.2)
    assert await listed(case.bucket) == {"stays": Record(2), "later": Record(3)}


async def test_entries_of_an_empty_bucket_are_none(case: Case) -> None:
    assert await asyncio.wait_for(listed(case.bucket), 2) == {}


async def test_entries_by_prefix_with_their_revisions(case: Case) -> None:
    revisions = {key: await case.bucket.create(key, Record(1)) for key in ("state.a", "state.b", "prompt.a", "statex")}
    assert set(await listed(case.bucket, "state.")) == {"state.a", "state.b"}
    assert await listed(case.bucket, "none.") == {}
    assert {entry.key: entry.revision async for entry in case.bucket.entries()} == revisions


async def test_entries_show_the_newest_of_each_key(case: Case) -> None:
    revision = await case.bucket.create("a", Record(1))
    for number in range(2, 5):
        revision = await case.bucket.update("a", Record(number), revision)
    assert await listed(case.bucket) == {"a": Record(4)}


async def test_records_may_be_changed_and_removed_while_they_are_listed(case: Case) -> None:
    revisions = {f"k{number:03d}": await case.bucket.create(f"k{number:03d}", Record(number)) for number in range(200)}
    seen = []
    async for entry in case.bucket.entries():
        seen.append(entry.key)
        if len(seen) == 1:
            await case.bucket.delete("k199")
            await case.bucket.update("k198", Record(-1), revisions["k198"])
    assert {f"k{number:03d}" for number in range(199)} <= set(seen)


async def test_a_listing_may_be_left_early(case: Case) -> None:
    for number in range(20):
        await case.bucket.create(f"k{number}", Record(number))
    async for _ in case.bucket.entries():
        break
    assert len(await listed(case.bucket)) == 20


async def test_twenty_writers_lose_no_step(case: Case) -> None:
    async def write() -> None:
        for _ in range(5):
            await change(case.bucket, "a", lambda record: Record((record.count if record else 0) + 1))

    await asyncio.gather(*(write() for _ in range(20)))
    assert await listed(case.bucket) == {"a": Record(100)}


async def test_of_twenty_creators_one_wins(case: Case) -> None:
    results = await asyncio.gather(
        *(case.bucket.create("a", Record(number)) for number in range(20)), return_exceptions=True
    )
    winners = [number for number, result in enumerate(results) if not isinstance(result, BaseException)]
    assert len(winners) == 1
    assert await listed(case.bucket) == {"a": Record(winners[0])}
    assert all(isinstance(result, (int, Conflict)) for result in results)


async def test_change_to_nothing_or_to_the_same_writes_nothing(case: Case) -> None:
    assert await change(case.bucket, "a", lambda record: None) is None
    revision = await case.bucket.create("a", Record(1))
    assert await change(case.bucket, "a", lambda record: None) == Record(1)
    assert await change(case.bucket, "a", lambda record: Record(1)) == Record(1)
    entry = await case.bucket.get("a")
    assert entry is not None
    assert entry.revision == revision


async def test_change_gives_the_record_the_time_to_live_of_its_new_value(case: Case) -> None:
    def ttl(record: Record) -> Optional[dt.timedelta]:
        return dt.timedelta(seconds=1) if record.note == "ended" else None

    await change(case.bucket, "runs", lambda record: Record(1), ttl)
    await change(case.bucket, "ended", lambda record: Record(1, "ended"), ttl)
    await case.passes(2.2)
    assert await listed(case.bucket) == {"runs": Record(1)}


async def test_a_step_that_raises_leaves_the_record(case: Case) -> None:
    await case.bucket.create("a", Record(1))

    def step(record: Optional[Record]) -> Optional[Record]:
        raise Invalid("no")

    with pytest.raises(Invalid):
        await change(case.bucket, "a", step)
    assert await listed(case.bucket) == {"a": Record(1)}


async def test_what_was_deleted_is_soon_nothing_to_be_read_any_more(bus: Bus) -> None:
    bucket = JetStreamBucket(bus, "plans", Record)
    for number in range(3):
        await bucket.create(f"gone.{number}", Record(number))
        await bucket.delete(f"gone.{number}")

    async def gone() -> None:
        while (await bus.js.stream_info("KV_plans", subjects_filter="$KV.plans.gone.>")).state.subjects:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    await asyncio.wait_for(gone(), 20)


async def test_an_unreadable_record_is_named(bus: Bus) -> None:
    await bus.js.publish("$KV.plans.bad", b"\xff{")
    with pytest.raises(Invalid, match="plans/bad cannot be read"):
        await JetStreamBucket(bus, "plans", Record).get("bad")


async def test_an_unreadable_record_hides_no_other(bus: Bus) -> None:
    bucket = JetStreamBucket(bus, "plans", Record)
    await bucket.create("first", Record(1))
    await bus.js.publish("$KV.plans.middle", b"\xff{")
    await bucket.create("last", Record(2))
    found = await listed(bucket)
    assert (found["first"], found["last"], found.get("middle")) == (Record(1), Record(2), None)


async def all_unavailable(bucket: "Bucket[Record]") -> None:
    calls = (
        bucket.get("a"),
        bucket.create("b", Record(1)),
        bucket.update("a", Record(2), 1),
        bucket.delete("a"),
        listed(bucket),
    )
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, Unavailable), error
        assert "bucket plans" in str(error)


async def test_a_bucket_that_does_not_exist_is_unavailable(bare_bus: Bus) -> None:
    bucket = JetStreamBucket(bare_bus, "plans", Record)
    bare_bus.js._timeout = bare_bus.ack_seconds = 0.3
    await all_unavailable(bucket)


async def test_a_server_that_is_away_is_unavailable(bus: Bus, nats_server: NatsServer) -> None:
    bucket = JetStreamBucket(bus, "plans", Record)
    await bucket.create("a", Record(1))
    bus.js._timeout = bus.ack_seconds = 0.2
    nats_server.kill()
    await all_unavailable(bucket)


async def test_reading_goes_on_across_a_restart_of_the_server(bus: Bus, nats_server: NatsServer) -> None:
    bucket = JetStreamBucket(bus, "plans", Record)
    await bucket.create("a", Record(1))
    bus.js._timeout = bus.ack_seconds = 0.5
    nats_server.kill()
    reading = asyncio.create_task(bucket.get("a"))
    await asyncio.sleep(0.2)
    nats_server.start()
    entry = await asyncio.wait_for(reading, 10)
    assert entry is not None
    assert entry.value == Record(1)


async def test_a_record_that_is_written_while_all_are_read_is_among_them(case: Case) -> None:
    keys = [f"k{number}" for number in range(20)]
    revisions = {key: await case.bucket.create(key, Record(0)) for key in keys}
    stop = asyncio.Event()

    async def write() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            for key in reversed(keys):
                revisions[key] = await case.bucket.update(key, Record(count), revisions[key])
            await asyncio.sleep(0)

    writer = asyncio.create_task(write())
    try:
        for _ in range(20):
            assert sorted(await listed(case.bucket)) == sorted(keys)
    finally:
        stop.set()
        await writer
