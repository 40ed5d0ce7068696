"""planning.v1.PlanningService: protos in, handlers, protos out. Errors become statuses in fleet_wire.rpc."""

from typing import Any

import grpc

from fleet.planmessages import budget_message, budget_of, task_message, task_of
from fleet.planning import handlers, transitions
from fleet.planning.domain import Plan, PlanSummary, Story, StoryWithPlans, Transitioned
from fleet_wire.gen.planning.v1 import planning_pb2 as pb
from fleet_wire.gen.planning.v1 import planning_pb2_grpc as pb_grpc
from fleet_wire.rpc import Readiness, timestamp

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["PlanningService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class PlanningServicer(pb_grpc.PlanningServiceServicer):
    """Every call is UNAVAILABLE, with the reason, until the service is ready."""

    def __init__(self, ports: handlers.Ports, readiness: Readiness) -> None:
        self._ports = ports
        self._readiness = readiness

    async def CreateStory(self, request: pb.CreateStoryRequest, context: Context) -> pb.CreateStoryResponse:
        self._readiness.require()
        story = await handlers.create_story(
            self._ports,
            request.request_id,
            request.title,
            request.brief,
            list(request.acceptance),
            request.phase,
            request.actor,
        )
        return pb.CreateStoryResponse(story=_story_with_plans(story))

    async def GetStory(self, request: pb.GetStoryRequest, context: Context) -> pb.GetStoryResponse:
        self._readiness.require()
        return pb.GetStoryResponse(story=_story_with_plans(await handlers.get_story(self._ports, request.story_id)))

    async def ListStories(self, request: pb.ListStoriesRequest, context: Context) -> pb.ListStoriesResponse:
        self._readiness.require()
        page, token = await handlers.list_stories(
            self._ports, request.page_size, request.page_token, request.plan_state, request.state
        )
        return pb.ListStoriesResponse(stories=map(_story_with_plans, page), next_page_token=token)

    async def TransitionStory(self, request: pb.TransitionStoryRequest, context: Context) -> pb.TransitionStoryResponse:
        self._readiness.require()
        story = await handlers.transition_story(
            self._ports, request.request_id, request.story_id, request.event, request.actor, request.reason
        )
        return pb.TransitionStoryResponse(story=_story_with_plans(story))

    async def ProposePlan(self, request: pb.ProposePlanRequest, context: Context) -> pb.ProposePlanResponse:
        self._readiness.require()
        plan = await handlers.propose_plan(
            self._ports,
            request.request_id,
            request.story_id,
            list(request.roles),
            list(map(task_of, request.tasks)),
            budget_of(request.budget),
        )
        return pb.ProposePlanResponse(plan=_plan(plan))

    async def GetPlan(self, request: pb.GetPlanRequest, context: Context) -> pb.GetPlanResponse:
        self._readiness.require()
        plan = await handlers.get_plan(self._ports, request.plan_id)
        return pb.GetPlanResponse(plan=_plan(plan), story=_story(plan.story))

    async def ApprovePlan(self, request: pb.ApprovePlanRequest, context: Context) -> pb.ApprovePlanResponse:
        self._readiness.require()
        plan = await handlers.approve_plan(self._ports, request.plan_id, request.approved_by)
        return pb.ApprovePlanResponse(plan=_plan(plan))

    async def RejectPlan(self, request: pb.RejectPlanRequest, context: Context) -> pb.RejectPlanResponse:
        self._readiness.require()
        plan = await handlers.reject_plan(self._ports, request.plan_id, request.rejected_by, request.reason)
        return pb.RejectPlanResponse(plan=_plan(plan))


def _story(story: Story) -> pb.Story:
    return pb.Story(
        story_id=story.story_id,
        title=story.title,
        brief=story.brief,
        acceptance=story.acceptance,
        phase=story.phase,
        created_at=timestamp(story.created_at),
        state=story.state,
        version=story.version,
        allowed_events=[row.event for row in transitions.allowed(story.state)],
    )


def _story_with_plans(item: StoryWithPlans) -> pb.Story:
    story = _story(item.story)
    story.plans.extend(map(_summary, item.plans))
    story.transitions.extend(map(_transition, item.transitions))
    return story


def _transition(record: Transitioned) -> pb.StoryTransition:
    return pb.StoryTransition(
        version=record.version,
        event=record.event,
        from_state=record.from_state,
        to_state=record.to_state,
        actor=record.actor,
        reason=record.reason,
        transitioned_at=timestamp(record.transitioned_at),
    )


def _summary(plan: PlanSummary) -> pb.PlanSummary:
    return pb.PlanSummary(
        plan_id=plan.plan_id, plan_version=plan.version, state=plan.state, proposed_at=timestamp(plan.proposed_at)
    )


def _plan(plan: Plan) -> pb.Plan:
    return pb.Plan(
        plan_id=plan.plan_id,
        story_id=plan.story.story_id,
        plan_version=plan.version,
        state=plan.state,
        roles=plan.roles,
        tasks=map(task_message, plan.tasks),
        budget=budget_message(plan.budget, pb.Budget),
        proposed_at=timestamp(plan.proposed_at),
        decided_by=plan.decided_by,
        decided_at=timestamp(plan.decided_at),
        reject_reason=plan.reject_reason,
        superseded_by=plan.superseded_by,
        completed_at=timestamp(plan.completed_at),
    )
