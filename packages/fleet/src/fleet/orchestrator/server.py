"""gRPC in: checks what a request holds, calls the use case, turns values into messages."""

import contextlib
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import msgspec

from fleet.deliberation import plan as rules
from fleet.deliberation.state import ENDED, LIVE
from fleet.orchestrator import councils
from fleet.orchestrator.adhoc import Adhoc, Asked, new_request_id
from fleet.orchestrator.interventions import Interventions
from fleet.orchestrator.messages import council_message, deliberation_message, plan_message
from fleet.orchestrator.requests import Requests, page
from fleet.orchestrator.streaming import Following
from fleet.planmessages import budget_of
from fleet_wire import ids
from fleet_wire.errors import Invalid, Unavailable
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2_grpc
from fleet_wire.rpc import Readiness, timestamp

SERVICE = "orchestrator.v1.OrchestratorService"
STATES = (*LIVE, *ENDED)


@dataclasses.dataclass(frozen=True)
class UseCases:
    """What the RPCs call."""

    requests: Requests
    adhoc: Adhoc
    interventions: Interventions
    following: Following


class OrchestratorServicer(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Every RPC but GetStatus answers UNAVAILABLE with the reason until the service is ready.

    The server listens before NATS is there, so that health and GetStatus answer; `use_cases` is set once it is.
    """

    def __init__(self, readiness: Readiness, started_at: dt.datetime) -> None:
        self.use_cases: UseCases | None = None
        self._readiness = readiness
        self._started_at = started_at

    def _all(self) -> UseCases:
        self._readiness.require()
        if self.use_cases is None:
            raise Unavailable("the orchestrator is starting")
        return self.use_cases

    def _ready(self) -> Requests:
        return self._all().requests

    async def Deliberate(self, request: pb.DeliberateRequest, context: Any) -> pb.DeliberateResponse:
        adhoc = self._all().adhoc
        state = await adhoc.deliberate(
            Asked(
                request_id=request.request_id or new_request_id(),
                role=request.role,
                title=request.title,
                description=request.description,
                requirements=tuple(request.requirements),
                acceptance=tuple(request.acceptance),
                timeout_seconds=request.timeout_seconds,
                protocol=request.protocol,
                numbers=dict(sorted(request.numbers.items())),
                budget=budget_of(request.budget),
                replay_of=request.replay_of,
                entry_point=request.entry_point,
                response_schema=request.response_schema,
                max_tokens=request.max_tokens,
            )
        )
        return pb.DeliberateResponse(deliberation_id=state.deliberation_id, state=state.status)

    async def StreamDeliberation(
        self, request: pb.StreamDeliberationRequest, context: Any
    ) -> AsyncIterator[pb.StreamDeliberationResponse]:
        async with contextlib.aclosing(self._all().following.follow(request.deliberation_id)) as messages:
            async for message in messages:
                yield message

    async def CancelDeliberation(
        self, request: pb.CancelDeliberationRequest, context: Any
    ) -> pb.CancelDeliberationResponse:
        state = await self._all().interventions.cancel_deliberation(request.deliberation_id, request.reason)
        return pb.CancelDeliberationResponse(state=state.status)

    async def CancelPlan(self, request: pb.CancelPlanRequest, context: Any) -> pb.CancelPlanResponse:
        cancelled, skipped = await self._all().interventions.cancel_plan(request.plan_id, request.reason)
        return pb.CancelPlanResponse(cancelled_task_ids=cancelled, skipped_task_ids=skipped)

    async def RetryTask(self, request: pb.RetryTaskRequest, context: Any) -> pb.RetryTaskResponse:
        plan, waiting = await self._all().interventions.retry_task(request.plan_id, request.task_id)
        task = rules.task_of(plan, request.task_id)
        return pb.RetryTaskResponse(
            deliberation_id=rules.deliberation_of(plan, task), number=task.number, waiting_task_ids=waiting
        )

    async def GetDeliberationResult(
        self, request: pb.GetDeliberationResultRequest, context: Any
    ) -> pb.GetDeliberationResultResponse:
        requests = self._ready()
        state = await requests.deliberation(request.deliberation_id)
        outcome = await requests.outcome(request.deliberation_id)
        return pb.GetDeliberationResultResponse(
            deliberation=deliberation_message(state),
            outcome=msgspec.json.encode(outcome.event) if outcome else b"",
        )

    async def ListDeliberations(
        self, request: pb.ListDeliberationsRequest, context: Any
    ) -> pb.ListDeliberationsResponse:
        requests = self._ready()
        if request.state and request.state not in STATES:
            raise Invalid(f"state must be one of {', '.join(STATES)}, or empty, not {request.state[:80]!r}")
        if request.plan_id:
            ids.check_id("plan_id", request.plan_id)
        found = await requests.deliberations(request.state, request.plan_id)
        shown, token = page(found, request.page_size, request.page_token)
        return pb.ListDeliberationsResponse(
            deliberations=[deliberation_message(state) for state in shown], next_page_token=token
        )

    async def GetPlanProgress(self, request: pb.GetPlanProgressRequest, context: Any) -> pb.GetPlanProgressResponse:
        requests = self._ready()
        return plan_message(await requests.plan(request.plan_id))

    async def CreateCouncil(self, request: pb.CreateCouncilRequest, context: Any) -> pb.CreateCouncilResponse:
        requests = self._ready()
        numbers = dict(sorted(request.numbers.items()))
        council = councils.make(request.role, request.agents, request.quorum, request.protocol, numbers)
        return pb.CreateCouncilResponse(council=council_message(await requests.create_council(council), []))

    async def ListCouncils(self, request: pb.ListCouncilsRequest, context: Any) -> pb.ListCouncilsResponse:
        requests = self._ready()
        running = await requests.running()
        return pb.ListCouncilsResponse(
            councils=[council_message(council, running) for council in await requests.councils()]
        )

    async def DeleteCouncil(self, request: pb.DeleteCouncilRequest, context: Any) -> pb.DeleteCouncilResponse:
        requests = self._ready()
        await requests.delete_council(request.role)
        return pb.DeleteCouncilResponse()

    async def RegisterAgent(self, request: pb.RegisterAgentRequest, context: Any) -> pb.RegisterAgentResponse:
        requests = self._ready()
        council = await requests.change_council(
            request.role, lambda council: councils.with_agent(council, request.agent_id)
        )
        return pb.RegisterAgentResponse(council=council_message(council, await requests.running()))

    async def UnregisterAgent(self, request: pb.UnregisterAgentRequest, context: Any) -> pb.UnregisterAgentResponse:
        requests = self._ready()
        ids.check_id("agent_id", request.agent_id)
        council = await requests.change_council(
            request.role, lambda council: councils.without_agent(council, request.agent_id)
        )
        return pb.UnregisterAgentResponse(council=council_message(council, await requests.running()))

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:
        status = pb.GetStatusResponse(
            ready=self._readiness.ready,
            reason=self._readiness.reason,
            version=version("fleet"),
            started_at=timestamp(self._started_at),
        )
        if self._readiness.ready and self.use_cases is not None:
            requests = self.use_cases.requests
            status.running_deliberations = len(await requests.running())
            status.running_plans = await requests.running_plans()
            status.councils = len(await requests.councils())
        return status
