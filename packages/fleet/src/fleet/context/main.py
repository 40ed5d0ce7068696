"""The context service: here its parts are wired, started and watched."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from fleet.bolt import Graph, rows
from fleet.context import consumers, handlers, reading, scopes, search
from fleet.context import graph as memory
from fleet.context.arrivals import Arrivals
from fleet.context.cache import ContextCache
from fleet.context.domain import Scopes
from fleet.context.migrations import MIGRATIONS
from fleet.context.server import NAME, ContextService
from fleet.context.sessions import Sessions
from fleet.context.settings import ContextSettings
from fleet.context.tokenizer import Tokenizer
from fleet.migrations import migrate
from fleet_wire import logs, rpc, service, startup, topology
from fleet_wire.bus import Bus
from fleet_wire.consumer import DurableConsumer
from fleet_wire.errors import Invalid, Unavailable
from fleet_wire.gen.context.v1 import context_pb2_grpc
from fleet_wire.settings import exit_with, load_or_exit

log = structlog.get_logger(__name__)

STREAMS = ("PLANNING_EVENTS", "ORCHESTRATOR_EVENTS", "CONTEXT_EVENTS", "DEAD_LETTERS")
CHECK_SECONDS = 2.0
"""Between two looks at the graph and the cache."""
TOKENIZER_SECONDS = 5.0
"""Between two looks at the model server's tokenizer."""


def main() -> int:
    """Runs until a signal. Exit code 0 then, 1 when something failed, 2 for a bad setting."""
    settings = load_or_exit(ContextSettings)
    try:
        policy = scopes.load(settings.scopes_file)
    except Invalid as error:
        exit_with(f"bad policy of scopes: {error}")
    logs.configure("context", settings.log_level, settings.log_format)

    async def serve_until_told() -> bool:
        stop = asyncio.Event()
        service.stop_on_signals(stop)
        return await serve(settings, policy, stop)

    return service.run(serve_until_told)


async def serve(settings: ContextSettings, policy: Scopes, stop: asyncio.Event) -> bool:
    """Serves until `stop`; answers whether all was well. Raises Unavailable where the port is taken."""
    readiness = rpc.Readiness("nats", "streams", "graph", *consumers.EXPECTED)
    graph = Graph(settings)
    cache = ContextCache(settings.valkey_url.get_secret_value())
    tokenizer = Tokenizer(settings.vllm_url, settings.vllm_model)
    sessions = Sessions(settings.valkey_url.get_secret_value(), settings.session_seconds)
    arrivals = Arrivals()
    servicer = ContextService(readiness, graph, reading.reader(graph, arrivals), cache, tokenizer, policy, sessions)

    def add(server: Any) -> None:
        context_pb2_grpc.add_ContextServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call, unused-ignore]

    try:
        async with rpc.server(f"{settings.bind_host}:{settings.grpc_port}", add, [NAME], readiness) as port:
            log.info("context serves", port=port)
            bus = await startup.connected(settings, "context", readiness, stop)
            if bus is None:
                return True
            servicer.publish = bus.publish
            try:
                return await service.supervise(_loops(readiness, graph, arrivals, cache, tokenizer, bus, stop), stop)
            finally:
                await bus.close()
    finally:
        await tokenizer.close()
        await sessions.close()
        await cache.close()
        await graph.close()


def _loops(
    readiness: rpc.Readiness,
    graph: Graph,
    arrivals: Arrivals,
    cache: ContextCache,
    tokenizer: Tokenizer,
    bus: Bus,
    stop: asyncio.Event,
) -> dict[str, Coroutine[Any, Any, Any]]:
    prepared = asyncio.Event()
    recorder = handlers.recorder(graph, arrivals)

    async def consume(durable: str) -> None:
        """Begins when the streams and the graph are there."""
        if await startup.streams_there(bus, STREAMS, readiness, stop):
            await service.or_stop(prepared.wait(), stop)
        handler = consumers.handler(durable, recorder, cache, bus.publish)
        await DurableConsumer(bus, topology.CONSUMERS[durable], handler, readiness.reporter(durable)).run(stop)

    async def check_graph() -> None:
        try:
            if prepared.is_set():
                await graph.read(lambda tx: rows(tx, "RETURN 1 AS one"))
            else:
                await migrate(graph, "context", MIGRATIONS)
                await search.prepare(graph)
                await reading.prepare(graph)
                await memory.prepare(graph)
                prepared.set()
        except Unavailable as error:
            readiness.report("graph", str(error))
        else:
            readiness.report("graph", None)
        await cache.check()

    return {
        "nats": service.until_closed(bus.closed, stop),
        "graph": service.every(CHECK_SECONDS, check_graph, stop),
        "tokenizer": service.every(TOKENIZER_SECONDS, tokenizer.check, stop),
        **{durable: consume(durable) for durable in consumers.EXPECTED},
    }
