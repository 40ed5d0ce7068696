"""What the monitoring tests share: events as the services publish them, gRPC peers, and the dashboard as a process."""

import contextlib
import datetime as dt
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import realparts
from google.protobuf.timestamp_pb2 import Timestamp

from fleet_wire import events, rpc
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as orch
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2_grpc as orch_grpc
from fleet_wire.gen.planning.v1 import planning_pb2 as plan
from fleet_wire.gen.planning.v1 import planning_pb2_grpc as plan_grpc
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as ray
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2_grpc as ray_grpc

T0 = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)
AGENTS = ["agent-DEV-001", "agent-DEV-002", "agent-DEV-003"]


def at(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def approved(plan_id: str = "p1", title: str = "Retry") -> events.PlanApproved:
    task = events.PlanTask(task_id="t1", title=title, description="d", role="DEV")
    story = events.StoryText(title="Story", brief="b")
    return events.PlanApproved(
        story_id="s1", story=story, plan_id=plan_id, plan_version=1, approved_by="ann", approved_at=T0, tasks=[task]
    )


def started(key: str = "d1", plan_id: str = "p1") -> events.DeliberationStarted:
    return events.DeliberationStarted(
        deliberation_id=key,
        task_id="t1",
        plan_id=plan_id,
        story_id="s1",
        role="DEV",
        protocol="rank",
        agents=AGENTS,
        deadline=at(600),
    )


def chunk(seq: int, text: str, key: str = "d1", agent: str = AGENTS[0], attempt: int = 1) -> events.TokenChunk:
    job = f"job-{key}-{agent}-1"  # the attempts of one job share its id
    return events.TokenChunk(deliberation_id=key, agent_id=agent, job_id=job, attempt=attempt, seq=seq, text=text)


def result(
    agent: str = AGENTS[0], key: str = "d1", content: str = "the answer", attempt: int = 1, failed: bool = False
) -> events.AgentResult:
    return events.AgentResult(
        job_id=f"job-{key}-{agent}-{attempt}",
        deliberation_id=key,
        task_id="t1",
        agent_id=agent,
        role="DEV",
        phase="propose",
        attempt=attempt,
        status="failed" if failed else "completed",
        content="" if failed else content,
        error=events.JobError(kind="timeout", message="the model is slow", retryable=True) if failed else None,
    )


def job(phase: str, agent: str = AGENTS[0], item: str = "", key: str = "d1", **more: Any) -> events.AgentResult:
    """The result of one job of a phase."""
    values = {"status": "completed", "content": f"text of {phase}", **more}
    return events.AgentResult(
        job_id=f"job-{key}-{agent}-{phase}-{item}",
        deliberation_id=key,
        task_id="t1",
        agent_id=agent,
        role="QA" if "QA" in agent else "DEV",
        phase=phase,
        item=item,
        attempt=1,
        **values,
    )


def judged(key: str = "d1") -> events.DeliberationCompleted:
    """The end of a tournament that auto chose."""
    return msgspec.structs.replace(
        completed(key),
        protocol="tournament",
        numbers={"finalists": 4.0},
        chosen_because="the task is open",
        flips=1,
        verdicts=6,
        skipped=[events.SkippedPhase(phase="rerun", reason="no sandbox on n1")],
        calls=9,
        usage=events.Usage(prompt=900, completion=100, cached=300),
        ranking=[
            msgspec.structs.replace(ranked, revised=ranked.rank == 1, checks=CHECKS)
            for ranked in completed(key).ranking
        ],
    )


CHECKS = [
    events.Check(name="parse", status="passed", score=1.0),
    events.Check(name="lint", status="failed", score=0.5, detail="F401 unused"),
    events.Check(name="dry_run", status="not_run", detail="no sandbox"),
]


def completed(key: str = "d1", plan_id: str = "p1", title: str = "Use a queue") -> events.DeliberationCompleted:
    ranking = [
        events.Ranked(agent_id=agent, rank=number + 1, score=0.9 - number / 10, checks=[], content="c")
        for number, agent in enumerate(AGENTS[:2])
    ]
    return events.DeliberationCompleted(
        deliberation_id=key,
        task_id="t1",
        plan_id=plan_id,
        story_id="s1",
        decision_id=f"dec-{key}",
        role="DEV",
        protocol="rank",
        winner=AGENTS[0],
        decision=events.DecisionText(title=title, content="c", rationale="r"),
        ranking=ranking,
        margin=0.1,
        missing=[events.MissingAgent(agent_id=AGENTS[2], reason="deadline")],
        duration_seconds=2.5,
        decided_at=at(5),
    )


def failed(key: str = "d1") -> events.DeliberationFailed:
    return events.DeliberationFailed(
        deliberation_id=key,
        task_id="t1",
        plan_id="p1",
        story_id="s1",
        role="DEV",
        reason="quorum_missed",
        detail="1 of 2",
        agents=[events.SeatReport(agent_id=AGENTS[0], state="waiting")],
        duration_seconds=3,
        failed_at=at(5),
    )


def remembered(key: str = "d1") -> events.ContextUpdated:
    return events.ContextUpdated(
        story_id="s1", plan_id="p1", deliberation_id=key, changed=[f"dec-{key}"], version=2, hash=f"h-{key}"
    )


def overruled(*flagged: str, superseded: str = "dec-d0", deliberation_id: str = "") -> events.ContextUpdated:
    """A person's ruling: what it supersedes, and what relies on that."""
    return events.ContextUpdated(
        story_id="s1",
        plan_id="p1",
        deliberation_id=deliberation_id,
        changed=["dec-ruling"],
        version=3,
        hash="h-ruling",
        superseded=[superseded],
        flagged=list(flagged),
    )


def stamp(moment: dt.datetime) -> Timestamp:
    value = Timestamp()
    value.FromDatetime(moment)
    return value


class Orchestrator(orch_grpc.OrchestratorServiceServicer):
    """A peer that answers what it is given."""

    def __init__(self) -> None:
        self.ready = True
        agent = orch.Agent(agent_id=AGENTS[0], state="running", deliberation_ids=["d1"])
        self.councils = [orch.Council(role="DEV", protocol="rank", quorum=2, agents=[agent], numbers={"finalists": 4})]

    async def GetStatus(self, request: Any, context: Any) -> orch.GetStatusResponse:
        return orch.GetStatusResponse(ready=self.ready, reason="" if self.ready else "no NATS", version="1.2.3")

    async def ListCouncils(self, request: Any, context: Any) -> orch.ListCouncilsResponse:
        return orch.ListCouncilsResponse(councils=self.councils)


class Executor(ray_grpc.RayExecutorServiceServicer):
    """A peer with one job for each agent of every deliberation it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.accepted_at = T0
        self.actor = "VLLMAgentJob-0"

    def _job(self, key: str, agent: str = AGENTS[0]) -> ray.JobStatus:
        return ray.JobStatus(
            job_id=f"job-{key}",
            deliberation_id=key,
            agent_id=agent,
            role="DEV",
            phase="propose",
            attempt=1,
            status="running",
            accepted_at=stamp(self.accepted_at),
            actor=self.actor,
        )

    async def GetStatus(self, request: Any, context: Any) -> ray.GetStatusResponse:
        return ray.GetStatusResponse(ready=True, version="1.2.3", ray_version="2.49.2")

    async def GetActiveJobs(self, request: Any, context: Any) -> ray.GetActiveJobsResponse:
        return ray.GetActiveJobsResponse(jobs=[self._job("d1")])

    async def GetClusterStats(self, request: Any, context: Any) -> ray.GetClusterStatsResponse:
        node = ray.Node(node_id="n1", address="127.0.0.1", alive=True, sandbox=True, cpus=ray.Amount(used=1, total=2))
        return ray.GetClusterStatsResponse(
            nodes=[node],
            cpus=ray.Amount(used=1, total=2),
            memory_bytes=ray.Amount(used=2**30, total=2**32),
            ray_version="2.49.2",
            python_version="3.9.18",
            pool="pool-1",
            actors=["VLLMAgentJob-0"],
        )

    async def GetDeliberationStatus(self, request: Any, context: Any) -> ray.GetDeliberationStatusResponse:
        self.asked.append(request.deliberation_id)
        key = request.deliberation_id
        jobs = [self._job(key, agent) for agent in AGENTS]
        return ray.GetDeliberationStatusResponse(deliberation_id=key, jobs=jobs)


class Planning(plan_grpc.PlanningServiceServicer):
    """A peer that records what it is told."""

    def __init__(self) -> None:
        self.stories: list[plan.CreateStoryRequest] = []
        self.plans: list[plan.ProposePlanRequest] = []
        self.approved: list[plan.ApprovePlanRequest] = []

    async def CreateStory(self, request: Any, context: Any) -> plan.CreateStoryResponse:
        self.stories.append(request)
        return plan.CreateStoryResponse(story=plan.Story(story_id=f"story-{len(self.stories)}"))

    async def ProposePlan(self, request: Any, context: Any) -> plan.ProposePlanResponse:
        self.plans.append(request)
        return plan.ProposePlanResponse(plan=plan.Plan(plan_id=f"plan-{len(self.plans)}"))

    async def ApprovePlan(self, request: Any, context: Any) -> plan.ApprovePlanResponse:
        self.approved.append(request)
        return plan.ApprovePlanResponse(plan=plan.Plan(plan_id=request.plan_id, state="approved"))


@contextlib.asynccontextmanager
async def serving(servicer: Any, port: int = 0) -> AsyncIterator[int]:
    """Serves a peer, ready, with health; gives its port."""
    add = {
        Orchestrator: orch_grpc.add_OrchestratorServiceServicer_to_server,
        Executor: ray_grpc.add_RayExecutorServiceServicer_to_server,
        Planning: plan_grpc.add_PlanningServiceServicer_to_server,
    }[type(servicer)]
    async with rpc.server(f"127.0.0.1:{port}", lambda server: add(servicer, server), [], rpc.Readiness()) as bound:
        yield bound


@contextlib.contextmanager
def dashboard(directory: Path, **env: str) -> Iterator[tuple[str, realparts.Process]]:
    """The service as a process of its own, on a free port; gives its address once it lives."""
    port = realparts.free_port()
    dead = f"127.0.0.1:{realparts.free_port()}"
    settings = {
        "MONITORING_PORT": str(port),
        "NEO4J_URI": f"bolt://{dead}",
        "NEO4J_PASSWORD": "only-for-tests",
        "VALKEY_URL": f"valkey://{dead}",
        "PLANNING_ADDRESS": dead,
        "ORCHESTRATOR_ADDRESS": dead,
        "CONTEXT_ADDRESS": dead,
        "RAY_EXECUTOR_ADDRESS": dead,
        **env,
    }
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", "from fleet.monitoring.main import main; raise SystemExit(main())"]
    base = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    process = realparts.Process(command, directory / "monitoring.log", lambda: _lives(url), env={**base, **settings})
    with realparts.running(process):
        yield url, process


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
