"""Why a service is not ready that has no GetStatus: until it is, it answers every call with UNAVAILABLE and the reason."""

import grpc

from fleet_wire.gen.context.v1 import context_pb2, context_pb2_grpc
from fleet_wire.gen.planning.v1 import planning_pb2, planning_pb2_grpc


async def why_not_ready(service: str, channel: grpc.aio.Channel, seconds: float) -> str:
    """What planning or context says it lacks; empty where it answers by now."""
    try:
        if service == "planning":
            stories = planning_pb2.ListStoriesRequest(page_size=1)
            await planning_pb2_grpc.PlanningServiceStub(channel).ListStories(stories, timeout=seconds)
        else:
            decisions = context_pb2.SearchDecisionsRequest(page_size=1)
            await context_pb2_grpc.ContextServiceStub(channel).SearchDecisions(decisions, timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return error.details() or error.code().name
    return ""
