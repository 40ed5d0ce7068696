"""The one call that changes anything: runs a test case, for whoever has the token."""

import secrets
import uuid

import structlog
from pydantic import SecretStr

from fleet import planfile
from fleet_wire.errors import FleetError, NotFound, Unavailable
from fleet_wire.gen.planning.v1 import planning_pb2, planning_pb2_grpc
from fleet_wire.rpc import call

log = structlog.get_logger(__name__)

ACTOR = "admin"
APPROVE_SECONDS = 10.0


class Refused(Exception):
    """An answer other than success: an HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def authorize(token: SecretStr | None, header: str | None) -> None:
    """Raises Refused unless the Authorization header carries the token. Takes the same time for every wrong one."""
    if token is None:
        raise Refused(
            403, "the admin call is switched off: set FLEET_ADMIN_TOKEN (or FLEET_ADMIN_TOKEN_FILE) to use it"
        )
    scheme, _, given = (header or "").partition(" ")
    expected = token.get_secret_value().encode()
    if not secrets.compare_digest(given.strip().encode(), expected) or scheme.lower() != "bearer":
        raise Refused(401, "this call needs the header `Authorization: Bearer <FLEET_ADMIN_TOKEN>`")


async def execute(planning: "planning_pb2_grpc.PlanningServiceAsyncStub", name: str) -> tuple[str, str]:
    """Submits a test case and approves its plan; answers with (story_id, plan_id). Every call makes a new story.

    Raises Refused with 404 for an unknown name, 503 while planning is away, 502 where planning says no.
    """
    try:
        case = planfile.load_test_case(name)
    except NotFound as error:
        raise Refused(404, str(error)) from error
    try:
        story_id, plan_id = await planfile.submit(planning, case, f"admin-{uuid.uuid4().hex}", ACTOR)
        request = planning_pb2.ApprovePlanRequest(plan_id=plan_id, approved_by=ACTOR)
        await call(planning.ApprovePlan(request, timeout=APPROVE_SECONDS), "planning")
    except Unavailable as error:
        raise Refused(503, str(error)) from error
    except FleetError as error:
        raise Refused(502, f"planning refused the test case {name}: {error}") from error
    log.info("test case approved", test_case=name, story_id=story_id, plan_id=plan_id)
    return story_id, plan_id
