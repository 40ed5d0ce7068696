"""Where the executor is wired."""

import asyncio
from functools import partial
from typing import Optional

import structlog

from fleet_executor.calls import ModelCalls
from fleet_executor.driver import Begun, Driver
from fleet_executor.keeper import Keeper
from fleet_executor.registry import Registry
from fleet_executor.server import SERVICE_NAME, Parts, Servicer
from fleet_executor.settings import ExecutorSettings
from fleet_wire import apply, clock, logs, rpc, service, startup
from fleet_wire.bus import TRANSIENT, Bus, reason_of
from fleet_wire.errors import Unavailable
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2_grpc as pb_grpc
from fleet_wire.settings import load_or_exit

log = structlog.get_logger(__name__)

STREAMS = ("AGENT_RESULTS", "VLLM_STREAMING", "KV_jobs")


async def serve(settings: ExecutorSettings, begun: Optional[Begun] = None) -> bool:
    """Runs until a signal. The server is up, and answers GetStatus, before anything else is there. Raises Unavailable where
    its port cannot be had."""
    stop = asyncio.Event()
    service.stop_on_signals(stop)
    readiness = rpc.Readiness("nats", "streams", "ray", "probe", "pool", "registry")
    cluster = Driver(settings.ray_address, settings.worker_config(), settings.pool_size, begun)
    parts = Parts(
        readiness=readiness,
        cluster=cluster,
        model=settings.vllm_model,
        model_limit=settings.model_calls_limit,
        ray_version=cluster.ray_version,
        started_at=clock.now(),
    )
    servicer = Servicer(parts)
    address = f"{settings.bind_host}:{settings.grpc_port}"
    async with rpc.server(
        address, partial(pb_grpc.add_RayExecutorServiceServicer_to_server, servicer), [SERVICE_NAME], readiness
    ) as port:
        log.info("Ray Executor listens", address=f"{settings.bind_host}:{port}", pool=cluster.pool)
        return await service.supervise({"executor": _run(settings, parts, stop)}, stop)


async def _run(settings: ExecutorSettings, parts: Parts, stop: asyncio.Event) -> None:
    readiness = parts.readiness
    bus = await startup.connected(settings, "ray-executor", readiness, stop)
    if bus is None:
        return
    try:
        if not await startup.streams_there(bus, STREAMS, readiness, stop):
            return
        registry = Registry.on(bus)
        calls = ModelCalls(registry, settings.model_calls_limit)
        parts.keeper = Keeper(parts.cluster, registry, bus, readiness, clock.now, calls, settings.actor_concurrency)
        parts.bus, parts.registry = bus, registry
        loops = {
            "keeper": parts.keeper.run(stop),
            "nats": service.until_closed(bus.closed, stop),
            "parts": service.every(2, partial(_watch, bus, readiness), stop),
        }
        if not await service.supervise(loops, stop):
            raise Unavailable("a loop of the executor ended")
    finally:
        await bus.close()


async def _watch(bus: Bus, readiness: rpc.Readiness) -> None:
    """Whether what was there at the start still is."""
    readiness.report("nats", None if bus.connected else "not connected")
    try:
        problems = await apply.check(bus, STREAMS)
    except TRANSIENT as error:
        readiness.report("nats", f"does not answer: {reason_of(error)}")
        return
    reason = "; ".join(f"{problem.stream} {problem.problem}" for problem in problems)
    readiness.report("streams", f"{reason} (run `fleet streams apply`)" if reason else None)


def main(begun: Optional[Begun] = None) -> int:
    settings = load_or_exit(ExecutorSettings)
    logs.configure("ray-executor", settings.log_level, settings.log_format)
    code = service.run(partial(serve, settings, begun))
    log.info("Ray Executor stopped", code=code)
    return code
