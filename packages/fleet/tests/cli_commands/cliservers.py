"""Small gRPC servers that speak the real protos, with one plan and one decision: what the commands are tested against."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from click.testing import Result

from fleet_wire import rpc
from fleet_wire.errors import AlreadyExists, NotFound, Precondition
from fleet_wire.gen.context.v1 import context_pb2, context_pb2_grpc
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from fleet_wire.gen.planning.v1 import planning_pb2, planning_pb2_grpc
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2, ray_executor_pb2_grpc

Fleet = Callable[..., Awaitable[Result]]
"""The fixture `fleet`: runs a command with these arguments."""


class Planning(planning_pb2_grpc.PlanningServiceServicer):
    """Stories and plans in dicts; `calls` holds the requests as they came, `approved` is called with each approved plan."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.stories: dict[str, planning_pb2.Story] = {}
        self.plans: dict[str, planning_pb2.Plan] = {}
        self.requests: dict[str, planning_pb2.ProposePlanRequest] = {}
        self.approved: Callable[[planning_pb2.Plan], Awaitable[None]] | None = None

    async def CreateStory(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        story = planning_pb2.Story(
            story_id=f"story-{request.request_id[-8:]}",
            title=request.title,
            brief=request.brief,
            acceptance=request.acceptance,
            phase=request.phase,
        )
        story.created_at.GetCurrentTime()
        self.stories[story.story_id] = story
        return planning_pb2.CreateStoryResponse(story=story)

    async def ProposePlan(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        if self.requests.setdefault(request.request_id, request) != request:
            raise AlreadyExists(f"request_id {request.request_id} belongs to another plan")
        plan = planning_pb2.Plan(
            plan_id=f"plan-{request.request_id[-8:]}",
            story_id=request.story_id,
            plan_version=1,
            state="proposed",
            tasks=request.tasks,
            roles=request.roles,
        )
        plan.proposed_at.GetCurrentTime()
        self.plans[plan.plan_id] = plan
        return planning_pb2.ProposePlanResponse(plan=plan)

    async def GetPlan(self, request: Any, context: Any) -> Any:
        plan = self._plan(request.plan_id)
        return planning_pb2.GetPlanResponse(plan=plan, story=self.stories.get(plan.story_id))

    async def GetStory(self, request: Any, context: Any) -> Any:
        if request.story_id not in self.stories:
            raise NotFound(f"there is no story {request.story_id}")
        return planning_pb2.GetStoryResponse(story=self.stories[request.story_id])

    async def ListStories(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        answer = planning_pb2.ListStoriesResponse()
        for story in self.stories.values():
            listed = answer.stories.add()
            listed.CopyFrom(story)
            for plan in self.plans.values():
                if plan.story_id == story.story_id:
                    listed.plans.add(plan_id=plan.plan_id, plan_version=1, state=plan.state)
        return answer

    async def ApprovePlan(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        plan = self._decide(request.plan_id, "approved", request.approved_by)
        if self.approved is not None:
            await self.approved(plan)
        return planning_pb2.ApprovePlanResponse(plan=plan)

    async def RejectPlan(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        return planning_pb2.RejectPlanResponse(plan=self._decide(request.plan_id, "rejected", request.rejected_by))

    def _plan(self, plan_id: str) -> planning_pb2.Plan:
        if plan_id not in self.plans:
            raise NotFound(f"there is no plan {plan_id}")
        return self.plans[plan_id]

    def _decide(self, plan_id: str, state: str, who: str) -> planning_pb2.Plan:
        plan = self._plan(plan_id)
        if plan.state != "proposed":
            raise Precondition(f"plan {plan_id} is {plan.state}, not proposed")
        plan.state, plan.decided_by = state, who
        return plan


class Context(context_pb2_grpc.ContextServiceServicer):
    """Decisions in a dict, answered two a page."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.decisions: dict[str, context_pb2.ExplainDecisionResponse] = {}

    async def ExplainDecision(self, request: Any, context: Any) -> Any:
        if request.decision_id not in self.decisions:
            raise NotFound(f"there is no decision {request.decision_id}")
        return self.decisions[request.decision_id]

    async def SearchDecisions(self, request: Any, context: Any) -> Any:
        copy = context_pb2.SearchDecisionsRequest()
        copy.CopyFrom(request)
        self.calls.append(copy)
        start, all_ = int(request.page_token or 0), list(self.decisions.values())
        page = all_[start : start + min(2, request.page_size)]
        following = start + len(page)
        return context_pb2.SearchDecisionsResponse(
            decisions=[answer.decision for answer in page],
            next_page_token=str(following) if following < len(all_) else "",
        )


class Orchestrator(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Answers Deliberate with a fixed id and calls `begun` with it; `outcomes` holds (state, outcome) of those that ended."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.deliberation_id = "delib-test"
        self.begun: Callable[[str], Awaitable[None]] | None = None
        self.outcomes: dict[str, tuple[str, bytes]] = {}

    async def Deliberate(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        if request.role == "DATA":
            raise Precondition("the role DATA has no council")
        if self.begun is not None:
            await self.begun(self.deliberation_id)
        return orchestrator_pb2.DeliberateResponse(deliberation_id=self.deliberation_id, state="preparing")

    async def GetDeliberationResult(self, request: Any, context: Any) -> Any:
        if request.deliberation_id != self.deliberation_id:
            raise NotFound(f"there is no deliberation {request.deliberation_id}")
        state, outcome = self.outcomes.get(self.deliberation_id, ("running", b""))
        found = orchestrator_pb2.Deliberation(deliberation_id=self.deliberation_id, state=state)
        found.created_at.GetCurrentTime()
        return orchestrator_pb2.GetDeliberationResultResponse(deliberation=found, outcome=outcome)


class Executor(ray_executor_pb2_grpc.RayExecutorServiceServicer):
    """Answers with the jobs it was given."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[ray_executor_pb2.JobStatus]] = {}

    async def GetDeliberationStatus(self, request: Any, context: Any) -> Any:
        if request.deliberation_id not in self.jobs:
            raise NotFound(f"no job of {request.deliberation_id} is known")
        return ray_executor_pb2.GetDeliberationStatusResponse(
            deliberation_id=request.deliberation_id, jobs=self.jobs[request.deliberation_id]
        )


@dataclasses.dataclass
class Services:
    """The four of them, and what a command is told of where they are."""

    planning: Planning
    context: Context
    orchestrator: Orchestrator
    executor: Executor
    env: dict[str, str]


@contextlib.asynccontextmanager
async def services(nats_url: str) -> AsyncIterator[Services]:
    """Serves until the block ends, on free ports."""
    planning, context, orchestrator, executor = Planning(), Context(), Orchestrator(), Executor()
    readiness = rpc.Readiness()
    async with contextlib.AsyncExitStack() as stack:
        ports = [
            await stack.enter_async_context(rpc.server("127.0.0.1:0", add, [], readiness))
            for add in (
                lambda server: planning_pb2_grpc.add_PlanningServiceServicer_to_server(planning, server),
                lambda server: context_pb2_grpc.add_ContextServiceServicer_to_server(context, server),
                lambda server: orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server),
                lambda server: ray_executor_pb2_grpc.add_RayExecutorServiceServicer_to_server(executor, server),
            )
        ]
        names = ("PLANNING_ADDRESS", "CONTEXT_ADDRESS", "ORCHESTRATOR_ADDRESS", "RAY_EXECUTOR_ADDRESS")
        env = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
        yield Services(planning, context, orchestrator, executor, {**env, "NATS_URL": nats_url})
