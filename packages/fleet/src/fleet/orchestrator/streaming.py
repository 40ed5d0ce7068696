"""A deliberation as it happens, for one client: its record whenever state or phase changes, results, text, and last the outcome.

A slow client holds up nobody: of the record only the newest is kept for it, results are read when they are sent, and of the text
the oldest is dropped first.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import DeliverPolicy

from fleet.deliberation.state import ENDED, Deliberation
from fleet.orchestrator.messages import deliberation_message, text_message
from fleet.orchestrator.results import Results
from fleet.orchestrator.store import Store, outcome_key, state_key
from fleet_wire import events, ids
from fleet_wire.bus import Bus, reason_of
from fleet_wire.errors import Invalid, NotFound, Unavailable
from fleet_wire.events import TokenChunk
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb

log = structlog.get_logger(__name__)

BACKLOG = 256
"""Pieces of text that wait for a client at most."""
LOOK_SECONDS = 5.0
"""How long the record may be silent before it is read again: a watch can be lost with the server it was on."""

_DECODER = msgspec.json.Decoder(Deliberation)


class Backlog:
    """What a client has not taken yet. Its strategy is `text first`: when it is full, the oldest text is dropped."""

    def __init__(self, limit: int = BACKLOG) -> None:
        self._texts: deque[TokenChunk] = deque(maxlen=limit)
        self._state: Deliberation | None = None
        self._revision = 0
        self._news = asyncio.Event()

    def put_text(self, chunk: TokenChunk) -> None:
        self._texts.append(chunk)
        self._news.set()

    def put_state(self, state: Deliberation, revision: int) -> None:
        """Only the newest is kept; one that is older than what was put before is left out."""
        if revision > self._revision:
            self._state, self._revision = state, revision
            self._news.set()

    async def take(self, seconds: float) -> tuple[list[TokenChunk], Deliberation | None]:
        """All the text, and the newest record where there is a newer one, as soon as there is either; nothing after `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), seconds)
        self._news.clear()
        texts, state = list(self._texts), self._state
        self._texts.clear()
        self._state = None
        return texts, state


class Following:
    """The ports of a stream."""

    def __init__(self, store: Store, bus: Bus, results: Results) -> None:
        self._store = store
        self._bus = bus
        self._results = results

    async def follow(self, deliberation_id: str) -> AsyncGenerator[pb.StreamDeliberationResponse, None]:
        """Messages until the deliberation has ended. Raises NotFound for an unknown one, Unavailable while NATS is away."""
        ids.check_id("deliberation_id", deliberation_id)
        backlog = Backlog()
        async with self._subscribed(deliberation_id, backlog):
            await self._look(deliberation_id, backlog)
            shown: Deliberation | None = None
            while True:
                texts, state = await backlog.take(LOOK_SECONDS)
                for chunk in texts:
                    yield pb.StreamDeliberationResponse(text=text_message(chunk))
                if not texts and state is None:
                    await self._look(deliberation_id, backlog)
                if state is None:
                    continue
                async for message in self._happened(shown, state):
                    yield message
                shown = state
                if state.status in ENDED:
                    return

    async def _happened(
        self, shown: Deliberation | None, state: Deliberation
    ) -> AsyncIterator[pb.StreamDeliberationResponse]:
        """What is new in a record: the record itself at the start, then the results, then the record where it has moved on."""
        changed = pb.StreamDeliberationResponse(changed=deliberation_message(state))
        if shown is None:
            yield changed
        told = {job.job_id for job in shown.jobs if job.status != "waiting"} if shown else set()
        for job in state.jobs:
            if job.status != "waiting" and job.job_id not in told:
                for result in (await self._results.of(state, [job.job_id])).values():
                    yield pb.StreamDeliberationResponse(result=events.encode(result))
        if shown is not None and (shown.status, shown.phase) != (state.status, state.phase):
            yield changed
        if state.status in ENDED:
            entry = await self._store.outcomes.get(outcome_key(state.deliberation_id))
            if entry is not None:
                yield pb.StreamDeliberationResponse(outcome=msgspec.json.encode(entry.value.event))

    async def _look(self, deliberation_id: str, backlog: Backlog) -> None:
        entry = await self._store.deliberations.get(state_key(deliberation_id))
        if entry is None:
            raise NotFound(f"no deliberation {deliberation_id}")
        backlog.put_state(entry.value, entry.revision)

    @contextlib.asynccontextmanager
    async def _subscribed(self, deliberation_id: str, backlog: Backlog) -> AsyncIterator[None]:
        async def on_text(message: Msg) -> None:
            try:
                event = events.decode(message.subject, message.data)
            except Invalid as error:
                log.warning("text left out", deliberation_id=deliberation_id, reason=str(error))
                return
            if isinstance(event, TokenChunk):
                backlog.put_text(event)

        async def on_state(message: Msg) -> None:
            if message.headers and "KV-Operation" in message.headers:
                return
            try:
                backlog.put_state(_DECODER.decode(message.data), message.metadata.sequence.stream)
            except msgspec.DecodeError as error:
                log.warning("record left out", deliberation_id=deliberation_id, reason=str(error))

        async with contextlib.AsyncExitStack() as stack:
            text = f"{TokenChunk.TYPE}.{deliberation_id}.>"
            await self._subscribe(stack, lambda: self._bus.client.subscribe(text, cb=on_text))
            subject = f"$KV.deliberations.{state_key(deliberation_id)}"
            await self._subscribe(
                stack,
                lambda: self._bus.js.subscribe(
                    subject,
                    stream="KV_deliberations",
                    ordered_consumer=True,
                    deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
                    cb=on_state,
                ),
            )
            yield

    async def _subscribe(
        self, stack: contextlib.AsyncExitStack, subscribe: Callable[[], Coroutine[Any, Any, Any]]
    ) -> None:
        try:
            subscription = await subscribe()
        except NatsError as error:
            raise Unavailable(f"NATS takes no subscription: {reason_of(error)}") from error

        async def end() -> None:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

        stack.push_async_callback(end)
