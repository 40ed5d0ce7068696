"""Publishes what was saved with a change, after the change: in the order of the changes and once each, however many replicas do
so and wherever one of them ends.

Only relays write to the stream of planning's events, and each names the sequence that its event is to follow on: of two relays
at work at once one is refused. Who was refused, or has just begun, first takes out of the outbox what stands last in the stream,
since whoever published that may have ended before it could. So whenever an event is published all before it have been taken out,
and what is still in the outbox was never published. An event that cannot be published holds back those after it.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Protocol

import nats.errors
import structlog

from fleet.planning.store import Outgoing, Store
from fleet_wire import events, tracing
from fleet_wire.errors import Conflict, FleetError

log = structlog.get_logger(__name__)

STREAM = "PLANNING_EVENTS"
PAUSE_SECONDS = 2
"""How often the relay looks without being told to: for what another replica left, and after a failure."""
PUBLISH_TIMEOUT = dt.timedelta(seconds=3)
BATCH = 16


class Stream(Protocol):
    """What the relay needs of `fleet_wire.bus.Bus`."""

    async def last(self, stream: str) -> tuple[int, str]: ...

    async def publish(self, event: events.Event, timeout: dt.timedelta, after: int | None) -> int: ...


async def relay(
    store: Store,
    stream: Stream,
    woken: asyncio.Event,
    report: Callable[[str | None], None],
    stop: asyncio.Event,
) -> None:
    """Publishes until `stop`: at once when `woken` is set, and every PAUSE_SECONDS.

    `report` gets a sentence while that fails, None when it works. What failed stays, and is tried again.
    """
    last: int | None = None
    while not stop.is_set():
        woken.clear()
        try:
            last = await publish_pending(store, stream, stop, last)
        except (FleetError, nats.errors.Error) as error:
            last = None
            report(str(error) or type(error).__name__)
        else:
            report(None)
        await _first(woken, stop, PAUSE_SECONDS)


async def publish_pending(store: Store, stream: Stream, stop: asyncio.Event, last: int | None = None) -> int | None:
    """Publishes everything there is, oldest first. Raises at the first that cannot be published, which stays.

    `last` is the sequence of what this relay published last, as a call before answered it; None where it has to look.
    """
    while (batch := await store.pending(BATCH)) and not stop.is_set():
        if last is None:
            last = await _look(store, stream)
            continue  # what is pending has to be read after that
        try:
            for item in batch:
                if stop.is_set():
                    return last
                last = await _publish(item, stream, last)
                await store.forget(item.message_id)
        except Conflict as error:
            log.debug("another replica was quicker", reason=str(error))
            last = None
    return last


async def _look(store: Store, stream: Stream) -> int:
    sequence, message_id = await stream.last(STREAM)
    await store.forget(message_id)
    return sequence


async def _publish(item: Outgoing, stream: Stream, last: int) -> int:
    event = item.event()
    with tracing.continued({"traceparent": item.traceparent}):
        sequence = await stream.publish(event, PUBLISH_TIMEOUT, last)
        # `plan.approved` and `story.created` are what an operator greps for.
        log.info(event.TYPE.removeprefix("planning."), id=event.key(), subject=item.subject, sequence=sequence)
    return sequence


async def _first(woken: asyncio.Event, stop: asyncio.Event, seconds: float) -> None:
    waits = [asyncio.ensure_future(woken.wait()), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
