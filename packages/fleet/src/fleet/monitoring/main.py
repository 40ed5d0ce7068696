"""The dashboard: one process with the feed, the sources, the API and the page."""

import asyncio
import contextlib
import importlib.metadata
import logging
import socket
from collections.abc import Iterator

import structlog
import uvicorn
import valkey.asyncio as valkey

from fleet.bolt import Graph
from fleet.monitoring import api, page
from fleet.monitoring.board import Board
from fleet.monitoring.domain import Seen
from fleet.monitoring.feed import FOLLOWED, follow_all
from fleet.monitoring.hub import Hub
from fleet.monitoring.peers import Peers, probes
from fleet.monitoring.settings import MonitoringSettings
from fleet.monitoring.sources import Sources
from fleet.monitoring.views import Views
from fleet.monitoring.watch import Watch
from fleet_wire import clock, logs, startup
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.rpc import Readiness
from fleet_wire.service import listen, run, stop_on_signals, supervise, until_closed
from fleet_wire.settings import load_or_exit

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Leaves the signals to the service: uvicorn would raise them again when it ends, and nothing after it would run."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Link:
    """The connection to NATS, once there is one: the pages are up before it."""

    def __init__(self) -> None:
        self.bus: Bus | None = None


async def serve(settings: MonitoringSettings) -> bool:
    """Runs until a signal; answers whether all was well. Raises Unavailable where the address cannot be had."""
    listener = listen(settings.bind_host, settings.monitoring_port)
    stop = asyncio.Event()
    stop_on_signals(stop)
    board, hub, link = Board(), Hub(), _Link()
    readiness = Readiness("nats", *(followed.stream for followed in FOLLOWED))
    peers = Peers(settings)
    graph = Graph(settings)
    cache = valkey.from_url(settings.valkey_url, socket_timeout=2, socket_connect_timeout=2)  # type: ignore[no-untyped-call]
    sources = Sources(probes(settings, peers, lambda: link.bus, graph, cache), clock.now)
    views = Views(board, sources, readiness, importlib.metadata.version("fleet"))
    app = api.create(views, hub, readiness, peers.planning, settings.fleet_admin_token)
    page.install(app, views, hub)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=3)

    def take(seen: Seen) -> None:
        hub.publish(board.apply(seen))

    async def feed() -> None:
        link.bus = await startup.connected(settings, "monitoring", readiness, stop)
        if link.bus is None:
            return
        following = asyncio.create_task(follow_all(link.bus, take, readiness.report, stop))
        closed = asyncio.create_task(until_closed(link.bus.closed, stop))
        await asyncio.wait({following, closed}, return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set() and not following.done():
            following.cancel()
            raise Unavailable("the connection to NATS has ended for good")
        await following

    try:
        address = ":".join(map(str, listener.getsockname()[:2]))
        log.info("monitoring serves", address=address, admin_call=settings.fleet_admin_token is not None)
        return await supervise(
            {
                "http": _http(_Server(config), listener, stop),
                "feed": feed(),
                "sources": sources.run(stop),
                "watch": Watch(board, peers.jobs_of, hub.publish).run(stop),
            },
            stop,
        )
    finally:
        await peers.close()
        await graph.close()
        await cache.aclose()
        if link.bus is not None:
            await link.bus.close()


async def _http(server: uvicorn.Server, listener: socket.socket, stop: asyncio.Event) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    server.should_exit = True
    await serving


def main() -> int:
    """Runs the service until it is told to stop; answers with the exit code."""
    settings = load_or_exit(MonitoringSettings)
    logs.configure("monitoring", settings.log_level, settings.log_format)
    for chatty, level in (("neo4j.session", logging.ERROR), ("uvicorn.error", logging.WARNING)):
        logging.getLogger(chatty).setLevel(level)  # an unreachable graph is told of as a source, pages come and go
    return run(lambda: serve(settings))
