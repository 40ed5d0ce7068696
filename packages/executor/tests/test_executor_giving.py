"""Jobs that come while an actor is called go to it together."""

import asyncio
from collections.abc import Sequence

import pytest
from samples import open_job

from fleet_executor import giving as module
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


def idle(actor: str) -> bool:
    return False


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
    requests = await given(Giving(actor.call, idle), actor, 1, 2, 3)
    actor.answers.set()
    assert await asyncio.gather(*requests) == ["", "", ""]
    assert actor.calls == [1, 5]


async def test_a_call_takes_no_more_jobs_than_a_request_may_hold() -> None:
    actor = Actor()
    requests = await given(Giving(actor.call, idle), actor, 1, MAX_JOBS, 1, MAX_JOBS - 1, 1, MAX_JOBS + 1, 2)
    actor.answers.set()
    assert await asyncio.gather(*requests) == [""] * 7
    assert actor.calls == [1, MAX_JOBS, MAX_JOBS, 1, MAX_JOBS + 1, 2]


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("a defect")])
async def test_an_error_reaches_all_callers_as_itself_and_the_next_call_is_made(error: Exception) -> None:
    actor = Actor()
    actor.fails, actor.error = True, error
    giving = Giving(actor.call, idle)
    requests = await given(giving, actor, 1, 2, 3)
    actor.answers.set()
    ends = await asyncio.gather(*requests, return_exceptions=True)
    assert [(type(end), str(end)) for end in ends] == [(type(error), str(error))] * 3
    actor.fails = False
    assert await giving.give("pool-0", [open_job()]) == ""


async def test_calls_of_a_busy_actor_keep_apart_and_those_of_another_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPACING_SECONDS", 0.4)
    begun: dict[str, list[float]] = {"busy": [], "idle": []}
    clock = asyncio.get_running_loop().time

    async def call(actor: str, jobs: Sequence[OpenJob]) -> str:
        begun[actor].append(clock())
        return ""

    giving = Giving(call, lambda actor: actor == "busy")
    for name in begun:
        for _ in range(3):
            await giving.give(name, [open_job()])
    apart = [later - earlier for moments in begun.values() for earlier, later in zip(moments, moments[1:])]
    assert [seconds > 0.39 for seconds in apart] == [True, True, False, False]


async def test_what_waits_for_a_busy_actor_goes_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPACING_SECONDS", 0.4)
    actor = Actor()
    actor.answers.set()
    giving = Giving(actor.call, lambda name: True)
    clock = asyncio.get_running_loop().time
    begun = clock()
    assert await giving.give("pool-0", [open_job()]) == ""
    assert clock() - begun < 0.4  # the first one waits for nothing, and neither does its answer
    requests = [asyncio.ensure_future(giving.give("pool-0", [open_job()])) for _ in range(2)]
    await asyncio.sleep(0.05)
    requests.append(asyncio.ensure_future(giving.give("pool-0", [open_job()])))
    assert await asyncio.gather(*requests) == [""] * 3
    assert actor.calls == [1, 3]
