"""The orchestrator's composition root: the one place where its parts are wired."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
from collections.abc import Coroutine
from typing import Any

import structlog

from fleet.orchestrator import store as stores
from fleet.orchestrator.consumers import make_consumers
from fleet.orchestrator.deliberations import Deliberations, Limits
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.handlers import Handlers
from fleet.orchestrator.peers import Executor, ExecutorClient, Memory, MemoryClient, PlanBook, PlanBookClient
from fleet.orchestrator.plans import Plans
from fleet.orchestrator.requests import Requests
from fleet.orchestrator.server import SERVICE, OrchestratorServicer
from fleet.orchestrator.settings import OrchestratorSettings
from fleet.orchestrator.sweep import Sweep
from fleet_wire import clock, logs, service, startup, topology
from fleet_wire.bus import Bus
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2_grpc
from fleet_wire.rpc import Readiness, server
from fleet_wire.settings import load_or_exit

log = structlog.get_logger(__name__)

STREAMS = (
    "PLANNING_EVENTS",
    "ORCHESTRATOR_EVENTS",
    "CONTEXT_EVENTS",
    "AGENT_RESULTS",
    "FLEET_TIMERS",
    "DEAD_LETTERS",
    *(f"KV_{name}" for name in stores.BUCKETS),
)


def main() -> int:
    """Runs the service until it is told to stop; the exit code."""
    settings = load_or_exit(OrchestratorSettings)
    logs.configure("orchestrator", settings.log_level, settings.log_format)
    return service.run(lambda: run(settings))


async def run(settings: OrchestratorSettings) -> bool:
    """Serves until SIGINT or SIGTERM; False when a loop failed before that. Raises Unavailable where the port is taken.

    The server comes first, so that health and GetStatus say what is missing while NATS or a stream is.
    """
    stop = asyncio.Event()
    service.stop_on_signals(stop)
    names = [name for name, spec in topology.CONSUMERS.items() if spec.service == "orchestrator"]
    readiness = Readiness("nats", "streams", "councils", *names)
    servicer = OrchestratorServicer(readiness, clock.now())
    add = functools.partial(orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server, servicer)
    async with contextlib.AsyncExitStack() as cleanup:
        address = f"{settings.bind_host}:{settings.grpc_port}"
        port = await cleanup.enter_async_context(server(address, add, [SERVICE], readiness))
        log.info("orchestrator listens", host=settings.bind_host, port=port)
        bus = await startup.connected(settings, "orchestrator", readiness, stop)
        if bus is None:
            return True
        cleanup.push_async_callback(bus.close)
        executor = ExecutorClient(settings.ray_executor_address)
        memory = MemoryClient(settings.context_address)
        plan_book = PlanBookClient(settings.planning_address)
        for client in (executor, memory, plan_book):
            cleanup.push_async_callback(client.close)
        parts = assemble(settings, bus, executor, memory, plan_book)
        servicer.requests = parts.requests
        return await service.supervise(loops(parts, settings, bus, readiness, stop), stop)


@dataclasses.dataclass
class Parts:
    """The wired orchestrator, but for its server."""

    store: stores.Store
    requests: Requests
    handlers: Handlers
    sweep: Sweep
    deliberation_driver: Driver
    plan_driver: Driver


def assemble(
    settings: OrchestratorSettings, bus: Bus, executor: Executor, memory: Memory, plan_book: PlanBook
) -> Parts:
    """Puts the parts together.

    A deliberation tells its plan how it ended, a plan wakes its deliberations: the two drivers close that circle.
    """
    store = stores.jetstream_store(bus)
    timeout = dt.timedelta(seconds=settings.deliberation_timeout_seconds)
    limits = Limits(settings.agent_max_tokens, settings.agent_temperature, settings.context_token_budget)
    deliberation_driver, plan_driver = Driver(), Driver()
    plans = Plans(store, bus, plan_driver, deliberation_driver, clock.now, timeout)
    deliberations = Deliberations(store, bus, executor, memory, limits, clock.now, plans.report)
    deliberation_driver.step = deliberations.drive
    plan_driver.step = plans.drive
    handlers = Handlers(bus, deliberations, plans, deliberation_driver, plan_driver)
    return Parts(
        store=store,
        requests=Requests(store, deliberation_driver, clock.now, timeout),
        handlers=handlers,
        sweep=Sweep(store, handlers, memory, plan_book, clock.now),
        deliberation_driver=deliberation_driver,
        plan_driver=plan_driver,
    )


def loops(
    parts: Parts, settings: OrchestratorSettings, bus: Bus, readiness: Readiness, stop: asyncio.Event
) -> dict[str, Coroutine[Any, Any, object]]:
    """What makes the parts live."""

    async def events_in() -> bool:
        """Waits for the streams, then lets everything run that reads or writes them."""
        if not await startup.streams_there(bus, STREAMS, readiness, stop):
            return True
        log.info("councils", made=await parts.requests.default_councils())
        readiness.report("councils", None)
        consumers = make_consumers(bus, parts.handlers, readiness)
        work: dict[str, Coroutine[Any, Any, object]] = {name: one.run(stop) for name, one in consumers.items()}
        work["sweep"] = service.every(settings.sweep_seconds, parts.sweep.once, stop)
        return await service.supervise(work, stop)

    return {
        "events in": events_in(),
        "nats": service.until_closed(bus.closed, stop),
        "deliberations": parts.deliberation_driver.run(stop),
        "plans": parts.plan_driver.run(stop),
    }
