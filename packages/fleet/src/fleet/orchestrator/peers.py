"""The services that the orchestrator calls, as small ports and their gRPC clients.

Every call has a deadline of its own and raises the FleetError of the answer's status; Unavailable where nobody answers.
"""

import contextlib
import dataclasses
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from fleet.deliberation.prompt import ContextText
from fleet.deliberation.requests import JobRequest
from fleet.deliberation.state import Deliberation
from fleet.planmessages import budget_of, task_of
from fleet_wire import events
from fleet_wire.errors import Invalid, NotFound, Unavailable
from fleet_wire.events import AgentResult, PlanApproved, StoryPhase
from fleet_wire.gen.context.v1 import context_pb2, context_pb2_grpc
from fleet_wire.gen.planning.v1 import planning_pb2, planning_pb2_grpc
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2, ray_executor_pb2_grpc
from fleet_wire.redaction import redact_struct
from fleet_wire.rpc import call, channel

CALL_SECONDS = 10.0


class Executor(Protocol):
    """ray-executor, as far as the orchestrator knows it."""

    async def execute(self, state: Deliberation, jobs: Sequence[JobRequest]) -> None:
        """Returns when every job has been accepted, now or before; raises Exhausted while the model has all it takes."""

    async def results(self, deliberation_id: str) -> dict[str, AgentResult | None]:
        """What it knows of each job: the result, or None while it runs. Empty where it knows none."""

    async def cancel(self, deliberation_id: str) -> None:
        """Returns when no job of the deliberation runs any more; it need not know any."""

    async def sandbox(self) -> str:
        """Why no sandbox can be made; empty where one can. Raises Unavailable while it is not ready to say."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What context gives for a prompt. `superseded_by` names the decisions that stand in the place of required ones."""

    blocks: tuple[ContextText, ...] = ()
    superseded_by: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a prompt's context is made for. `required` are the ids of decisions that it must hold."""

    story_id: str
    plan_id: str
    task_id: str
    role: str
    phase: StoryPhase
    required: tuple[str, ...] = ()


class Memory(Protocol):
    """context, as far as the orchestrator knows it."""

    async def context_for(self, wanted: Wanted, token_budget: int) -> Given:
        """What the agents may see; raises Unavailable until the graph holds what the task depends on."""

    async def has_decision(self, decision_id: str) -> bool:
        """Whether the graph holds it."""


class PlanBook(Protocol):
    """planning, as far as the orchestrator knows it."""

    async def approved_plans(self) -> list[str]:
        """Ids of the plans that are approved and not completed."""

    async def plan(self, plan_id: str) -> PlanApproved:
        """An approved plan as its event would say; raises NotFound."""


class ExecutorClient:
    """`Executor` over gRPC."""

    def __init__(self, address: str) -> None:
        self._channel = channel(address)
        self._stub: ray_executor_pb2_grpc.RayExecutorServiceAsyncStub = ray_executor_pb2_grpc.RayExecutorServiceStub(
            self._channel
        )

    async def execute(self, state: Deliberation, jobs: Sequence[JobRequest]) -> None:
        request = ray_executor_pb2.ExecuteDeliberationRequest(
            deliberation_id=state.deliberation_id,
            task_id=state.task.task_id,
            jobs=[_job(job) for job in jobs],
        )
        request.deadline.FromDatetime((state.until or state.deadline).astimezone(dt.timezone.utc))
        await call(self._stub.ExecuteDeliberation(request, timeout=CALL_SECONDS), "ray-executor")

    async def results(self, deliberation_id: str) -> dict[str, AgentResult | None]:
        request = ray_executor_pb2.GetDeliberationStatusRequest(deliberation_id=deliberation_id)
        try:
            answer = await call(self._stub.GetDeliberationStatus(request, timeout=CALL_SECONDS), "ray-executor")
        except NotFound:
            return {}
        return {job.job_id: _result(job) for job in answer.jobs}

    async def cancel(self, deliberation_id: str) -> None:
        request = ray_executor_pb2.CancelDeliberationRequest(deliberation_id=deliberation_id)
        with contextlib.suppress(NotFound):
            await call(self._stub.CancelDeliberation(request, timeout=CALL_SECONDS), "ray-executor")

    async def sandbox(self) -> str:
        request = ray_executor_pb2.GetStatusRequest()
        status = await call(self._stub.GetStatus(request, timeout=CALL_SECONDS), "ray-executor")
        if not status.ready:
            raise Unavailable(f"ray-executor is not ready: {status.reason}")
        return "" if status.sandbox else status.sandbox_reason or "the executor can make no sandbox"

    async def close(self) -> None:
        await self._channel.close()


class MemoryClient:
    """`Memory` over gRPC."""

    def __init__(self, address: str) -> None:
        self._channel = channel(address)
        self._stub: context_pb2_grpc.ContextServiceAsyncStub = context_pb2_grpc.ContextServiceStub(self._channel)

    async def context_for(self, wanted: Wanted, token_budget: int) -> Given:
        request = context_pb2.GetContextRequest(
            story_id=wanted.story_id,
            plan_id=wanted.plan_id,
            task_id=wanted.task_id,
            role=wanted.role,
            phase=wanted.phase,
            token_budget=token_budget,
            required_decision_ids=wanted.required,
        )
        answer = await call(self._stub.GetContext(request, timeout=CALL_SECONDS), "context")
        return Given(
            tuple(ContextText(kind=block.kind, title=block.title, text=block.text) for block in answer.blocks),
            {one.source_id: one.superseded_by for one in answer.left_out if one.superseded_by},
        )

    async def has_decision(self, decision_id: str) -> bool:
        request = context_pb2.ExplainDecisionRequest(decision_id=decision_id)
        try:
            await call(self._stub.ExplainDecision(request, timeout=CALL_SECONDS), "context")
        except NotFound:
            return False
        return True

    async def close(self) -> None:
        await self._channel.close()


class PlanBookClient:
    """`PlanBook` over gRPC."""

    def __init__(self, address: str) -> None:
        self._channel = channel(address)
        self._stub: planning_pb2_grpc.PlanningServiceAsyncStub = planning_pb2_grpc.PlanningServiceStub(self._channel)

    async def approved_plans(self) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            request = planning_pb2.ListStoriesRequest(plan_state="approved", page_size=100, page_token=token)
            page = await call(self._stub.ListStories(request, timeout=CALL_SECONDS), "planning")
            found += [plan.plan_id for story in page.stories for plan in story.plans if plan.state == "approved"]
            token = page.next_page_token
            if not token:
                return found

    async def plan(self, plan_id: str) -> PlanApproved:
        request = planning_pb2.GetPlanRequest(plan_id=plan_id)
        answer = await call(self._stub.GetPlan(request, timeout=CALL_SECONDS), "planning")
        return _approved(answer.plan, answer.story)

    async def close(self) -> None:
        await self._channel.close()


def _job(job: JobRequest) -> ray_executor_pb2.Job:
    message = ray_executor_pb2.Job(
        job_id=job.job_id,
        agent_id=job.agent_id,
        role=job.role,
        phase=job.phase,
        item=job.item,
        messages=[ray_executor_pb2.Message(role=role, content=content) for role, content in job.messages],
        max_tokens=job.max_tokens,
        temperature=job.temperature,
        seed=job.seed,
        response_schema=job.response_schema,
    )
    if job.checks is not None:
        message.checks.names.extend(job.checks.names)
        message.checks.requirements.extend(job.checks.requirements)
        message.checks.policy = job.checks.policy
    if job.dry_run is not None:
        message.dry_run.program = job.dry_run.program
        message.dry_run.seconds = job.dry_run.seconds
        for test_id, code in job.dry_run.tests:
            message.dry_run.tests.add(test_id=test_id, code=code)
    return message


def _result(job: ray_executor_pb2.JobStatus) -> AgentResult | None:
    if not job.result:
        return None
    event = events.decode(f"{AgentResult.TYPE}.{job.task_id}", job.result)
    if not isinstance(event, AgentResult):
        raise Invalid(f"the executor's result of {job.job_id} is a {event.TYPE}")
    return event


def _approved(plan: planning_pb2.Plan, story: planning_pb2.Story) -> PlanApproved:
    """The event that planning published, or will; validated, and redacted, like one that came over NATS."""
    body = {
        "story_id": plan.story_id,
        "story": {
            "title": story.title,
            "brief": story.brief,
            "acceptance": list(story.acceptance),
            "phase": story.phase,
        },
        "plan_id": plan.plan_id,
        "plan_version": plan.plan_version,
        "approved_by": plan.decided_by,
        "approved_at": plan.decided_at.ToDatetime(dt.timezone.utc),
        "roles": list(plan.roles),
        "tasks": [msgspec.to_builtins(task_of(task)) for task in plan.tasks],
        "budget": msgspec.to_builtins(budget_of(plan.budget)),
    }
    try:
        return redact_struct(msgspec.convert(body, PlanApproved))
    except msgspec.ValidationError as error:
        raise Invalid(f"planning's plan {plan.plan_id} cannot be read: {error}") from error
