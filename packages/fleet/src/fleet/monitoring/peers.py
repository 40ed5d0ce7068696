"""How each source is asked: the four services by gRPC, the infrastructure in its own protocol. All of it only reads."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

import httpx
import nats.errors
import nats.js.errors
import neo4j
import valkey.asyncio as valkey
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from valkey.exceptions import ValkeyError

from fleet.bolt import Graph
from fleet.monitoring.feed import FOLLOWED
from fleet.monitoring.settings import MonitoringSettings
from fleet.monitoring.sources import Health, Probe
from fleet.steps import JobSeen
from fleet.unready import why_not_ready
from fleet_wire import apply, rpc
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from fleet_wire.gen.planning.v1 import planning_pb2_grpc
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2, ray_executor_pb2_grpc
from fleet_wire.logs import hide_passwords

CALL_SECONDS = 3.0


class Peers:
    """Channels to the four services; they connect when used, and again whenever they must."""

    def __init__(self, settings: MonitoringSettings) -> None:
        self.addresses = {
            "planning": settings.planning_address,
            "orchestrator": settings.orchestrator_address,
            "ray-executor": settings.ray_executor_address,
            "context": settings.context_address,
        }
        self._channels = {name: rpc.channel(address) for name, address in self.addresses.items()}
        self._health = {name: health_pb2_grpc.HealthStub(channel) for name, channel in self._channels.items()}
        self._orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(self._channels["orchestrator"])
        self._executor = ray_executor_pb2_grpc.RayExecutorServiceStub(self._channels["ray-executor"])
        self.planning: planning_pb2_grpc.PlanningServiceAsyncStub = planning_pb2_grpc.PlanningServiceStub(
            self._channels["planning"]
        )

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def health(self, name: str) -> Health:
        """gRPC health of a service, and what its GetStatus adds; where it has none, any call tells what it lacks."""
        stub = self._health[name]
        answer = await rpc.call(stub.Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS), name)
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        if name == "orchestrator":
            status = await self._orchestrator_status()
        elif name == "ray-executor":
            status = await self._executor_status()
        elif serving:
            return Health(True)
        else:
            reason = await why_not_ready(name, self._channels[name], CALL_SECONDS)
            return Health(False, reason or "its health says NOT_SERVING")
        if serving or not status.ready:
            return status
        return dataclasses.replace(status, ready=False, reason="its health says NOT_SERVING")

    async def councils(self) -> list[dict[str, Any]]:
        request = orchestrator_pb2.ListCouncilsRequest()
        answer = await rpc.call(self._orchestrator.ListCouncils(request, timeout=CALL_SECONDS), "orchestrator")
        return [
            {
                "role": council.role,
                "quorum": council.quorum,
                "protocol": council.protocol,
                "numbers": dict(council.numbers),
                "agents": [
                    {
                        "agent_id": agent.agent_id,
                        "state": agent.state,
                        "deliberation_ids": list(agent.deliberation_ids),
                    }
                    for agent in council.agents
                ],
            }
            for council in answer.councils
        ]

    async def jobs(self) -> list[dict[str, Any]]:
        request = ray_executor_pb2.GetActiveJobsRequest()
        answer = await rpc.call(self._executor.GetActiveJobs(request, timeout=CALL_SECONDS), "ray-executor")
        return [
            {
                "job_id": job.job_id,
                "deliberation_id": job.deliberation_id,
                "task_id": job.task_id,
                "agent_id": job.agent_id,
                "role": job.role,
                "phase": job.phase,
                "item": job.item,
                "attempt": job.attempt,
                "status": job.status,
                "accepted_at": _iso(job.accepted_at if job.HasField("accepted_at") else None),
                "actor": job.actor,
            }
            for job in answer.jobs
        ]

    async def cluster(self) -> dict[str, Any]:
        request = ray_executor_pb2.GetClusterStatsRequest()
        answer = await rpc.call(self._executor.GetClusterStats(request, timeout=CALL_SECONDS + 2), "ray-executor")
        return {
            "ray_version": answer.ray_version,
            "python_version": answer.python_version,
            "pool": answer.pool,
            "actors": list(answer.actors),
            **_amounts(answer),
            "nodes": [
                {
                    "node_id": node.node_id,
                    "address": node.address,
                    "alive": node.alive,
                    "sandbox": node.sandbox,
                    "sandbox_reason": node.sandbox_reason,
                    **_amounts(node),
                }
                for node in answer.nodes
            ],
        }

    async def jobs_of(self, deliberation_id: str) -> list[JobSeen]:
        """The executor's jobs of a deliberation. Raises NotFound where it knows none, Unavailable while it is away."""
        request = ray_executor_pb2.GetDeliberationStatusRequest(deliberation_id=deliberation_id)
        answer = await rpc.call(self._executor.GetDeliberationStatus(request, timeout=CALL_SECONDS), "ray-executor")
        return [
            JobSeen(job.agent_id, _time(job.accepted_at if job.HasField("accepted_at") else None), job.actor)
            for job in answer.jobs
        ]

    async def _orchestrator_status(self) -> Health:
        request = orchestrator_pb2.GetStatusRequest()
        answer = await rpc.call(self._orchestrator.GetStatus(request, timeout=CALL_SECONDS), "orchestrator")
        return Health(answer.ready, answer.reason, answer.version or None)

    async def _executor_status(self) -> Health:
        request = ray_executor_pb2.GetStatusRequest()
        answer = await rpc.call(self._executor.GetStatus(request, timeout=CALL_SECONDS), "ray-executor")
        return Health(answer.ready, answer.reason, answer.version or None)


async def nats_health(bus: Bus | None) -> Health:
    """A round trip to the server, and whether the streams that are followed are as they must be."""
    if bus is None or not bus.connected:
        raise Unavailable("NATS is not connected")
    try:
        await bus.client.flush(timeout=2)
        problems = await apply.check(bus, [followed.stream for followed in FOLLOWED])
    except (nats.errors.Error, nats.js.errors.Error) as error:
        raise Unavailable(f"NATS does not answer: {error or type(error).__name__}") from error
    reason = "; ".join(f"{problem.stream} {problem.problem}" for problem in problems)
    version = bus.client.connected_server_version
    return Health(not problems, reason, f"{version.major}.{version.minor}.{version.patch}")


async def graph_health(graph: Graph) -> Health:
    """`RETURN 1` over Bolt. Raises Unavailable where it fails."""

    async def one(tx: neo4j.AsyncManagedTransaction) -> str:
        result = await tx.run("RETURN 1 AS one")
        return str((await result.consume()).server.agent)

    return Health(True, version=await graph.read(one))


async def valkey_health(client: "valkey.Valkey") -> Health:
    """PING, and the version from INFO."""
    try:
        await client.ping()
        info = await client.info("server")
    except (ValkeyError, OSError) as error:
        raise Unavailable(f"Valkey does not answer: {error or type(error).__name__}") from error
    return Health(True, version=info.get("valkey_version") or info.get("redis_version"))


async def model_health(url: str) -> Health:
    """The model server's /health; vLLM and llama.cpp both have it beside /v1."""
    root = url.rstrip("/").removesuffix("/v1")
    try:
        async with httpx.AsyncClient(timeout=CALL_SECONDS, trust_env=False) as client:
            answer = await client.get(f"{root}/health")
    except (httpx.HTTPError, OSError) as error:
        raise Unavailable(f"the model server does not answer: {error or type(error).__name__}") from error
    ready = answer.status_code == 200
    return Health(ready, "" if ready else f"its /health answers {answer.status_code}")


def probes(
    settings: MonitoringSettings, peers: Peers, bus: Callable[[], Bus | None], graph: Graph, cache: "valkey.Valkey"
) -> list[Probe]:
    """Everything that is asked, and how often."""

    def service(name: str) -> Probe:
        return Probe(name, "service", peers.addresses[name], 2, lambda: peers.health(name))

    executor = peers.addresses["ray-executor"]
    found = [
        *(service(name) for name in peers.addresses),
        Probe("nats", "infrastructure", hide_passwords(settings.nats_url), 3, lambda: nats_health(bus())),
        Probe("graph", "infrastructure", hide_passwords(settings.neo4j_uri), 5, lambda: graph_health(graph)),
        Probe("valkey", "infrastructure", hide_passwords(settings.valkey_url), 5, lambda: valkey_health(cache)),
        Probe("councils", "data", peers.addresses["orchestrator"], 2, peers.councils),
        Probe("jobs", "data", executor, 1, peers.jobs),
        Probe("cluster", "data", executor, 5, peers.cluster),
    ]
    if settings.vllm_url is not None:
        url = settings.vllm_url
        found.append(Probe("model", "infrastructure", hide_passwords(url), 5, lambda: model_health(url)))
    return found


def _amounts(answer: Any) -> dict[str, dict[str, float] | None]:
    """CPUs, GPUs and memory of a message that has them; None for what it does not say."""
    return {
        name: {"used": getattr(answer, name).used, "total": getattr(answer, name).total}
        if answer.HasField(name)
        else None
        for name in ("cpus", "gpus", "memory_bytes")
    }


def _time(stamp: Timestamp | None) -> dt.datetime | None:
    return None if stamp is None else stamp.ToDatetime(tzinfo=dt.timezone.utc)


def _iso(stamp: Timestamp | None) -> str | None:
    at = _time(stamp)
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
