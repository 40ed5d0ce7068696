"""gRPC in: checks what a request holds, calls the use case, turns values into messages."""

import datetime as dt
from importlib.metadata import version
from typing import Any

import msgspec

from fleet.deliberation import plan as rules
from fleet.deliberation.plan import Plan
from fleet.deliberation.state import ENDED, LIVE, Deliberation, seat_word
from fleet.orchestrator import councils
from fleet.orchestrator.councils import Council
from fleet.orchestrator.requests import Requests, adhoc_task, new_request_id, page
from fleet_wire import ids
from fleet_wire.errors import Invalid, Unavailable
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2_grpc
from fleet_wire.rpc import Readiness, timestamp

SERVICE = "orchestrator.v1.OrchestratorService"
STATES = (*LIVE, *ENDED)


class OrchestratorServicer(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Every RPC but GetStatus answers UNAVAILABLE with the reason until the service is ready.

    The server listens before NATS is there, so that health and GetStatus answer; `requests` is set once it is.
    """

    def __init__(self, readiness: Readiness, started_at: dt.datetime) -> None:
        self.requests: Requests | None = None
        self._readiness = readiness
        self._started_at = started_at

    def _ready(self) -> Requests:
        self._readiness.require()
        if self.requests is None:
            raise Unavailable("the orchestrator is starting")
        return self.requests

    async def Deliberate(self, request: pb.DeliberateRequest, context: Any) -> pb.DeliberateResponse:
        requests = self._ready()
        request_id = ids.check_id("request_id", request.request_id) if request.request_id else new_request_id()
        task = adhoc_task(
            request_id,
            request.role,
            request.title,
            request.description,
            request.requirements,
            request.acceptance,
            request.protocol,
        )
        state = await requests.deliberate(request_id, task, request.timeout_seconds)
        return pb.DeliberateResponse(deliberation_id=state.deliberation_id, state=state.status)

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
        found = await requests.deliberations(
            lambda state: (
                (not request.state or state.status == request.state)
                and (not request.plan_id or state.plan_id == request.plan_id)
            )
        )
        shown, token = page(found, request.page_size, request.page_token)
        return pb.ListDeliberationsResponse(
            deliberations=[deliberation_message(state) for state in shown], next_page_token=token
        )

    async def GetPlanProgress(self, request: pb.GetPlanProgressRequest, context: Any) -> pb.GetPlanProgressResponse:
        requests = self._ready()
        return plan_message(await requests.plan(request.plan_id))

    async def CreateCouncil(self, request: pb.CreateCouncilRequest, context: Any) -> pb.CreateCouncilResponse:
        requests = self._ready()
        council = councils.make(request.role, request.agents, request.quorum, request.protocol)
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
        if self._readiness.ready and self.requests is not None:
            requests = self.requests
            status.running_deliberations = len(await requests.running())
            status.running_plans = await requests.running_plans()
            status.councils = len(await requests.councils())
        return status


def deliberation_message(state: Deliberation) -> pb.Deliberation:
    return pb.Deliberation(
        deliberation_id=state.deliberation_id,
        plan_id=state.plan_id,
        story_id=state.story_id,
        task_id=state.task.task_id,
        role=state.task.role,
        protocol=state.protocol,
        state=state.status,
        seats=[
            pb.Seat(
                agent_id=seat.agent_id,
                job_id=seat.job_id,
                state=seat_word(state, seat),
                error=f"{seat.error.kind}: {seat.error.message}" if seat.error else "",
            )
            for seat in state.seats
        ],
        created_at=timestamp(state.created_at),
        deadline=timestamp(state.deadline),
        ended_at=timestamp(state.closed_at),
        decision_id=state.decision_id,
        reason=state.reason or "",
        title=state.task.title,
        quorum=state.quorum,
    )


def plan_message(plan: Plan) -> pb.GetPlanProgressResponse:
    return pb.GetPlanProgressResponse(
        plan_id=plan.plan_id,
        story_id=plan.story_id,
        state=plan.status,
        tasks=[
            pb.TaskProgress(
                task_id=task.task.task_id,
                title=task.task.title,
                role=task.task.role,
                depends_on=task.task.depends_on,
                state=task.status,
                deliberation_id=rules.deliberation_of(plan, task) if task.status not in ("waiting", "skipped") else "",
                decision_id=ids.decision_id(rules.deliberation_of(plan, task)) if task.status == "decided" else "",
                reason=task.reason,
            )
            for task in plan.tasks
        ],
        started_at=timestamp(plan.started_at),
        ended_at=timestamp(plan.ended_at),
    )


def council_message(council: Council, running: list[Deliberation]) -> pb.Council:
    """The council with what each agent does now, read off the deliberations that run."""
    busy: dict[str, list[str]] = {}
    for state in running:
        for seat in state.seats:
            if seat_word(state, seat) == "running":
                busy.setdefault(seat.agent_id, []).append(state.deliberation_id)
    return pb.Council(
        role=council.role,
        quorum=council.needed(),
        protocol=council.protocol,
        agents=[
            pb.Agent(
                agent_id=agent,
                state="running" if agent in busy else "idle",
                deliberation_ids=busy.get(agent, []),
            )
            for agent in council.agents
        ],
    )
