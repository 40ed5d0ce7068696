"""The orchestrator's composition root: the one place where its parts are wired."""

import asyncio
import contextlib
import datetime as dt
import functools
from collections.abc import Coroutine
from typing import Any

import structlog

from fleet.orchestrator import store as stores
from fleet.orchestrator.consumers import make_consumers
from fleet.orchestrator.deliberations import Deliberations, Limits
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.handlers import Handlers, PlanReporter
from fleet.orchestrator.peers import ExecutorClient, MemoryClient, PlanBookClient
from fleet.orchestrator.plans import Plans
from fleet.orchestrator.requests import Requests
from fleet.orchestrator.server import SERVICE, OrchestratorServicer
from fleet.orchestrator.settings import OrchestratorSettings
from fleet.orchestrator.sweep import Sweep
from fleet_wire import apply, logs, service, topology
from fleet_wire.bus import Bus, connect
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
    """Serves until SIGINT or SIGTERM; False when a loop failed before that.

    The server comes first, so that health and GetStatus say what is missing while NATS or a stream is.
    """
    stop = asyncio.Event()
    service.stop_on_signals(stop)
    names = [name for name, spec in topology.CONSUMERS.items() if spec.service == "orchestrator"]
    readiness = Readiness("nats", "streams", "councils", *names)
    servicer = OrchestratorServicer(readiness, now())
    add = functools.partial(orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server, servicer)
    async with contextlib.AsyncExitStack() as cleanup:
        address = f"{settings.bind_host}:{settings.grpc_port}"
        port = await cleanup.enter_async_context(server(address, add, [SERVICE], readiness))
        log.info("orchestrator listens", host=settings.bind_host, port=port)
        bus = await service.or_stop(connect(settings.nats_url, "orchestrator", settings.nats_creds), stop)
        if bus is None:
            return True
        cleanup.push_async_callback(bus.close)
        readiness.report("nats", None)
        loops = await wire(settings, bus, readiness, servicer, stop, cleanup)
        return await service.supervise(loops, stop)


async def wire(
    settings: OrchestratorSettings,
    bus: Bus,
    readiness: Readiness,
    servicer: OrchestratorServicer,
    stop: asyncio.Event,
    cleanup: contextlib.AsyncExitStack,
) -> dict[str, Coroutine[Any, Any, object]]:
    """Puts the parts together on a connected bus; answers with the loops that make them live."""
    executor = ExecutorClient(settings.ray_executor_address)
    memory = MemoryClient(settings.context_address)
    plan_book = PlanBookClient(settings.planning_address)
    for client in (executor, memory, plan_book):
        cleanup.push_async_callback(client.close)
    store = stores.jetstream_store(bus)
    timeout = dt.timedelta(seconds=settings.deliberation_timeout_seconds)
    limits = Limits(settings.agent_max_tokens, settings.agent_temperature, settings.context_token_budget)

    # A deliberation tells its plan how it ended, a plan wakes its deliberations: the drivers close that circle.
    deliberation_driver = Driver()
    plan_driver = Driver()
    plans = Plans(store, bus, deliberation_driver, now, timeout)
    reporter = PlanReporter(plans, plan_driver)
    deliberations = Deliberations(store, bus, executor, memory, limits, now, reporter.report)
    deliberation_driver.step = deliberations.drive
    plan_driver.step = plans.drive
    handlers = Handlers(bus, deliberations, plans, deliberation_driver, plan_driver)
    requests = Requests(store, deliberation_driver, now, timeout)
    sweep = Sweep(store, handlers, executor, memory, plan_book, now)

    async def live() -> bool:
        """Waits for the streams, then lets everything run that reads or writes them."""
        await apply.wait_for(bus, STREAMS, readiness.reporter("streams"))
        readiness.report("streams", None)
        log.info("councils", made=await requests.default_councils())
        readiness.report("councils", None)
        servicer.requests = requests
        consumers = make_consumers(bus, handlers, readiness)
        loops: dict[str, Coroutine[Any, Any, object]] = {
            name: consumer.run(stop) for name, consumer in consumers.items()
        }
        loops["sweep"] = service.every(settings.sweep_seconds, sweep.once, stop)
        return await service.supervise(loops, stop)

    return {
        "live": live(),
        "nats": service.until_closed(bus.closed, stop),
        "deliberations": deliberation_driver.run(stop),
        "plans": plan_driver.run(stop),
    }


def now() -> dt.datetime:
    """The clock."""
    return dt.datetime.now(dt.UTC)
