"""The dashboard: one process with the feed, the sources, the API and the page."""

import asyncio
import contextlib
import importlib.metadata
import logging
import socket
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import structlog
import uvicorn
import valkey.asyncio as valkey

from fleet.bolt import Graph
from fleet.monitoring import api, page
from fleet.monitoring.board import Board
from fleet.monitoring.domain import Seen
from fleet.monitoring.feed import FOLLOWED, follow_all, utc_now
from fleet.monitoring.hub import Hub
from fleet.monitoring.peers import Peers, probes
from fleet.monitoring.settings import MonitoringSettings, shown_address
from fleet.monitoring.sources import Sources
from fleet.monitoring.views import Views
from fleet.monitoring.watch import Watch
from fleet_wire import bus as bus_module
from fleet_wire import logs
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.rpc import Readiness
from fleet_wire.service import run, stop_on_signals, supervise, until_closed
from fleet_wire.settings import exit_with, load_or_exit

T = TypeVar("T")

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


async def serve(settings: MonitoringSettings, listener: socket.socket) -> bool:
    """Runs until a signal; answers whether all was well."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    board, hub, link = Board(), Hub(), _Link()
    readiness = Readiness(*(followed.stream for followed in FOLLOWED))
    peers = Peers(settings)
    graph = Graph(settings)
    cache = valkey.from_url(settings.valkey_url, socket_timeout=2, socket_connect_timeout=2)  # type: ignore[no-untyped-call]
    sources = Sources(probes(settings, peers, lambda: link.bus, graph, cache), utc_now)
    views = Views(board, sources, readiness, importlib.metadata.version("fleet"))
    app = api.create(views, hub, readiness, peers.planning, settings.fleet_admin_token)
    page.install(app, views, hub)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=3)

    def take(seen: Seen) -> None:
        hub.publish(board.apply(seen))

    async def feed() -> None:
        for followed in FOLLOWED:
            readiness.report(followed.stream, f"waits for NATS at {shown_address(settings.nats_url)}")
        link.bus = await _unless(stop, bus_module.connect(settings.nats_url, "monitoring", settings.nats_creds))
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


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives, or None when it was told to stop before that."""
    working = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not working.done():
        working.cancel()
        return None
    return working.result()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ends the process with a sentence where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        exit_with(f"cannot listen on {host}:{port} (BIND_HOST, MONITORING_PORT): {error.strerror or error}", 1)


def main() -> int:
    """Runs the service until it is told to stop; answers with the exit code."""
    settings = load_or_exit(MonitoringSettings)
    logs.configure("monitoring", settings.log_level, settings.log_format)
    for chatty, level in (("neo4j.session", logging.ERROR), ("uvicorn.error", logging.WARNING)):
        logging.getLogger(chatty).setLevel(level)  # an unreachable graph is told of as a source, pages come and go
    listener = listen(settings.bind_host, settings.monitoring_port)
    return run(lambda: serve(settings, listener))
