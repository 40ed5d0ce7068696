"""How many calls to the model are open, and how many are taken."""

import asyncio
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import NOW, open_job, spec

from fleet_executor import calls as module
from fleet_executor.calls import ModelCalls
from fleet_executor.jobs import OpenJob, completed
from fleet_executor.pressure import has_room, next_limit, waiting
from fleet_executor.registry import Registry
from fleet_wire import events
from fleet_wire.errors import AlreadyExists, Exhausted
from fleet_wire.kv import MemoryBucket

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="a b"} 12.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a b"} 3.0
vllm:num_requests_waiting{engine="1",model_name="a b"} 4.0
vllm:num_requests_waiting_by_reason{engine="1",reason="capacity"} 90.0
"""
LLAMA = "# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred 2\nllamacpp:requests_processing 6\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [(VLLM, 7), (LLAMA, 2), ("", None), ("process_open_fds 3\n", None), (VLLM.replace("3.0", "x"), None)],
)
def test_what_waits_is_read_from_either_server(text: str, found: object) -> None:
    assert waiting(text) == found


@given(limit=st.integers(1, 300), setting=st.integers(1, 300), open_calls=st.integers(0, 400), busy=st.booleans())
def test_the_limit_falls_while_requests_wait_and_grows_while_none_do(
    limit: int, setting: int, open_calls: int, busy: bool
) -> None:
    limit = min(limit, setting)
    new = next_limit(limit, setting, open_calls, 1 if busy else 0)
    assert 1 <= new <= setting
    assert new <= limit if busy else new > limit or new == setting
    if busy and limit > 1 and open_calls:
        assert new < min(limit, open_calls) or new == 1
    while new < setting:
        assert next_limit(new, setting, open_calls, 0) > new
        new = next_limit(new, setting, open_calls, 0)


def test_a_request_is_taken_when_nothing_is_open_however_large_it_is() -> None:
    assert has_room(10, 0, 1)
    assert not has_room(10, 1, 10)
    assert has_room(9, 1, 10)
    assert has_room(0, 20, 1)


class Work:
    def __init__(self, limit: int) -> None:
        self.registry = Registry(MemoryBucket(), MemoryBucket(), MemoryBucket(), MemoryBucket())
        self.calls = ModelCalls(self.registry, limit)

    async def ask(self, *numbers: int, **changes: object) -> list[OpenJob]:
        jobs = [open_job(number, **changes) for number in numbers]
        async with self.calls.taken(jobs):
            await asyncio.sleep(0.01)
            await self.registry.accept(jobs)
        return jobs

    async def end(self, job: OpenJob) -> None:
        await self.registry.end(
            completed(job, "x", "m", events.Usage(), events.Timing(), NOW + dt.timedelta(seconds=1))
        )
        await self.registry.close(job.key)


async def test_above_the_limit_a_request_is_refused_until_calls_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTING_SECONDS", 0)
    work = Work(4)
    first = await work.ask(1, 2, 3)
    with pytest.raises(Exhausted, match="has 3 calls open and takes 4 at most now, so not 2 more"):
        await work.ask(4, 5)
    assert len(await work.registry.open_jobs()) == 3
    await work.end(first[0])
    await work.ask(4, 5)
    assert work.calls.open == 4


async def test_a_repeated_request_is_taken_also_above_the_limit() -> None:
    work = Work(2)
    await work.ask(1, 2)
    work.calls.limit = 1
    await work.ask(1, 2)
    restarted = ModelCalls(work.registry, 1)  # which knows of nothing yet
    async with restarted.taken([open_job(1), open_job(2)]):
        pass
    with pytest.raises(Exhausted):
        async with restarted.taken([open_job(1), open_job(3)]):
            pass


async def test_a_repeated_request_whose_job_has_ended_is_taken_also_above_the_limit() -> None:
    work = Work(2)
    [_, ended] = await work.ask(1, 2)
    await work.end(ended)
    restarted = ModelCalls(work.registry, 1)
    restarted.learn([entry.value for entry in await work.registry.open_jobs()], restarted.mark())
    async with restarted.taken([ended]):
        assert restarted.open == 1


async def test_requests_that_come_at_once_do_not_pass_the_limit_together() -> None:
    work = Work(5)
    outcomes = await asyncio.gather(*(work.ask(2 * each, 2 * each + 1) for each in range(6)), return_exceptions=True)
    assert sum(isinstance(outcome, Exhausted) for outcome in outcomes) == 4
    assert len(await work.registry.open_jobs()) == 4


async def test_jobs_that_ask_no_model_do_not_count() -> None:
    work = Work(1)
    dry = {"spec": spec(7, messages=[])}
    await work.ask(1)
    await work.ask(7, **dry)
    assert work.calls.open == 1


async def test_what_could_not_be_recorded_does_not_count() -> None:
    work = Work(2)
    await work.ask(1)
    with pytest.raises(AlreadyExists):
        await work.ask(1, deliberation_id="delib-2")
    assert work.calls.open == 1


async def test_jobs_taken_while_others_are_listed_are_not_forgotten() -> None:
    work = Work(9)
    [ended] = await work.ask(1)
    mark = work.calls.mark()
    listed = [entry.value for entry in await work.registry.open_jobs()]
    await work.ask(2)
    work.calls.learn(listed, mark)
    assert work.calls.open == 2
    await work.end(ended)
    mark = work.calls.mark()
    work.calls.learn([entry.value for entry in await work.registry.open_jobs()], mark)
    assert work.calls.open == 1
