"""The read API and the admin call, over HTTP. Everything but the admin call only reads."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from fleet import planfile
from fleet.monitoring import admin
from fleet.monitoring.hub import Hub
from fleet.monitoring.views import Views
from fleet_wire.gen.planning.v1 import planning_pb2_grpc
from fleet_wire.rpc import Readiness

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; font-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'; "
        "base-uri 'self'; form-action 'none'"
    ),
}
"""On every answer. The page loads nothing but its own; what NiceGUI writes into it needs the two `unsafe` words."""


def create(
    views: Views,
    hub: Hub,
    readiness: Readiness,
    planning: "planning_pb2_grpc.PlanningServiceAsyncStub",
    token: SecretStr | None,
) -> FastAPI:
    """The application. The interactive docs are off: they would load their scripts from the internet."""
    app = FastAPI(title="SWE AI Fleet monitoring", docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(admin.Refused)
    async def refused(request: Request, error: admin.Refused) -> JSONResponse:
        body: dict[str, Any] = {"error": str(error)}
        if error.status == 404:
            body["test_cases"] = list(planfile.TEST_CASES)
        return JSONResponse(body, error.status, {"WWW-Authenticate": "Bearer"} if error.status == 401 else None)

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """The process lives; `watchers` is how many pages are open."""
        return {"alive": True, "watchers": len(hub)}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 while every stream is followed live, else 503 with the reason."""
        ready = readiness.ready
        return JSONResponse({"ready": ready, "reason": readiness.reason or None}, 200 if ready else 503)

    @app.get("/api/status")
    async def status() -> dict[str, Any]:
        return views.status()

    @app.get("/api/councils")
    async def councils() -> dict[str, Any]:
        return views.data("councils")

    @app.get("/api/jobs")
    async def jobs() -> dict[str, Any]:
        return views.data("jobs")

    @app.get("/api/cluster")
    async def cluster() -> dict[str, Any]:
        return views.data("cluster")

    @app.get("/api/deliberations")
    async def deliberations(limit: Annotated[int, Query(ge=1, le=500)] = 100) -> dict[str, Any]:
        return views.deliberations(limit)

    @app.get("/api/deliberations/{deliberation_id}")
    async def deliberation(deliberation_id: str) -> JSONResponse:
        found = views.deliberation(deliberation_id)
        if found is None:
            known = f"no event of deliberation {deliberation_id[:64]!r} was seen, or it is no longer kept"
            return JSONResponse({"error": known, "source": views.feed()}, 404)
        return JSONResponse(found)

    @app.get("/api/events")
    async def events(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        return views.events(limit)

    @app.post("/api/admin/test-cases/execute", status_code=202)
    async def execute(test_case: str = "", authorization: Annotated[str | None, Header()] = None) -> dict[str, str]:
        """Submits and approves a test case. The token is looked at first."""
        admin.authorize(token, authorization)
        story_id, plan_id = await admin.execute(planning, test_case)
        return {"story_id": story_id, "plan_id": plan_id}

    return app
