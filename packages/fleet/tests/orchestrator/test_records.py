"""Records as two replicas move them: nothing is lost to what one of them remembers, and folds that meet share a write."""

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest
import structlog
from harness import until
from hypothesis import given
from hypothesis import strategies as st

from fleet.orchestrator.records import Records, Rules
from fleet.recent import Recent
from fleet_wire.errors import Unavailable
from fleet_wire.kv import MemoryBucket


class Marks(msgspec.Struct, frozen=True):
    """A record that holds each mark once."""

    marks: tuple[str, ...] = ()
    over: bool = False


def advance(state: Marks, mark: str) -> Marks:
    if mark == "over":
        return msgspec.structs.replace(state, over=True)
    return state if mark in state.marks else Marks((*state.marks, mark), state.over)


RULES: Rules[Marks, str] = Rules(
    key=lambda name: f"state.{name}",
    advance=advance,
    ttl=lambda state: dt.timedelta(days=1) if state.over else None,
    over=lambda state: state.over,
)


class Bucket(MemoryBucket[Marks]):
    """The twin with every call taking a turn of the loop, counting its calls, and away when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.away_after_write = False
        self.writes = asyncio.Event()

    async def get(self, key: str) -> Any:
        self.calls.append("get")
        await asyncio.sleep(0)
        return await super().get(key)

    async def update(self, key: str, value: Marks, revision: int, ttl: dt.timedelta | None = None) -> int:
        self.calls.append("update")
        self.writes.set()
        await asyncio.sleep(0)
        entry = self._records.get(key, (None, None))[0]
        if (entry.revision if entry else 0) == revision and self.away_after_write:
            self._put(key, value, ttl)
            self.away_after_write = False
            raise Unavailable("written, and nobody knows")
        return await super().update(key, value, revision, ttl)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


async def test_what_a_replica_wrote_itself_it_does_not_read_again(bucket: Bucket) -> None:
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    bucket.calls.clear()
    await records.fold("a", ["x"])
    assert await records.fold("a", ["y"]) == Marks(("x", "y"))
    assert bucket.calls.count("get") == 2  # the twin's own look before each update


async def test_what_comes_at_once_is_folded_in_one_write(bucket: Bucket) -> None:
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    states = await asyncio.gather(*(records.fold("a", [f"m{number}"]) for number in range(10)))
    assert bucket.calls.count("update") == 1
    assert [len(state.marks) for state in states if state is not None] == [10] * 10


async def test_what_comes_during_a_write_is_folded_in_one_further_write(bucket: Bucket) -> None:
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    first = asyncio.create_task(records.fold("a", ["first"]))
    await bucket.writes.wait()
    states = await asyncio.gather(*(records.fold("a", [f"m{number}"]) for number in range(9)))
    assert await first == Marks(("first",))
    assert bucket.calls.count("update") == 2
    assert [len(state.marks) for state in states if state is not None] == [10] * 9


async def test_what_follows_at_once_on_a_state_stands_with_it_in_one_write(bucket: Bucket) -> None:
    records, other = Records(bucket, RULES), Records(bucket, RULES)
    await records.create("a", Marks())
    await other.fold("a", ["theirs"])
    bucket.calls.clear()

    async def then(state: Marks) -> list[str]:
        return [f"after {len(state.marks)}"]

    assert await records.fold("a", ["x"], then) == Marks(("theirs", "x", "after 2"))
    assert bucket.calls.count("update") == 2  # the first one met what the other wrote


async def test_what_may_wait_is_known_at_once_and_written_with_the_next_write(bucket: Bucket) -> None:
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    bucket.calls.clear()
    assert await records.later("a", ["x"]) == Marks(("x",))
    assert await records.later("a", ["y"]) == await records.known("a") == Marks(("x", "y"))
    assert bucket.calls == []
    assert await Records(bucket, RULES).read("a") == Marks()  # what another replica does on that does no harm
    assert await records.fold("a", ["z"]) == Marks(("x", "y", "z"))
    assert bucket.calls.count("update") == 1
    entry = await bucket.get("state.a")
    assert entry.value == Marks(("x", "y", "z"))


async def test_what_may_wait_is_known_while_it_is_written_and_what_comes_meanwhile_is_written_after_it(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.orchestrator.records.LATER_SECONDS", 0.01)
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    await records.later("a", ["x"])
    writing = asyncio.ensure_future(records.fold("a", ["y"]))
    await bucket.writes.wait()
    assert await records.known("a") == Marks(("x",))
    assert await records.later("a", ["z"]) == Marks(("x", "z"))
    assert await writing == Marks(("x", "y"))
    assert await records.known("a") == Marks(("x", "y", "z"))
    await until(lambda: bucket.calls.count("update") == 2)
    assert (await until(lambda: bucket.get("state.a"))).value == Marks(("x", "y", "z"))


async def test_what_no_other_write_takes_along_is_written_after_its_time(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.orchestrator.records.LATER_SECONDS", 0.01)
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    await records.later("a", ["x"])
    await asyncio.wait_for(bucket.writes.wait(), 5)
    assert await records.fold("a", ["y"]) == Marks(("x", "y"))
    await Records(bucket, RULES).later("a", ["z"])  # by a replica that does not remember the record: at once
    entry = await bucket.get("state.a")
    assert entry.value == Marks(("x", "y", "z"))


async def test_what_waited_and_could_not_be_written_is_logged(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: Any) -> int:
        raise RuntimeError("maximum message size exceeded")

    monkeypatch.setattr("fleet.orchestrator.records.LATER_SECONDS", 0.01)
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    bucket.update = refused  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as logs:
        await records.later("a", ["x"])
        await until(lambda: logs)
    assert [(line["event"], line["log_level"]) for line in logs] == [("record not written", "error")]


async def test_what_may_wait_is_written_on_top_of_what_another_replica_wrote(bucket: Bucket) -> None:
    one, other = Records(bucket, RULES), Records(bucket, RULES)
    await one.create("a", Marks())
    await one.later("a", ["x"])
    await other.fold("a", ["theirs"])
    assert await one.fold("a", ["y"]) == Marks(("theirs", "x", "y"))


async def test_what_may_wait_goes_with_what_is_forgotten(bucket: Bucket) -> None:
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    await records.later("a", ["x"])
    records.forget("a")
    assert await records.known("a") == Marks()


async def test_a_replica_that_lags_behind_writes_on_top_of_what_stands(bucket: Bucket) -> None:
    one, other = Records(bucket, RULES), Records(bucket, RULES)
    await one.create("a", Marks())
    await other.read("a")
    await one.fold("a", ["x"])
    assert await other.fold("a", ["y"]) == Marks(("x", "y"))


async def test_an_event_that_changes_nothing_here_may_change_what_stands_there(bucket: Bucket) -> None:
    one, other = Records(bucket, RULES), Records(bucket, RULES)
    await one.create("a", Marks(("x",)))
    await other.read("a")
    await bucket.update("state.a", Marks(), 1)
    assert await other.fold("a", ["x"]) == Marks(("x",))
    entry = await bucket.get("state.a")
    assert entry.value == Marks(("x",))


async def test_a_write_whose_answer_was_lost_is_found(bucket: Bucket) -> None:
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    bucket.away_after_write = True
    with pytest.raises(Unavailable):
        await records.fold("a", ["x"])
    assert await records.fold("a", ["x"]) == Marks(("x",))
    assert bucket.calls.count("update") == 1


async def test_a_fold_whose_leader_is_cut_off_is_taken_up_by_the_next(bucket: Bucket) -> None:
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    leader = asyncio.create_task(records.fold("a", ["x"]))
    follower = asyncio.create_task(records.fold("a", ["y"]))
    await asyncio.sleep(0)
    leader.cancel()
    state = await follower
    assert state is not None
    assert "y" in state.marks


async def test_what_is_over_is_remembered_like_the_rest_and_no_record_is_none(bucket: Bucket) -> None:
    records = Records(bucket, RULES)
    await records.create("a", Marks())
    await records.fold("a", ["over"])
    bucket.calls.clear()
    assert await records.known("a") == Marks((), over=True)
    assert bucket.calls == []
    assert await records.fold("b", ["x"]) is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=40))
def test_any_interleaving_of_replicas_keeps_every_mark_once(steps: list[tuple[int, int]]) -> None:
    async def run() -> None:
        bucket = Bucket()
        replicas = [Records(bucket, RULES) for _ in range(3)]
        await replicas[0].create("a", Marks())
        for at in range(0, len(steps), 4):
            group = steps[at : at + 4]
            await asyncio.gather(*(replicas[who].fold("a", [f"m{mark}"]) for who, mark in group))
        entry = await bucket.get("state.a")
        assert sorted(entry.value.marks) == sorted({f"m{mark}" for _, mark in steps})

    asyncio.run(run())


def test_the_memory_is_bounded_by_weight_and_drops_what_was_used_longest_ago() -> None:
    recent: Recent[str] = Recent(10)
    for name in "abc":
        recent.put(name, name, 3)
    assert recent.get("a") == "a"
    recent.put("d", "d", 3)
    assert [recent.get(name) for name in "abcd"] == ["a", None, "c", "d"]
    recent.put("e", "e", 100)
    assert recent.get("e") is None
