"""Planning as a process: everything is wired here, and nowhere else."""

import asyncio
import contextlib
import functools
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from fleet.bolt import Graph
from fleet.planning import consumers, outbox
from fleet.planning.graph import GraphStore
from fleet.planning.handlers import Ports
from fleet.planning.server import SERVICE_NAME, PlanningServicer
from fleet.planning.settings import PlanningSettings
from fleet.planning.store import Store
from fleet_wire import clock, logs, rpc, service, startup
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.gen.planning.v1 import planning_pb2_grpc
from fleet_wire.settings import load_or_exit

log = structlog.get_logger(__name__)

STREAMS = (outbox.STREAM, "ORCHESTRATOR_EVENTS", "DEAD_LETTERS")
PARTS = ("nats", "streams", "graph", consumers.COMPLETIONS.durable)
RETRY_SECONDS = 2


def main() -> int:
    """Runs planning until it is told to stop. Exit code 0 then, 1 when something failed, 2 for bad settings."""
    settings = load_or_exit(PlanningSettings)
    logs.configure("planning", settings.log_level, settings.log_format)
    return service.run(functools.partial(serve, settings))


async def serve(settings: PlanningSettings) -> bool:
    """Serves from the start, ready as soon as the streams, the graph database and the consumer are. Answers whether all
    was well until the stop. Raises Unavailable where the port is taken."""
    stop = asyncio.Event()
    service.stop_on_signals(stop)
    woken, prepared = asyncio.Event(), asyncio.Event()
    readiness = rpc.Readiness(*PARTS)
    async with contextlib.AsyncExitStack() as stack:
        graph = Graph(settings)
        stack.push_async_callback(graph.close)
        store = GraphStore(graph)
        ports = Ports(store, clock.now, _new_id, woken.set)
        servicer = PlanningServicer(ports, readiness)
        port = await stack.enter_async_context(
            rpc.server(
                f"{settings.bind_host}:{settings.grpc_port}",
                functools.partial(planning_pb2_grpc.add_PlanningServiceServicer_to_server, servicer),
                [SERVICE_NAME],
                readiness,
            )
        )
        log.info("planning serves", host=settings.bind_host, port=port)
        bus = await startup.connected(settings, "planning", readiness, stop)
        if bus is None:
            return True
        stack.push_async_callback(bus.close)
        completions = consumers.completions(bus, ports, readiness.reporter(consumers.COMPLETIONS.durable))
        return await service.supervise(
            {
                "parts": _wait_for_parts(bus, store, readiness, prepared, stop),
                "completions": _after(prepared, completions.run, stop),
                "outbox": _after(
                    prepared,
                    functools.partial(outbox.relay, store, bus, woken, readiness.reporter("outbox")),
                    stop,
                ),
                "nats": service.until_closed(bus.closed, stop),
            },
            stop,
        )


async def _after(
    prepared: asyncio.Event, loop: Callable[[asyncio.Event], Coroutine[Any, Any, None]], stop: asyncio.Event
) -> None:
    """Runs the loop once the graph database has the form of this release: until then it may be that of a newer one."""
    await service.or_stop(prepared.wait(), stop)
    await loop(stop)


async def _wait_for_parts(
    bus: Bus, store: Store, readiness: rpc.Readiness, prepared: asyncio.Event, stop: asyncio.Event
) -> None:
    """Reports the streams and the graph database as soon as they are there, then stays until the stop."""

    async def graph() -> None:
        while True:
            try:
                await store.prepare()
            except Unavailable as error:
                readiness.report("graph", str(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                readiness.report("graph", None)
                prepared.set()
                return

    await service.or_stop(asyncio.gather(startup.streams_there(bus, STREAMS, readiness, stop), graph()), stop)
    await stop.wait()


def _new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:24]}"
