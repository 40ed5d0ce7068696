"""Jobs that come while an actor is called go to it together."""

import asyncio
from collections.abc import Sequence

import pytest
from samples import open_job

from fleet_executor.giving import Giving
from fleet_executor.jobs import MAX_JOBS, OpenJob
from fleet_wire.errors import Unavailable


class Actor:
    """Answers a call when it is told to, by an error where one is set."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.called, self.answers = asyncio.Event(), asyncio.Event()
        self.error: Exception = Unavailable("")
        self.fails = False

    async def call(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        self.calls.append(len(jobs))
        self.called.set()
        await self.answers.wait()
        if self.fails:
            raise self.error
        return ""


async def given(giving: Giving, actor: Actor, *counts: int) -> "list[asyncio.Future[str]]":
    """Requests of so many jobs each, the others made while the first is under way."""
    made: list[asyncio.Future[str]] = []
    for count in counts:
        made.append(asyncio.ensure_future(giving.give("pool-0", [open_job()] * count)))
        await actor.called.wait()
    await asyncio.sleep(0)
    return made


async def test_what_comes_during_a_call_goes_into_the_next_one() -> None:
    actor = Actor()
    requests = await given(Giving(actor.call), actor, 1, 2, 3)
    actor.answers.set()
    assert await asyncio.gather(*requests) == ["", "", ""]
    assert actor.calls == [1, 5]


async def test_a_call_takes_no_more_jobs_than_a_request_may_hold() -> None:
    actor = Actor()
    requests = await given(Giving(actor.call), actor, 1, MAX_JOBS, 1, MAX_JOBS - 1, 1, MAX_JOBS + 1, 2)
    actor.answers.set()
    assert await asyncio.gather(*requests) == [""] * 7
    assert actor.calls == [1, MAX_JOBS, MAX_JOBS, 1, MAX_JOBS + 1, 2]


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("a defect")])
async def test_an_error_reaches_all_callers_as_itself_and_the_next_call_is_made(error: Exception) -> None:
    actor = Actor()
    actor.fails, actor.error = True, error
    giving = Giving(actor.call)
    requests = await given(giving, actor, 1, 2, 3)
    actor.answers.set()
    ends = await asyncio.gather(*requests, return_exceptions=True)
    assert [(type(end), str(end)) for end in ends] == [(type(error), str(error))] * 3
    actor.fails = False
    assert await giving.give("pool-0", [open_job()]) == ""
