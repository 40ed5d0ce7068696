"""The orchestrator's composition root: the one place where its parts are wired."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import functools
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog

from fleet.deliberation import plan as plan_rules
from fleet.deliberation import state as deliberation_rules
from fleet.orchestrator import policies
from fleet.orchestrator import store as stores
from fleet.orchestrator.adhoc import Adhoc
from fleet.orchestrator.consumers import make_consumers
from fleet.orchestrator.contexts import Contexts
from fleet.orchestrator.deliberations import Deliberations
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.handlers import Handlers
from fleet.orchestrator.interventions import Interventions
from fleet.orchestrator.live import DeliberationRecords, Markers, PlanRecords
from fleet.orchestrator.peers import Executor, ExecutorClient, Memory, MemoryClient, PlanBook, PlanBookClient
from fleet.orchestrator.plans import Plans
from fleet.orchestrator.preparing import Limits, Preparing, Sandbox
from fleet.orchestrator.records import Records, Rules
from fleet.orchestrator.replay import Replays
from fleet.orchestrator.requests import Requests
from fleet.orchestrator.results import Results
from fleet.orchestrator.server import SERVICE, OrchestratorServicer, UseCases
from fleet.orchestrator.settings import OrchestratorSettings
from fleet.orchestrator.starting import Times
from fleet.orchestrator.streaming import Following
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
SWEEPS_AHEAD = 2
"""How many sweeps before its deadline a deliberation's timer is made: one may fail, or come late."""


def main() -> int:
    """Runs the service until it is told to stop; the exit code."""
    settings = load_or_exit(OrchestratorSettings)
    logs.configure("orchestrator", settings.log_level, settings.log_format)
    return service.run(lambda: run(settings))


async def run(settings: OrchestratorSettings) -> bool:
    """Serves until SIGINT or SIGTERM; False when a loop failed before that. Raises Unavailable where the port is taken, Invalid
    where a rule file is wrong.

    The server comes first, so that health and GetStatus say what is missing while NATS or a stream is.
    """
    rule_files = policies.load(settings.policy_dir)
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
        parts = assemble(settings, bus, executor, memory, plan_book, rule_files)
        servicer.use_cases = parts.use_cases
        return await service.supervise(loops(parts, settings, bus, readiness, stop), stop)


@dataclasses.dataclass
class Parts:
    """The wired orchestrator, but for its server."""

    store: stores.Store
    use_cases: UseCases
    handlers: Handlers
    sweep: Sweep
    deliberation_driver: Driver
    plan_driver: Driver

    @property
    def requests(self) -> Requests:
        return self.use_cases.requests


def assemble(
    settings: OrchestratorSettings,
    bus: Bus,
    executor: Executor,
    memory: Memory,
    plan_book: PlanBook,
    rule_files: Mapping[str, str],
) -> Parts:
    """Puts the parts together.

    A deliberation tells its plan how it ended, a plan wakes its deliberations: the two drivers close that circle.
    """
    store = stores.jetstream_store(bus)
    times = Times(
        timeout=dt.timedelta(seconds=settings.deliberation_timeout_seconds),
        ahead=SWEEPS_AHEAD * dt.timedelta(seconds=settings.sweep_seconds),
    )
    limits = Limits(settings.agent_max_tokens, settings.agent_temperature)
    driver, plan_driver = Driver(), Driver()
    records, plan_records = deliberation_records(store), plan_records_of(store)
    live, live_plans = Markers(store.live, "live"), Markers(store.live, "liveplan")
    contexts = Contexts(memory, settings.context_token_budget)
    plans = Plans(store, bus, plan_records, records, live, live_plans, plan_driver, driver, contexts, clock.now, times)
    results, sandbox = Results(store, executor), Sandbox(executor)
    preparing = Preparing(store, contexts, sandbox, rule_files, limits, clock.now)
    replays = Replays(store, records, preparing, results, clock.now)
    deliberations = Deliberations(
        store, bus, executor, records, live, results, preparing, replays, clock.now, times, plans.is_there, plans.report
    )
    driver.step, plan_driver.step = deliberations.drive, plans.drive
    handlers = Handlers(bus, deliberations, plans, driver, plan_driver)
    return Parts(
        store=store,
        use_cases=UseCases(
            Requests(store, records, plan_records, live, live_plans, clock.now),
            Adhoc(store, records, live, replays, sandbox, limits, driver, clock.now, times),
            Interventions(records, plans, plan_book, driver, plan_driver, clock.now),
            Following(store, bus, results),
        ),
        handlers=handlers,
        sweep=Sweep(store, live, live_plans, handlers, memory, plan_book, clock.now),
        deliberation_driver=driver,
        plan_driver=plan_driver,
    )


def deliberation_records(store: stores.Store) -> DeliberationRecords:
    """The deliberations' records: over when they are retired, and stubs from then on."""
    return Records(
        store.deliberations,
        Rules(
            key=stores.state_key,
            advance=deliberation_rules.advance,
            ttl=stores.deliberation_ttl,
            over=lambda state: state.retired,
        ),
    )


def plan_records_of(store: stores.Store) -> PlanRecords:
    """The plans' records: over when they are completed, though a retry may open them again."""
    return Records(
        store.plans,
        Rules(
            key=str,
            advance=plan_rules.advance,
            ttl=stores.plan_ttl,
            over=lambda plan: plan.status == "completed",
        ),
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
