"""Stories, plans and servicing parts as the planning tests need them."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import os
import random
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import realparts
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fleet.planning.domain import Plan, Story, Task, new_plan, new_story
from fleet.planning.handlers import Ports
from fleet.planning.store import Store
from fleet_wire import events
from fleet_wire.bus import Bus
from fleet_wire.gen.planning.v1 import planning_pb2 as pb
from fleet_wire.gen.planning.v1.planning_pb2_grpc import PlanningServiceStub

if TYPE_CHECKING:
    from fleet_wire.gen.planning.v1.planning_pb2_grpc import PlanningServiceAsyncStub as Stub

NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def some_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:16]}"


def some_time() -> dt.datetime:
    """A moment that no other test has, long ago."""
    return dt.datetime(1900, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=random.randrange(10**15))


def story(now: dt.datetime = NOON, state: Any = "BACKLOG", **changes: Any) -> Story:
    values = {
        "title": "Search",
        "brief": "Find things.",
        "acceptance": ["fast"],
        "phase": "",
        "actor": "ana",
        **changes,
    }
    made = new_story(values.pop("story_id", None) or some_id("story"), **values, now=now)
    return dataclasses.replace(made, state=state)


def task(task_id: str = "t1", **changes: Any) -> Task:
    values = {"title": "Index", "description": "Build an index.", "role": "DEV", "requirements": ["has tests"]}
    return Task(task_id=task_id, **{**values, **changes})


def plan(of: Story | None = None, **changes: Any) -> Plan:
    values = {"roles": [], "tasks": [task()], "now": NOON, **changes}
    return new_plan(values.pop("plan_id", None) or some_id("plan"), of or story(), **values)


def ports(store: Store, now: Callable[[], dt.datetime] = lambda: NOON, woken: asyncio.Event | None = None) -> Ports:
    return Ports(store, now, some_id, woken.set if woken else lambda: None)


async def eventually(check: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Asks until the answer is yes."""
    async with asyncio.timeout(seconds):
        while not await check():  # noqa: ASYNC110 (what it waits for is another process)
            await asyncio.sleep(0.05)


async def on_stream(bus: Bus, subject: str) -> list[Any]:
    """All messages that lie on a subject, decoded."""
    subscription = await bus.js.pull_subscribe(subject)
    found = []
    try:
        while True:
            found += [message.data for message in await subscription.fetch(100, timeout=0.3)]
    except TimeoutError:  # the client raises its own kind or this one
        return found
    finally:
        await subscription.unsubscribe()


async def approvals(bus: Bus, plan_id: str) -> list[events.PlanApproved]:
    """What was published of a plan's approval."""
    bodies = [body for body in await on_stream(bus, "planning.plan.approved") if plan_id.encode() in body]
    found = [events.decode("planning.plan.approved", body) for body in bodies]
    return [event for event in found if isinstance(event, events.PlanApproved) and event.plan_id == plan_id]


class PlanningProcess:
    """The service as an operator runs it."""

    def __init__(self, directory: Path, **env: str) -> None:
        self.port = realparts.free_port()
        self.address = f"127.0.0.1:{self.port}"
        command = [sys.executable, "-c", "from fleet.planning.main import main; raise SystemExit(main())"]
        settings = {**os.environ, "GRPC_PORT": str(self.port), "LOG_FORMAT": "json", **env}
        self.process = realparts.Process(
            command, directory / f"{some_id('planning')}.log", lambda: realparts.listens(self.port), env=settings
        )

    async def health(self) -> str:
        """What the health service answers, as a word."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service="planning.v1.PlanningService"), timeout=3)
            return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)

    async def until_serving(self) -> None:
        async def serving() -> bool:
            return await self.health() == "SERVING"

        await eventually(serving)


@contextlib.contextmanager
def running_planning(directory: Path, nats_url: str, graph: realparts.GraphServer) -> Iterator[PlanningProcess]:
    """A planning process, until the block ends."""
    service = PlanningProcess(directory, NATS_URL=nats_url, **graph.env())
    with realparts.running(service.process):
        yield service


@contextlib.asynccontextmanager
async def connected(address: str) -> "AsyncIterator[Stub]":
    """A client, until the block ends."""
    async with grpc.aio.insecure_channel(address) as channel:
        yield PlanningServiceStub(channel)


def proto_task(task_id: str = "t1", **changes: Any) -> pb.Task:
    return pb.Task(**{"task_id": task_id, "title": "Index", "description": "Build it.", "role": "DEV", **changes})


async def proposed(stub: "Stub", **changes: Any) -> pb.Plan:
    """A new plan on a new story."""
    made = await stub.CreateStory(pb.CreateStoryRequest(title="Search", brief="Find things.", acceptance=["fast"]))
    request = {"story_id": made.story.story_id, "tasks": [proto_task()], **changes}
    return (await stub.ProposePlan(pb.ProposePlanRequest(**request))).plan
