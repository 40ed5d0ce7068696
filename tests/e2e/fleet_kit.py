"""What the end-to-end tests do with a running stack: submit, approve, wait, count."""

import asyncio
import contextlib
import dataclasses
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from fleet import planfile
from fleet.local.stack import Stack
from fleet.orchestrator.store import Store, jetstream_store
from fleet_wire import events, ids
from fleet_wire.bus import Bus, connect
from fleet_wire.gen.context.v1 import context_pb2, context_pb2_grpc
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from fleet_wire.gen.planning.v1 import planning_pb2, planning_pb2_grpc
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2_grpc
from fleet_wire.rpc import channel

ENDED = ("orchestration.deliberation.completed", "orchestration.deliberation.failed")

ONE_TASK = """
story: {title: Slugs, brief: A blog needs readable addresses.}
tasks:
  - {task_id: slug, title: Make slugs, role: DEV, protocol: vote,
     description: Write a Python function that turns a title into a slug., requirements: [lower case letters and digits only]}
"""
TWO_TASKS = """
story: {title: Slugs, brief: A blog needs readable addresses.}
tasks:
  - {task_id: slug, title: Make slugs, role: DEV, protocol: vote,
     description: Write a Python function that turns a title into a slug., requirements: [lower case letters and digits only]}
  - {task_id: check, title: Test the slugs, role: QA, protocol: vote,
     description: List test cases for the slug function., requirements: [an empty title], depends_on: [slug]}
"""


@dataclasses.dataclass(frozen=True)
class DecidedPlan:
    """A plan that has ended, with what each of its approvals was answered."""

    plan_id: str
    approvals: list[BaseException | None]
    completed: events.PlanCompleted


@dataclasses.dataclass(frozen=True)
class Fleet:
    """A stack with clients to its services."""

    stack: Stack
    bus: Bus
    store: Store
    planning: Any
    orchestrator: Any
    context: Any
    executor: Any

    async def propose(self, plan: str) -> str:
        """Submits a plan; its id."""
        parsed = planfile.parse(plan, "a test's plan")
        _, plan_id = await planfile.submit(self.planning, parsed, f"e2e-{uuid.uuid4().hex}", "e2e")
        return plan_id

    async def approve(self, plan_id: str) -> None:
        await self.planning.ApprovePlan(planning_pb2.ApprovePlanRequest(plan_id=plan_id, approved_by="e2e"))

    async def start(self, plan: str) -> str:
        """Submits and approves a plan; its id."""
        plan_id = await self.propose(plan)
        await self.approve(plan_id)
        return plan_id

    async def progress(self, plan_id: str) -> Any:
        return await self.orchestrator.GetPlanProgress(orchestrator_pb2.GetPlanProgressRequest(plan_id=plan_id))

    async def explain(self, decision_id: str) -> Any:
        return await self.context.ExplainDecision(context_pb2.ExplainDecisionRequest(decision_id=decision_id))

    async def state(self, deliberation_id: str) -> Any:
        """The deliberation as the orchestrator tells it."""
        request = orchestrator_pb2.GetDeliberationResultRequest(deliberation_id=deliberation_id)
        return (await self.orchestrator.GetDeliberationResult(request)).deliberation

    async def plan_ended(self, plan_id: str, seconds: float = 600) -> events.PlanCompleted:
        """The plan's completion event, once it is published."""

        async def look() -> events.PlanCompleted | None:
            found = [
                event for _, event in await self.events("orchestration.plan.completed") if event.plan_id == plan_id
            ]
            return found[0] if found else None

        return await until(look, seconds)

    async def ends(self, deliberation_id: str) -> list[events.Event]:
        """Every terminal event of the deliberation, repetitions included."""
        return [
            event
            for subject in ENDED
            for _, event in await self.events(subject)
            if event.deliberation_id == deliberation_id
        ]

    async def events(self, subject: str) -> list[tuple[Any, Any]]:
        """Every event on a subject so far, with the server's message."""
        stream = await self.bus.js.find_stream_name_by_subject(subject)
        state = (await self.bus.js.stream_info(stream)).state
        found = []
        for sequence in range(max(1, state.first_seq), state.last_seq + 1):
            message = await self.bus.js.get_msg(stream, sequence)
            if message.subject == subject:
                with contextlib.suppress(events.Invalid):
                    found.append((message, events.decode(subject, message.data or b"")))
        return found


async def open_fleet(stack: Stack, opened: contextlib.AsyncExitStack) -> Fleet:
    """Connects to everything."""

    async def stub(kind: Any, address: str) -> Any:
        return kind(await opened.enter_async_context(channel(stack.env[address])))

    bus = await connect(stack.env["NATS_URL"], "e2e")
    opened.push_async_callback(bus.close)
    return Fleet(
        stack=stack,
        bus=bus,
        store=jetstream_store(bus),
        planning=await stub(planning_pb2_grpc.PlanningServiceStub, "PLANNING_ADDRESS"),
        orchestrator=await stub(orchestrator_pb2_grpc.OrchestratorServiceStub, "ORCHESTRATOR_ADDRESS"),
        context=await stub(context_pb2_grpc.ContextServiceStub, "CONTEXT_ADDRESS"),
        executor=await stub(ray_executor_pb2_grpc.RayExecutorServiceStub, "RAY_EXECUTOR_ADDRESS"),
    )


def deliberation_of(plan_id: str, task_id: str) -> str:
    """Id of a task's first deliberation."""
    return ids.deliberation_id(plan_id, task_id, 1)


async def until(look: Callable[[], Awaitable[Any]], seconds: float = 60) -> Any:
    """What `look` gives once it is true; a service that is away for the moment is asked again."""
    import grpc

    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    last: object = None
    while loop.time() < deadline:
        try:
            value = await look()
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            value, last = None, error
        if value:
            return value
        await asyncio.sleep(0.2)
    raise AssertionError(f"it did not happen in {seconds} s; last answer: {last}")
