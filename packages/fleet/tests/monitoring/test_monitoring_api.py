"""The read API and the admin call, with real peers that come and go."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import httpx
import monitoring_kit as kit
import pytest
import realparts
import valkey.asyncio as valkey

from fleet.bolt import Graph
from fleet.context.server import ContextService
from fleet.monitoring import api, peers
from fleet.monitoring.board import Board
from fleet.monitoring.domain import Seen
from fleet.monitoring.hub import Hub
from fleet.monitoring.settings import MonitoringSettings
from fleet.monitoring.sources import Sources
from fleet.monitoring.views import Views
from fleet.monitoring.watch import Watch
from fleet.planfile import TEST_CASES, load_test_case
from fleet.planning.server import PlanningServicer
from fleet_wire import clock, rpc
from fleet_wire.bus import Bus
from fleet_wire.gen.context.v1 import context_pb2_grpc
from fleet_wire.gen.planning.v1 import planning_pb2_grpc
from fleet_wire.rpc import Readiness

TOKEN = "only-for-tests-5f1c"


class Dash:
    """The dashboard without its page and its loops: the test asks the sources when it wants to."""

    def __init__(self, settings: MonitoringSettings, bus: Bus | None = None) -> None:
        self.offset = dt.timedelta()
        self.board = Board()
        self.readiness = Readiness("feed")
        self.peers = peers.Peers(settings)
        self.graph = Graph(settings)
        self.cache = valkey.from_url(settings.valkey_url, socket_timeout=2, socket_connect_timeout=2)
        self.sources = Sources(
            peers.probes(settings, self.peers, lambda: bus, self.graph, self.cache), lambda: clock.now() + self.offset
        )
        views = Views(self.board, self.sources, self.readiness, "0.0.0")
        app = api.create(views, Hub(), self.readiness, self.peers.planning, settings.fleet_admin_token)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dashboard")

    async def get(self, path: str, status: int = 200) -> Any:
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def part(self, name: str) -> dict[str, Any]:
        status = await self.get("/api/status")
        [found] = [one for one in status["services"] + status["infrastructure"] if one["name"] == name]
        return dict(found)

    async def close(self) -> None:
        await self.http.aclose()
        await self.peers.close()
        await self.graph.close()
        await self.cache.aclose()


@contextlib.asynccontextmanager
async def dash(bus: Bus | None = None, **settings: Any) -> AsyncIterator[Dash]:
    dead = f"127.0.0.1:{realparts.free_port()}"
    addresses = dict.fromkeys(
        ("planning_address", "orchestrator_address", "context_address", "ray_executor_address"), dead
    )
    nowhere = {"neo4j_uri": f"bolt://{dead}", "neo4j_password": "x", "valkey_url": f"valkey://{dead}"}
    made = Dash(MonitoringSettings.model_validate({**nowhere, **addresses, **settings}), bus)
    try:
        yield made
    finally:
        await made.close()


def stub_event(board: Board, *events: Any) -> None:
    for number, event in enumerate(events):
        board.apply(Seen("S", number + 1, event.subject(), kit.at(number), kit.at(9), event))


async def test_it_lives_before_it_is_ready_and_says_what_it_lacks() -> None:
    async with dash() as it:
        assert (await it.get("/healthz"))["alive"]
        assert await it.get("/readyz", 503) == {"ready": False, "reason": "feed: not checked yet"}
        assert (await it.part("monitoring"))["state"] == "not_ready"
        it.readiness.report("feed", None)
        assert (await it.get("/readyz"))["ready"]
        assert (await it.part("monitoring"))["state"] == "ready"


async def test_a_source_never_reached_is_unreachable_and_its_value_unknown() -> None:
    async with dash() as it:
        for name in ("councils", "jobs", "cluster"):
            await it.sources.poll(name)
            answer = await it.get(f"/api/{name}")
            assert answer[name] is None
            assert answer["source"]["state"] == "unreachable"
            assert "does not answer" in answer["source"]["error"]
            assert answer["source"]["age_seconds"] is None


async def test_a_source_that_goes_away_is_shown_with_its_last_answer_the_error_and_a_growing_age() -> None:
    port = realparts.free_port()
    async with dash(orchestrator_address=f"127.0.0.1:{port}") as it:
        async with kit.serving(kit.Orchestrator(), port):
            await it.sources.poll("councils")
            await it.sources.poll("orchestrator")
            answer = await it.get("/api/councils")
            assert answer["councils"][0]["agents"] == [
                {"agent_id": kit.AGENTS[0], "state": "running", "deliberation_ids": ["d1"]}
            ]
            assert answer["source"]["state"] == "ok"
            part = await it.part("orchestrator")
            assert (part["state"], part["version"], part["reason"]) == ("ready", "1.2.3", None)
        it.offset = dt.timedelta(seconds=40)
        await it.sources.poll("councils")
        await it.sources.poll("orchestrator")
        answer = await it.get("/api/councils")
        assert answer["councils"][0]["role"] == "DEV"
        assert answer["source"]["state"] == "unreachable"
        assert 40 <= answer["source"]["age_seconds"] < 60
        part = await it.part("orchestrator")
        assert part["state"] == "unreachable"
        assert 40 <= part["age_seconds"] < 60
        async with kit.serving(kit.Orchestrator(), port):
            async with asyncio.timeout(20):
                while not (await it.sources.poll("councils")).ok:  # noqa: ASYNC110 (the channel reconnects by itself)
                    await asyncio.sleep(0.1)
            answer = await it.get("/api/councils")
            assert answer["source"]["state"] == "ok"
            assert answer["source"]["age_seconds"] < 5


async def test_a_service_that_is_not_ready_says_why() -> None:
    peer = kit.Orchestrator()
    peer.ready = False
    async with kit.serving(peer) as port, dash(orchestrator_address=f"127.0.0.1:{port}") as it:
        await it.sources.poll("orchestrator")
        part = await it.part("orchestrator")
        assert (part["state"], part["reason"]) == ("not_ready", "no NATS")


async def test_a_service_with_health_alone_is_asked_by_it() -> None:
    async with kit.serving(kit.Planning()) as port, dash(planning_address=f"127.0.0.1:{port}") as it:
        await it.sources.poll("planning")
        part = await it.part("planning")
        assert (part["state"], part["version"]) == ("ready", None)


async def test_a_service_without_a_status_says_why_it_is_not_ready_in_its_answers() -> None:
    lacks = Readiness("graph")
    lacks.report("graph", "wrong password")

    def add(server: Any) -> None:
        servicer = PlanningServicer(None, lacks)  # type: ignore[arg-type] # no call gets as far as its ports
        planning_pb2_grpc.add_PlanningServiceServicer_to_server(servicer, server)
        memory = ContextService(lacks, None, None, None, None, {}, None)  # type: ignore[arg-type]
        context_pb2_grpc.add_ContextServiceServicer_to_server(memory, server)

    async with rpc.server("127.0.0.1:0", add, [], lacks) as port:
        at = f"127.0.0.1:{port}"
        async with dash(planning_address=at, context_address=at) as it:
            for name in ("planning", "context"):
                await it.sources.poll(name)
                part = await it.part(name)
                assert (part["state"], part["reason"]) == ("not_ready", "graph: wrong password")


async def test_jobs_and_cluster_are_what_the_executor_says_and_what_it_does_not_say_is_null() -> None:
    async with kit.serving(kit.Executor()) as port, dash(ray_executor_address=f"127.0.0.1:{port}") as it:
        for name in ("jobs", "cluster"):
            await it.sources.poll(name)
        [job] = (await it.get("/api/jobs"))["jobs"]
        assert (job["job_id"], job["actor"], job["accepted_at"]) == (
            "job-d1",
            "VLLMAgentJob-0",
            "2026-01-02T03:04:05.000Z",
        )
        cluster = (await it.get("/api/cluster"))["cluster"]
        assert cluster["cpus"] == {"used": 1, "total": 2}
        assert cluster["gpus"] is None
        assert (await it.part("ray"))["version"] == "2.49.2"


async def test_infrastructure_is_asked_in_its_own_protocol(
    bus: Bus, graph: realparts.GraphServer, valkey_url: str
) -> None:
    given = {name.lower(): value for name, value in graph.env().items()}
    async with dash(bus, valkey_url=valkey_url, **given) as it:
        for name in ("nats", "graph", "valkey"):
            await it.sources.poll(name)
            part = await it.part(name)
            assert (part["state"], part["reason"]) == ("ready", None), part
            assert part["version"]


async def test_infrastructure_that_is_away_is_unreachable() -> None:
    async with dash(vllm_url=f"http://127.0.0.1:{realparts.free_port()}/v1") as it:
        for name in ("nats", "graph", "valkey", "model"):
            await it.sources.poll(name)
            part = await it.part(name)
            assert (part["state"], part["age_seconds"], part["version"]) == ("unreachable", None, None), part
            assert part["reason"]


async def test_a_wrong_graph_password_is_not_called_ready(graph: realparts.GraphServer) -> None:
    async with dash(neo4j_uri=graph.uri, neo4j_user=graph.user, neo4j_password="wrong") as it:
        await it.sources.poll("graph")
        assert (await it.part("graph"))["state"] == "unreachable"


async def test_a_password_in_an_address_is_not_shown() -> None:
    async with dash(valkey_url="valkey://user:topsecret@127.0.0.1:1", nats_url="nats://u:topsecret@127.0.0.1:1") as it:
        assert "topsecret" not in (await it.http.get("/api/status")).text


async def test_a_deliberation_is_told_whole_and_an_unknown_one_is_404() -> None:
    async with dash() as it:
        stub_event(it.board, kit.approved(), kit.started(), kit.completed(), kit.remembered())
        one = await it.get("/api/deliberations/d1")
        assert [step["name"] for step in one["steps"] if step["at"]] == [
            "approved", "started", "decided", "remembered", "shown",
        ]  # fmt: skip
        assert (one["decision_id"], one["winner"], one["source"]["state"]) == ("dec-d1", kit.AGENTS[0], "unreachable")
        listed = await it.get("/api/deliberations")
        assert (listed["known"], listed["deliberations"][0]["deliberation_id"]) == (1, "d1")
        assert "error" in await it.get("/api/deliberations/nope", 404)


async def test_events_come_newest_first_within_their_limit() -> None:
    async with dash() as it:
        stub_event(it.board, kit.approved(), kit.started(), kit.remembered())
        answer = await it.get("/api/events?limit=2")
        assert [one["type"] for one in answer["events"]] == ["context.updated", "orchestration.deliberation.started"]
        for bad in ("0", "1001", "x"):
            await it.get(f"/api/events?limit={bad}", 422)


async def test_submitted_and_running_are_filled_in_from_the_executor_once() -> None:
    peer = kit.Executor()
    async with kit.serving(peer) as port, dash(ray_executor_address=f"127.0.0.1:{port}") as it:
        stub_event(it.board, kit.started())
        published: list[Any] = []
        watch = Watch(it.board, it.peers.jobs_of, published.append)
        peer.actor = ""
        await watch.round()
        steps = {step["name"]: step["at"] for step in (await it.get("/api/deliberations/d1"))["steps"]}
        assert (steps["submitted"], steps["running"]) == ("2026-01-02T03:04:05.000Z", None)
        peer.actor = "VLLMAgentJob-0"
        await watch.round()
        steps = {step["name"]: step["at"] for step in (await it.get("/api/deliberations/d1"))["steps"]}
        assert steps["running"] == "2026-01-02T03:04:05.000Z"
        assert len(published) == 2
        await watch.round()
        assert peer.asked == ["d1", "d1"]


async def test_an_executor_that_is_away_uses_up_no_try() -> None:
    port = realparts.free_port()
    async with dash(ray_executor_address=f"127.0.0.1:{port}") as it:
        stub_event(it.board, kit.started(), kit.completed())
        watch = Watch(it.board, it.peers.jobs_of, lambda change: None)
        for _ in range(5):
            await watch.round()
        peer = kit.Executor()
        async with kit.serving(peer, port):
            async with asyncio.timeout(20):
                while not peer.asked:
                    await watch.round()
                    await asyncio.sleep(0.1)
        one = it.board.get("d1")
        assert one is not None
        assert "running" in one.steps


async def test_the_admin_call_is_off_without_a_token_in_the_settings() -> None:
    async with dash() as it:
        answer = await it.http.post("/api/admin/test-cases/execute?test_case=basic")
        assert answer.status_code == 403
        assert "FLEET_ADMIN_TOKEN" in answer.json()["error"]


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer \xe9"]
)
async def test_the_admin_call_needs_the_token(header: str | None) -> None:
    peer = kit.Planning()
    async with kit.serving(peer) as port, dash(planning_address=f"127.0.0.1:{port}", fleet_admin_token=TOKEN) as it:
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        for case in ("basic", "nope"):
            answer = await it.http.post(f"/api/admin/test-cases/execute?test_case={case}", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert not peer.stories


async def test_an_unknown_test_case_is_404_and_lists_the_names() -> None:
    async with dash(fleet_admin_token=TOKEN) as it:
        for query in ("?test_case=nope", ""):
            answer = await it.http.post(
                f"/api/admin/test-cases/execute{query}", headers={"Authorization": f"Bearer {TOKEN}"}
            )
            assert answer.status_code == 404
            assert answer.json()["test_cases"] == list(TEST_CASES)


@pytest.mark.parametrize("name", TEST_CASES)
async def test_a_test_case_is_submitted_and_approved(name: str) -> None:
    peer = kit.Planning()
    async with kit.serving(peer) as port, dash(planning_address=f"127.0.0.1:{port}", fleet_admin_token=TOKEN) as it:
        url = f"/api/admin/test-cases/execute?test_case={name}"
        for number in (1, 2):
            answer = await it.http.post(url, headers={"Authorization": f"Bearer {TOKEN}"})
            assert (answer.status_code, answer.json()) == (
                202,
                {"story_id": f"story-{number}", "plan_id": f"plan-{number}"},
            )
        assert peer.stories[0].title == load_test_case(name).story.title
        assert peer.stories[0].request_id != peer.stories[1].request_id
        assert [(one.plan_id, one.approved_by) for one in peer.approved] == [("plan-1", "admin"), ("plan-2", "admin")]


async def test_without_planning_the_admin_call_is_503_with_the_reason() -> None:
    async with dash(fleet_admin_token=TOKEN) as it:
        answer = await it.http.post(
            "/api/admin/test-cases/execute?test_case=basic", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        assert answer.status_code == 503
        assert "planning does not answer" in answer.json()["error"]


async def test_only_the_admin_call_takes_anything_but_get() -> None:
    async with dash() as it:
        paths = (await it.get("/openapi.json"))["paths"]
        other = {path for path, methods in paths.items() if set(methods) != {"get"}}
        assert other == {"/api/admin/test-cases/execute"}


async def test_no_other_site_may_read_and_no_page_may_frame() -> None:
    async with dash() as it:
        answer = await it.http.get("/api/status", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert (await it.http.get("/docs")).status_code == 404
