"""Small gRPC servers that speak the real protos, with one plan and one decision: what the commands are tested against."""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from click.testing import Result

from fleet_wire import events, ids, rpc
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
            state="BACKLOG",
            allowed_events=["start_draft"],
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
            budget=request.budget,
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

    async def TransitionStory(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        if request.story_id not in self.stories:
            raise NotFound(f"there is no story {request.story_id}")
        story = self.stories[request.story_id]
        if request.event not in story.allowed_events:
            raise Precondition(f"{request.event} is not allowed; allowed: {', '.join(story.allowed_events)}")
        made = story.transitions.add(
            version=1, event=request.event, from_state=story.state, actor=request.actor, reason=request.reason
        )
        story.state = made.to_state = "DRAFT"
        story.allowed_events[:] = ["approve_scope", "reject_scope"]
        return planning_pb2.TransitionStoryResponse(story=story)

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
    """Decisions in a dict, answered two a page, with `relevance` where that is set; every change has the one `result`."""

    def __init__(self) -> None:
        self.relevance = False
        self.calls: list[Any] = []
        self.decisions: dict[str, context_pb2.ExplainDecisionResponse] = {}
        self.result = context_pb2.ChangeResult(applied=True, id="dec-new")
        self.seen = context_pb2.GetContextResponse()

    async def GetContext(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        return self.seen

    async def ValidateScope(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        return context_pb2.ValidateScopeResponse(
            allowed=True, allowed_kinds=["task", "role"], depends_on=["DEV"], affects=["ARCHITECT"]
        )

    async def ExplainDecision(self, request: Any, context: Any) -> Any:
        if request.decision_id not in self.decisions:
            raise NotFound(f"there is no decision {request.decision_id}")
        return self.decisions[request.decision_id]

    async def UpdateContext(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        return context_pb2.UpdateContextResponse(results=[self.result])

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
            relevance=[1.0, 0.5][: len(page)] if self.relevance else [],
        )


class Orchestrator(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Answers Deliberate with a fixed id, or, with `decide`, at once with what that makes of the request. `outcomes` holds
    (state, outcome) of those that ended, `streams` what is streamed of one each time it is asked for: a stream without an
    outcome at its end breaks."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.deliberation_id = "delib-test"
        self.outcomes: dict[str, tuple[str, bytes]] = {}
        self.streams: list[list[orchestrator_pb2.StreamDeliberationResponse]] = []
        self.councils: dict[str, orchestrator_pb2.Council] = {}
        self.decide: Callable[[Any], events.Event] | None = None

    async def Deliberate(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        if request.role == "DATA":
            raise Precondition("the role DATA has no council")
        if self.decide is not None:
            ended = self.decide(request)
            name = ids.deliberation_id(request.request_id, "adhoc", 1)
            state = "completed" if isinstance(ended, events.DeliberationCompleted) else "failed"
            self.outcomes[name] = (state, events.encode(ended))
            return orchestrator_pb2.DeliberateResponse(deliberation_id=name, state="preparing")
        return orchestrator_pb2.DeliberateResponse(deliberation_id=self.deliberation_id, state="preparing")

    async def GetDeliberationResult(self, request: Any, context: Any) -> Any:
        name = request.deliberation_id
        if name != self.deliberation_id and name not in self.outcomes:
            raise NotFound(f"there is no deliberation {name}")
        state, outcome = self.outcomes.get(name, ("running", b""))
        found = orchestrator_pb2.Deliberation(deliberation_id=name, state=state)
        found.created_at.GetCurrentTime()
        return orchestrator_pb2.GetDeliberationResultResponse(deliberation=found, outcome=outcome)

    async def StreamDeliberation(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if request.deliberation_id != self.deliberation_id:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no deliberation {request.deliberation_id}")
        messages = self.streams.pop(0) if self.streams else []
        for message in messages:
            yield message
        if messages and messages[-1].WhichOneof("happened") != "outcome":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the orchestrator is stopping")

    async def ListDeliberations(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        found = orchestrator_pb2.Deliberation(
            deliberation_id=self.deliberation_id,
            role="DEV",
            state="running",
            phase="judge",
            protocol="tournament",
            numbers={"finalists": 4},
            title="Slugs\x1b[2J",
        )
        return orchestrator_pb2.ListDeliberationsResponse(deliberations=[found])

    async def CancelDeliberation(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        if request.deliberation_id in self.outcomes:
            raise Precondition(f"{request.deliberation_id} has ended: {self.outcomes[request.deliberation_id][0]}")
        return orchestrator_pb2.CancelDeliberationResponse(state="deciding")

    async def GetPlanProgress(self, request: Any, context: Any) -> Any:
        if request.plan_id != "plan-1":
            raise NotFound(f"plan {request.plan_id} was never approved")
        failed = orchestrator_pb2.TaskProgress(
            task_id="one", role="DEV", state="failed", number=2, deliberation_id="delib-1", reason="quorum_missed"
        )
        relying = orchestrator_pb2.TaskProgress(
            task_id="two", role="QA", state="decided", number=1, relies_on_superseded=["dec-old"]
        )
        return orchestrator_pb2.GetPlanProgressResponse(
            plan_id="plan-1",
            state="completed",
            round=2,
            tasks=[failed, relying],
            budget=orchestrator_pb2.Budget(tokens=9000),
        )

    async def CancelPlan(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        if request.plan_id != "plan-1":
            raise Precondition(f"plan {request.plan_id} has ended")
        return orchestrator_pb2.CancelPlanResponse(cancelled_task_ids=["one"], skipped_task_ids=["two", "three"])

    async def RetryTask(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        if request.task_id != "one":
            raise Precondition(f"task {request.task_id} is decided")
        return orchestrator_pb2.RetryTaskResponse(deliberation_id="delib-2", number=2, waiting_task_ids=["two"])

    async def CreateCouncil(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        if request.role in self.councils:
            raise AlreadyExists(f"the role {request.role} has a council")
        numbers = range(1, request.agents + 1)
        agents = [orchestrator_pb2.Agent(agent_id=ids.agent_id(request.role, n), state="idle") for n in numbers]
        self.councils[request.role] = orchestrator_pb2.Council(
            role=request.role, quorum=2, protocol=request.protocol or "auto", numbers=request.numbers, agents=agents
        )
        return orchestrator_pb2.CreateCouncilResponse(council=self.councils[request.role])

    async def ListCouncils(self, request: Any, context: Any) -> Any:
        return orchestrator_pb2.ListCouncilsResponse(councils=self.councils.values())

    async def DeleteCouncil(self, request: Any, context: Any) -> Any:
        if self.councils.pop(request.role, None) is None:
            raise NotFound(f"the role {request.role} has no council")
        return orchestrator_pb2.DeleteCouncilResponse()


class Executor(ray_executor_pb2_grpc.RayExecutorServiceServicer):
    """Answers with the jobs it was given. A dry run of a program that says `right` passes; `no_sandbox` says why none runs."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[ray_executor_pb2.JobStatus]] = {}
        self.calls: list[Any] = []
        self.no_sandbox = ""

    async def GetStatus(self, request: Any, context: Any) -> Any:
        return ray_executor_pb2.GetStatusResponse(
            ready=True, sandbox=not self.no_sandbox, sandbox_reason=self.no_sandbox
        )

    async def ExecuteDeliberation(self, request: Any, context: Any) -> Any:
        self.calls.append(request)
        for job in request.jobs:
            right = "right" in job.dry_run.program
            runs = [
                events.TestRun(
                    test_id=test.test_id, status="passed" if right else "failed", detail="" if right else "no"
                )
                for test in job.dry_run.tests
            ]
            ended = events.AgentResult(
                job_id=job.job_id,
                deliberation_id=request.deliberation_id,
                task_id=request.task_id,
                agent_id=job.agent_id,
                role="QA",
                phase=job.phase,
                attempt=1,
                status="completed",
                runs=runs,
            )
            status = ray_executor_pb2.JobStatus(job_id=job.job_id, status="completed", result=events.encode(ended))
            self.jobs[request.deliberation_id] = [status]
        return ray_executor_pb2.ExecuteDeliberationResponse(accepted_job_ids=[job.job_id for job in request.jobs])

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
