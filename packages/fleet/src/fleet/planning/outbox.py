"""Publishes what was saved with a change, after the change: no crash in between can lose it.

Each event is published and then deleted, so a crash between the two publishes it again, under the same message id. The same
holds for two replicas that take the same one. Order is that of the changes; an event that cannot be published holds back
those after it.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable

import nats.errors
import structlog

from fleet.planning.store import Outgoing, Store
from fleet_wire import events, tracing
from fleet_wire.errors import FleetError

log = structlog.get_logger(__name__)

PAUSE_SECONDS = 2
"""How often the relay looks without being told to: for what another replica left, and after a failure."""
PUBLISH_TIMEOUT = dt.timedelta(seconds=3)
BATCH = 16

Publish = Callable[[events.Event, dt.timedelta], Awaitable[int]]


async def relay(
    store: Store,
    publish: Publish,
    woken: asyncio.Event,
    report: Callable[[str | None], None],
    stop: asyncio.Event,
) -> None:
    """Publishes until `stop`: at once when `woken` is set, and every PAUSE_SECONDS.

    `report` gets a sentence while that fails, None when it works. What failed stays, and is tried again.
    """
    while not stop.is_set():
        woken.clear()
        try:
            await publish_pending(store, publish, stop)
        except (FleetError, nats.errors.Error) as error:
            report(str(error) or type(error).__name__)
        else:
            report(None)
        await _first(woken, stop, PAUSE_SECONDS)


async def publish_pending(store: Store, publish: Publish, stop: asyncio.Event) -> None:
    """Publishes everything there is, oldest first. Raises at the first that cannot be published, which stays."""
    while batch := await store.pending(BATCH):
        for item in batch:
            if stop.is_set():
                return
            await _publish(item, publish)
            await store.forget(item.message_id)


async def _publish(item: Outgoing, publish: Publish) -> None:
    event = item.event()
    with tracing.continued({"traceparent": item.traceparent}):
        sequence = await publish(event, PUBLISH_TIMEOUT)
        # `plan.approved` and `story.created` are what an operator greps for.
        log.info(event.TYPE.removeprefix("planning."), id=event.key(), subject=item.subject, sequence=sequence)


async def _first(woken: asyncio.Event, stop: asyncio.Event, seconds: float) -> None:
    waits = [asyncio.ensure_future(woken.wait()), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
