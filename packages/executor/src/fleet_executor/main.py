"""Where the executor is wired."""

import asyncio
import datetime as dt
from functools import partial

import structlog

from fleet_executor.driver import Driver
from fleet_executor.keeper import Keeper
from fleet_executor.registry import Registry
from fleet_executor.server import SERVICE_NAME, Parts, Servicer
from fleet_executor.settings import ExecutorSettings
from fleet_wire import apply, logs, rpc, service
from fleet_wire.bus import TRANSIENT, Bus, connect
from fleet_wire.errors import Unavailable
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2_grpc as pb_grpc
from fleet_wire.settings import load_or_exit

log = structlog.get_logger(__name__)

STREAMS = ("AGENT_RESULTS", "VLLM_STREAMING", "KV_jobs")


async def serve(settings: ExecutorSettings) -> bool:
    """Runs until a signal. The server is up, and answers GetStatus, before anything else is there."""
    stop = asyncio.Event()
    service.stop_on_signals(stop)
    readiness = rpc.Readiness("nats", "streams", "ray", "probe", "pool", "registry")
    cluster = Driver(settings.ray_address, settings.worker_config(), settings.pool_size)
    parts = Parts(
        readiness=readiness,
        cluster=cluster,
        model=settings.vllm_model,
        ray_version=cluster.ray_version,
        started_at=_now(),
    )
    servicer = Servicer(parts)
    address = f"{settings.bind_host}:{settings.grpc_port}"
    try:
        async with rpc.server(
            address, partial(pb_grpc.add_RayExecutorServiceServicer_to_server, servicer), [SERVICE_NAME], readiness
        ) as port:
            log.info("Ray Executor listens", address=f"{settings.bind_host}:{port}", pool=cluster.pool)
            return await service.supervise({"executor": _run(settings, parts, stop)}, stop)
    except Unavailable as error:
        log.error("Ray Executor cannot serve", reason=str(error))
        return False


async def _run(settings: ExecutorSettings, parts: Parts, stop: asyncio.Event) -> None:
    readiness = parts.readiness
    bus = await service.or_stop(connect(settings.nats_url, "ray-executor", settings.nats_creds), stop)
    if bus is None:
        return
    try:
        readiness.report("nats", None)
        if await service.or_stop(_streams(bus, readiness), stop) is None:
            return
        parts.registry = Registry.on(bus)
        parts.keeper = Keeper(parts.cluster, parts.registry, bus, readiness, _now)
        loops = {
            "keeper": parts.keeper.run(stop),
            "nats": service.until_closed(bus.closed, stop),
            "parts": service.every(2, partial(_watch, bus, readiness), stop),
        }
        if not await service.supervise(loops, stop):
            raise Unavailable("a loop of the executor ended")
    finally:
        await bus.close()


async def _streams(bus: Bus, readiness: rpc.Readiness) -> bool:
    await apply.wait_for(bus, STREAMS, readiness.reporter("streams"))
    readiness.report("streams", None)
    return True


async def _watch(bus: Bus, readiness: rpc.Readiness) -> None:
    """Whether what was there at the start still is."""
    readiness.report("nats", None if bus.connected else "not connected")
    try:
        problems = await apply.check(bus, STREAMS)
    except TRANSIENT as error:
        readiness.report("nats", f"does not answer: {error or type(error).__name__}")
        return
    reason = "; ".join(f"{problem.stream} {problem.problem}" for problem in problems)
    readiness.report("streams", f"{reason} (run `fleet streams apply`)" if reason else None)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def main() -> int:
    settings = load_or_exit(ExecutorSettings)
    logs.configure("ray-executor", settings.log_level, settings.log_format)
    code = service.run(partial(serve, settings))
    log.info("Ray Executor stopped", code=code)
    return code
