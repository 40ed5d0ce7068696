"""What the parts say of themselves now: reachable, ready or why not, and their versions. Nothing here is remembered."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fleet.local import checks
from fleet.settings import GraphSettings
from fleet.unready import why_not_ready
from fleet_wire import rpc
from fleet_wire.errors import FleetError, Unavailable
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2, ray_executor_pb2_grpc
from fleet_wire.logs import hide_passwords
from fleet_wire.settings import load

SECONDS = 3.0
UNREACHABLE = "unreachable"

SETTINGS = {
    "nats": ("NATS_URL", "nats://127.0.0.1:4222"),
    "graph": ("NEO4J_URI", "bolt://127.0.0.1:7687"),
    "valkey": ("VALKEY_URL", "valkey://127.0.0.1:6379"),
    "model": ("VLLM_URL", "http://127.0.0.1:8000"),
    "planning": ("PLANNING_ADDRESS", "127.0.0.1:50053"),
    "orchestrator": ("ORCHESTRATOR_ADDRESS", "127.0.0.1:50055"),
    "context": ("CONTEXT_ADDRESS", "127.0.0.1:50051"),
    "ray-executor": ("RAY_EXECUTOR_ADDRESS", "127.0.0.1:50056"),
}
"""The setting with each one's address, and what it is unless given."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """`state` is ready, not_ready or unreachable; `reason` says why, `version` is empty where a part tells none."""

    name: str
    address: str
    state: str
    reason: str = ""
    version: str = ""

    @property
    def ready(self) -> bool:
        return self.state == "ready"


Answer = tuple[str | None, str]
"""What is wrong, or None, and the version."""


async def survey(environment: Mapping[str, str]) -> list[Finding]:
    """Asks all parts and services at once. Ray itself is asked through the executor, the only one that may."""
    at = {name: environment.get(setting) or usual for name, (setting, usual) in SETTINGS.items()}
    at["monitoring"] = f"http://127.0.0.1:{environment.get('MONITORING_PORT') or 8080}"
    model = at["model"].rstrip("/").removesuffix("/v1")
    asked: dict[str, tuple[str, Awaitable[Answer]]] = {
        "nats": (at["nats"], _nats(at["nats"], environment.get("NATS_CREDS"))),
        "graph": (at["graph"], _graph()),
        "valkey": (at["valkey"], _valkey(at["valkey"])),
        "model": (at["model"], _model(model)),
        "ray": (f"through {at['ray-executor']}", _ray(at["ray-executor"])),
        "planning": (at["planning"], _health("planning", at["planning"])),
        "orchestrator": (at["orchestrator"], _orchestrator(at["orchestrator"])),
        "context": (at["context"], _health("context", at["context"])),
        "ray-executor": (at["ray-executor"], _executor(at["ray-executor"])),
        "monitoring": (at["monitoring"], _monitoring(at["monitoring"])),
    }
    answers = await asyncio.gather(*(_within(answer) for _, answer in asked.values()))
    return [
        _finding(name, hide_passwords(address), answer)
        for (name, (address, _)), answer in zip(asked.items(), answers, strict=True)
    ]


def _finding(name: str, address: str, answer: Answer) -> Finding:
    problem, version = answer
    if problem is None:
        return Finding(name, address, "ready", "", version)
    if problem.startswith(UNREACHABLE):
        return Finding(name, address, UNREACHABLE, problem.removeprefix(UNREACHABLE).lstrip(": "), version)
    return Finding(name, address, "not_ready", problem, version)


async def _within(answer: Awaitable[Answer]) -> Answer:
    try:
        return await asyncio.wait_for(answer, SECONDS * 2)
    except TimeoutError:
        return f"{UNREACHABLE}: no answer within {SECONDS * 2:g} s", ""
    except Unavailable as error:
        return f"{UNREACHABLE}: {error}", ""
    except FleetError as error:
        return str(error), ""


async def _nats(url: str, creds: str | None) -> Answer:
    import datetime as dt

    from fleet_wire import apply
    from fleet_wire import bus as bus_module

    bus = await bus_module.connect(url, "status", creds, wait=dt.timedelta(seconds=SECONDS))
    try:
        differences = await apply.check(bus)
        server = bus.client.connected_server_version
        version = f"{server.major}.{server.minor}.{server.patch}"
    finally:
        await bus.close()
    problem = "; ".join(f"{it.stream} {it.problem}" for it in differences)
    return (f"{problem} (run `fleet streams apply`)" if problem else None), version


async def _graph() -> Answer:
    import neo4j
    from neo4j.exceptions import DriverError, Neo4jError

    settings = load(GraphSettings)
    driver = neo4j.AsyncGraphDatabase.driver(
        settings.neo4j_uri,
        auth=(settings.neo4j_user, settings.neo4j_password.get_secret_value()),
        connection_timeout=SECONDS,
    )
    try:
        async with driver:
            info = await driver.get_server_info()
            return None, info.agent
    except (DriverError, Neo4jError, OSError) as error:
        return f"{UNREACHABLE}: {error}", ""


async def _valkey(url: str) -> Answer:
    import valkey.asyncio
    from valkey.exceptions import ValkeyError

    try:
        async with valkey.asyncio.Valkey.from_url(url, socket_timeout=SECONDS) as client:
            info: dict[str, Any] = await client.info("server")
    except (ValkeyError, OSError, ValueError) as error:
        return f"{UNREACHABLE}: {error}", ""
    return None, str(info.get("valkey_version") or info.get("redis_version") or "")


async def _model(base: str) -> Answer:
    problem = await checks.http(f"{base}/health")()
    if problem is not None:
        return problem, ""
    _, body = await asyncio.to_thread(checks.get, f"{base}/v1/models")
    try:
        return None, ", ".join(str(model["id"]) for model in json.loads(body)["data"])
    except (ValueError, KeyError, TypeError):
        return "it does not name its models", ""


async def _health(name: str, address: str) -> Answer:
    """Health decides; the answer to any call has the reason."""
    problem = await checks.health(address)()
    if problem is None or problem.startswith(UNREACHABLE):
        return problem, ""
    async with rpc.channel(address) as channel:
        return await why_not_ready(name, channel, SECONDS) or problem, ""


async def _orchestrator(address: str) -> Answer:
    return await _status(
        address,
        lambda channel: orchestrator_pb2_grpc.OrchestratorServiceStub(channel).GetStatus(
            orchestrator_pb2.GetStatusRequest(), timeout=SECONDS
        ),
    )


async def _executor(address: str) -> Answer:
    return await _status(
        address,
        lambda channel: ray_executor_pb2_grpc.RayExecutorServiceStub(channel).GetStatus(
            ray_executor_pb2.GetStatusRequest(), timeout=SECONDS
        ),
    )


async def _status(address: str, ask: Callable[[Any], Awaitable[Any]]) -> Answer:
    """Health decides; GetStatus has the reason and the version."""
    problem = await checks.health(address)()
    if problem is not None and problem.startswith(UNREACHABLE):
        return problem, ""
    async with rpc.channel(address) as channel:
        status = await rpc.call(ask(channel), address)
    python = getattr(status, "python_version", "")
    version = f"{status.version} on Python {python}" if python else status.version
    if python and problem is None and not status.sandbox:  # the executor's: what is ready may still lack this
        version += f", no sandbox: {status.sandbox_reason or 'no reason given'}"
    return (problem and (status.reason or problem)), version


async def _ray(executor: str) -> Answer:
    async with rpc.channel(executor) as channel:
        stub = ray_executor_pb2_grpc.RayExecutorServiceStub(channel)
        stats = await rpc.call(
            stub.GetClusterStats(ray_executor_pb2.GetClusterStatsRequest(), timeout=SECONDS), "the executor"
        )
    alive = sum(node.alive for node in stats.nodes)
    version = f"{stats.ray_version} on Python {stats.python_version}, {alive} of {len(stats.nodes)} nodes alive"
    return (None if alive else "no node is alive"), version


async def _monitoring(url: str) -> Answer:
    return await checks.http(f"{url}/readyz")(), ""
