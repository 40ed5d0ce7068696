"""gRPC in: ray_executor.v1.RayExecutorService."""

import asyncio
import dataclasses
import datetime as dt
import platform
from importlib import metadata
from typing import Any, Optional

from fleet_executor import handlers
from fleet_executor.jobs import calls_model
from fleet_executor.keeper import Keeper
from fleet_executor.ports import Cluster, NodeStats, Used
from fleet_executor.registry import Registry
from fleet_wire import clock
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2_grpc as pb_grpc
from fleet_wire.rpc import Readiness

SERVICE_NAME = "ray_executor.v1.RayExecutorService"
STATUS_SECONDS = 3
"""How long GetStatus waits for the registry before it says that it does not answer."""


@dataclasses.dataclass
class Parts:
    """What the service is made of. Bus, registry and keeper are there once NATS is; GetStatus answers before."""

    readiness: Readiness
    cluster: Cluster
    model: str
    model_limit: int
    ray_version: str
    started_at: dt.datetime
    bus: Optional[Bus] = None
    registry: Optional[Registry] = None
    keeper: Optional[Keeper] = None

    def known(self) -> Registry:
        """The registry; raises Unavailable before it is there."""
        if self.registry is None:
            raise Unavailable(self.readiness.reason)
        return self.registry


class Servicer(pb_grpc.RayExecutorServiceServicer):
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def ExecuteDeliberation(self, request: Any, context: Any) -> pb.ExecuteDeliberationResponse:
        jobs = handlers.parse(request, clock.now())  # what is wrong with the request is said also while not ready
        self._parts.readiness.require()
        keeper = self._parts.keeper
        assert keeper is not None
        accepted = await handlers.execute(jobs, self._parts.known(), keeper, keeper.calls)
        return pb.ExecuteDeliberationResponse(accepted_job_ids=accepted)

    async def CancelDeliberation(self, request: Any, context: Any) -> pb.CancelDeliberationResponse:
        registry, bus, keeper = self._parts.known(), self._parts.bus, self._parts.keeper
        assert bus is not None and keeper is not None
        cancelled = await handlers.cancel(request.deliberation_id, registry, bus)
        await keeper.drop(cancelled)
        return pb.CancelDeliberationResponse(cancelled_job_ids=[job.spec.job_id for job in cancelled])

    async def GetDeliberationStatus(self, request: Any, context: Any) -> pb.GetDeliberationStatusResponse:
        jobs = await handlers.deliberation_status(request.deliberation_id, self._parts.known())
        return pb.GetDeliberationStatusResponse(deliberation_id=request.deliberation_id, jobs=jobs)

    async def GetActiveJobs(self, request: Any, context: Any) -> pb.GetActiveJobsResponse:
        return pb.GetActiveJobsResponse(
            jobs=[handlers.open_status(job) for job in await handlers.active_jobs(self._parts.known())]
        )

    async def GetClusterStats(self, request: Any, context: Any) -> pb.GetClusterStatsResponse:
        cluster = self._parts.cluster
        stats = await cluster.stats()
        return pb.GetClusterStatsResponse(
            nodes=[_node(node) for node in stats.nodes],
            cpus=_amount(stats.cpus),
            gpus=_amount(stats.gpus),
            memory_bytes=_amount(stats.memory_bytes),
            ray_version=stats.ray_version,
            python_version=stats.python_version,
            pool=cluster.pool,
            actors=list(cluster.actors),
        )

    async def GetStatus(self, request: Any, context: Any) -> pb.GetStatusResponse:
        parts = self._parts
        status = pb.GetStatusResponse(
            ready=parts.readiness.ready,
            reason=parts.readiness.reason,
            version=metadata.version("fleet-executor"),
            python_version=platform.python_version(),
            ray_version=parts.ray_version,
            pool=parts.cluster.pool,
            model=parts.model or (parts.keeper.model if parts.keeper else ""),
        )
        status.started_at.FromDatetime(parts.started_at)
        status.sandbox_reason = parts.keeper.no_sandbox if parts.keeper else "no node has been probed yet"
        status.sandbox = not status.sandbox_reason
        status.model_limit = parts.keeper.calls.limit if parts.keeper else parts.model_limit
        if parts.registry is not None:
            try:
                jobs = await asyncio.wait_for(handlers.active_jobs(parts.registry), STATUS_SECONDS)
                status.active_jobs = len(jobs)
                status.model_calls = sum(map(calls_model, jobs))
            except (Unavailable, asyncio.TimeoutError) as error:
                status.ready = False
                status.reason = status.reason or f"registry: {error or 'no answer in time'}"
        return status


def _amount(used: Used) -> pb.Amount:
    return pb.Amount(used=used.used, total=used.total)


def _node(node: NodeStats) -> pb.Node:
    found = pb.Node(
        node_id=node.node_id,
        address=node.address,
        alive=node.alive,
        sandbox=not node.no_sandbox,
        sandbox_reason=node.no_sandbox,
    )
    for name in ("cpus", "gpus", "memory_bytes"):
        used = getattr(node, name)
        if used is not None:
            getattr(found, name).CopyFrom(_amount(used))
    return found
