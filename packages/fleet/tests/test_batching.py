"""One call for many: who comes while one is under way goes into the next, and none pays for another's mistake."""

import asyncio
from collections.abc import Sequence

import pytest

from fleet.batching import Batches
from fleet_wire.errors import FleetError, Invalid, NotFound, Unavailable


class Server:
    """Answers with the double once it may; remembers what came together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = asyncio.Event()

    async def work(self, requests: Sequence[int]) -> list[int | FleetError]:
        self.batches.append(list(requests))
        await self.may.wait()
        if 13 in requests:
            raise Invalid("13")
        return [NotFound("404") if request == 404 else 2 * request for request in requests]


async def begun(server: Server, batches: int) -> None:
    async with asyncio.timeout(5):
        while len(server.batches) < batches:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_the_first_goes_alone_and_at_once_and_who_comes_meanwhile_goes_together() -> None:
    server = Server()
    batches = Batches(server.work, most=3)
    asking = [asyncio.create_task(batches.ask(number)) for number in range(5)]
    await begun(server, 1)
    server.may.set()
    assert await asyncio.gather(*asking) == [0, 2, 4, 6, 8]
    assert server.batches == [[0, 1, 2], [3, 4]]
    assert await batches.ask(9) == 18


async def test_two_with_the_same_key_never_go_together_and_keep_their_order() -> None:
    server = Server()
    server.may.set()
    batches = Batches(server.work, most=10, key=lambda number: number % 2)
    assert await asyncio.gather(*(batches.ask(number) for number in (1, 3, 2, 5))) == [2, 6, 4, 10]
    assert server.batches == [[1, 2], [3], [5]]


async def test_an_answer_that_is_an_error_is_raised_where_it_was_asked_for() -> None:
    server = Server()
    server.may.set()
    batches = Batches(server.work, most=10)
    found = await asyncio.gather(*(batches.ask(number) for number in (1, 404, 3)), return_exceptions=True)
    assert [found[0], found[2]] == [2, 6]
    assert isinstance(found[1], NotFound)


async def test_one_that_makes_the_whole_batch_fail_fails_alone() -> None:
    server = Server()
    server.may.set()
    batches = Batches(server.work, most=10)
    found = await asyncio.gather(*(batches.ask(number) for number in (1, 13, 3)), return_exceptions=True)
    assert [found[0], found[2]] == [2, 6]
    assert isinstance(found[1], Invalid)
    assert server.batches == [[1, 13, 3], [1], [13], [3]]


async def test_a_server_that_is_away_is_not_asked_for_each_of_them() -> None:
    asked: list[int] = []

    async def away(requests: Sequence[int]) -> list[int | FleetError]:
        asked.append(len(requests))
        raise Unavailable("away")

    batches = Batches(away, most=10)
    found = await asyncio.gather(*(batches.ask(number) for number in range(3)), return_exceptions=True)
    assert asked == [3]
    assert all(isinstance(one, Unavailable) for one in found)


async def test_who_goes_away_takes_nobody_along_and_is_not_asked_for() -> None:
    server = Server()
    batches = Batches(server.work, most=1)
    first, second, third = (asyncio.create_task(batches.ask(number)) for number in (1, 2, 3))
    await begun(server, 1)
    first.cancel()
    second.cancel()
    server.may.set()
    assert await third == 6
    assert server.batches == [[1], [3]]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_server_that_falls_silent_holds_up_nobody_for_ever() -> None:
    server = Server()
    batches = Batches(server.work, most=2, seconds=0.05)
    found = await asyncio.gather(*(batches.ask(number) for number in (1, 2)), return_exceptions=True)
    assert all(isinstance(one, Unavailable) for one in found)
    server.may.set()
    assert await batches.ask(3) == 6


async def test_who_knows_better_says_which_error_is_one_of_a_request() -> None:
    server = Server()
    server.may.set()

    async def work(requests: Sequence[int]) -> list[int | FleetError]:
        if 13 in requests:
            raise Unavailable("the server refuses 13")
        return await server.work(requests)

    batches = Batches(work, most=10, tells=lambda error: "refuses" in str(error))
    found = await asyncio.gather(*(batches.ask(number) for number in (1, 13, 3)), return_exceptions=True)
    assert [found[0], found[2]] == [2, 6] and isinstance(found[1], Unavailable)
