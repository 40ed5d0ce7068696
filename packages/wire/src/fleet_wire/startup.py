"""What every service waits for once it is up: NATS, then its streams. Both are reported in the same words, and a stop ends
the waiting."""

import asyncio
from collections.abc import Iterable
from typing import Optional

from fleet_wire import apply, logs
from fleet_wire.bus import Bus, connect
from fleet_wire.rpc import Readiness
from fleet_wire.service import or_stop
from fleet_wire.settings import CommonSettings


async def connected(settings: CommonSettings, name: str, readiness: Readiness, stop: asyncio.Event) -> Optional[Bus]:
    """The connection to NATS under the service's name, the part `nats` of its readiness; None where the stop came first."""
    readiness.report("nats", f"no NATS server answers at {logs.hide_passwords(settings.nats_url)} yet")
    bus = await or_stop(connect(settings.nats_url, name, settings.nats_creds), stop)
    if bus is not None:
        readiness.report("nats", None)
    return bus


async def streams_there(bus: Bus, names: Iterable[str], readiness: Readiness, stop: asyncio.Event) -> bool:
    """Waits for the named streams, the part `streams` of the readiness; False where the stop came first."""
    await or_stop(apply.wait_for(bus, names, readiness.reporter("streams")), stop)
    if stop.is_set():
        return False
    readiness.report("streams", None)
    return True
