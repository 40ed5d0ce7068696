"""One call for many that come at once: what is asked for while a call is under way goes into the next one together.

Nothing waits for company: a request that finds nobody working is worked on at once, alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from fleet_wire.errors import FleetError, Unavailable

Q = TypeVar("Q")
A = TypeVar("A")

Work = Callable[[Sequence[Q]], Awaitable[Sequence[A | FleetError]]]


class Batches(Generic[Q, A]):
    """Answers `ask` by `work`, which takes up to `most` requests and answers each, in order, with a value or an error to raise.

    No two requests of one batch have the same `key`. Where `work` raises, and `tells` that the error says something of a request
    (by default: any but Unavailable), the requests are tried one by one, so that a bad one fails alone. Where it takes longer
    than `seconds`, which may be a connection that has gone silent, all get Unavailable, and the next batch is worked on.
    """

    def __init__(
        self,
        work: Work[Q, A],
        most: int,
        key: Callable[[Q], Hashable] = id,
        tells: Callable[[Exception], bool] = lambda error: not isinstance(error, Unavailable),
        seconds: float = 15,
    ) -> None:
        self._work = work
        self._most = most
        self._key = key
        self._tells = tells
        self._seconds = seconds
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._working: asyncio.Task[None] | None = None

    async def ask(self, request: Q) -> A:
        """The answer to one request."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._working is None:
            self._working = asyncio.create_task(self._run())
        return await answer

    async def _run(self) -> None:
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        try:
            while batch := self._next():
                await self._answer(batch)
        finally:
            self._working = None
            for _, answer in (*batch, *self._waiting):
                answer.cancel()
            self._waiting.clear()

    def _next(self) -> list[tuple[Q, "asyncio.Future[A]"]]:
        """The oldest requests that may go together; those whose asker has gone are dropped."""
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        rest: list[tuple[Q, asyncio.Future[A]]] = []
        keys = set[Hashable]()
        for request, answer in self._waiting:
            key = self._key(request)
            if answer.done():
                continue
            if len(batch) == self._most or key in keys:
                rest.append((request, answer))
            else:
                batch.append((request, answer))
            keys.add(key)
        self._waiting = rest
        return batch

    async def _answer(self, batch: list[tuple[Q, "asyncio.Future[A]"]]) -> None:
        try:
            found = await asyncio.wait_for(self._work([request for request, _ in batch]), self._seconds)
        except TimeoutError:
            found = [Unavailable(f"no answer within {self._seconds:g} s")] * len(batch)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is those who asked that must see it)
            if len(batch) == 1 or not self._tells(error):
                found = [error] * len(batch)  # type: ignore[list-item]
            else:
                for one in batch:
                    await self._answer([one])
                return
        for (_, answer), value in zip(batch, found, strict=True):
            if answer.done():
                continue
            if isinstance(value, Exception):
                answer.set_exception(value)
            else:
                answer.set_result(value)
