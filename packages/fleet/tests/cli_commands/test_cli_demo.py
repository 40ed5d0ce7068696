"""The demo against small servers and a real NATS: it passes only when every step was there, and names the one that was not.

What the servers do when a plan is approved is a script of the eight steps, from which a test leaves one out.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import clievents
import cliservers
import pytest
import pytest_asyncio

from fleet import planfile
from fleet.cli import demo
from fleet.cli.addresses import Addresses
from fleet.cli.screen import LineScreen, plain
from fleet.cli.stack import StackView
from fleet_wire import events, ids
from fleet_wire.bus import Bus
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.gen.planning.v1 import planning_pb2
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2

PLAN = planfile.parse(
    "story: {title: t, brief: b}\ntasks: [{task_id: one, title: One, description: d, role: DEV}]", "test"
)


class Dashboard:
    """GET /api/deliberations/{id} over plain HTTP; `shown` maps the id to its decision."""

    def __init__(self) -> None:
        self.shown: dict[str, str] = {}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        name = path.removeprefix("/api/deliberations/")
        status, body = "404 Not Found", b"{}"
        if name in self.shown:
            status = "200 OK"
            body = json.dumps({"deliberation_id": name, "decision_id": self.shown[name]}).encode()
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


class Parts:
    """The parts of one demo; `left_out` names the step that does not happen."""

    def __init__(self, services: cliservers.Services, bus: Bus, dashboard: Dashboard, stack: StackView) -> None:
        self.services = services
        self.bus = bus
        self.dashboard = dashboard
        self.stack = stack
        self.left_out = ""
        self.fails = False
        self.lines: list[str] = []
        services.planning.approved = self.approved

    async def run(self, seconds: float = 20, as_json: bool = False) -> int:
        screen = LineScreen(lambda kind, values: self.lines.append(plain(kind, values)))
        return await demo._run(PLAN, self.stack, screen, seconds, as_json)

    async def approved(self, plan: planning_pb2.Plan) -> None:
        name = ids.deliberation_id(plan.plan_id, "one", 1)
        decision_id = ids.decision_id(name)
        if self.left_out != "approved":
            task = events.PlanTask(task_id="one", title="One", description="d", role="DEV")
            await self.bus.publish(
                events.PlanApproved(
                    story_id=plan.story_id,
                    story=events.StoryText(title="t", brief="b"),
                    plan_id=plan.plan_id,
                    plan_version=1,
                    approved_by="x",
                    approved_at=clievents.NOW,
                    tasks=[task],
                )
            )
        await self.bus.publish(clievents.started(name, plan.plan_id))
        if self.fails:
            await self.bus.publish(clievents.failed(name, plan.plan_id))
            return
        if self.left_out != "submitted":
            actor = "" if self.left_out == "running" else "VLLMAgentJob-0"
            jobs = [ray_executor_pb2.JobStatus(agent_id=agent, actor=actor) for agent in clievents.AGENTS]
            for job in jobs:
                job.accepted_at.GetCurrentTime()
            self.services.executor.jobs[name] = jobs
        await self.bus.publish_core(clievents.chunk(name, 0, "def way"))
        if self.left_out != "answered":
            await self.bus.publish(
                events.AgentResult(
                    job_id=f"job-{name}"[:64],
                    deliberation_id=name,
                    task_id="one",
                    agent_id=clievents.AGENTS[0],
                    role="DEV",
                    phase="propose",
                    attempt=1,
                    status="completed",
                )
            )
        await self.bus.publish(clievents.completed(name, plan.plan_id))
        if self.left_out != "remembered":
            await self.bus.publish(clievents.updated(name, plan.plan_id))
        if self.left_out != "graph":
            decision = context_pb2.Decision(
                decision_id=decision_id, deliberation_id=name, winner=clievents.AGENTS[0], score=1.5
            )
            proposals = [
                context_pb2.Proposal(
                    agent_id=agent, rank=rank, score=2 - rank / 2, content=f"def way{rank}():\n\x1b[2J"
                )
                for rank, agent in enumerate(clievents.AGENTS, 1)
            ]
            answer = context_pb2.ExplainDecisionResponse(decision=decision, proposals=proposals)
            self.services.context.decisions[decision_id] = answer
        if self.left_out != "shown":
            self.dashboard.shown[name] = decision_id


@pytest_asyncio.fixture
async def parts(services: cliservers.Services, bus: Bus) -> AsyncIterator[Parts]:
    dashboard = Dashboard()
    server = await asyncio.start_server(dashboard.answer, "127.0.0.1", 0)
    values = {name.lower(): value for name, value in services.env.items()}
    addresses = Addresses.model_validate({**values, "monitoring_port": server.sockets[0].getsockname()[1]})
    stack = StackView(addresses, lambda name: Path("logs") / f"{name}.log", asyncio.Event().wait)
    yield Parts(services, bus, dashboard, stack)
    server.close()


async def test_it_passes_when_every_step_was_there_and_shows_the_decision(
    parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await parts.run() == 0
    shown = capsys.readouterr().out
    [plan_id] = parts.services.planning.plans
    for part in (
        ids.decision_id(ids.deliberation_id(plan_id, "one", 1)),
        "agent-DEV-001",
        "1.500",
        "def way2():",
        "␛[2J",
        "8 shown",
        "first token of an agent",
        "all eight steps were observed for 1 task",
    ):
        assert part in shown, part
    assert "\x1b" not in shown
    said = "\n".join(parts.lines)
    assert all(f"one: {step}" in said for step in ("approved", "started", "submitted", "running", "decided", "shown"))


@pytest.mark.parametrize(
    ("left_out", "named"),
    [
        ("approved", "step 1, approved, is missing for task one: not observed"),
        ("submitted", "step 3, submitted, is missing for task one"),
        ("running", "step 4, running, is missing for task one"),
        ("answered", "step 5, answered, is missing for task one"),
        ("remembered", "step 7, remembered, is missing for task one"),
        ("graph", "the decision could not be read from the graph; last answer: there is no decision"),
        ("shown", "answers with status 404 (within 2 s); read the log of monitoring: logs/monitoring.log"),
    ],
)
async def test_a_step_that_is_missing_is_named_with_its_log(
    parts: Parts, capsys: pytest.CaptureFixture[str], left_out: str, named: str
) -> None:
    parts.left_out = left_out
    assert await parts.run(seconds=2) == 1
    captured = capsys.readouterr()
    assert named in captured.err, captured.err
    assert len(captured.err.splitlines()) == 1 and "all eight steps" not in captured.out


async def test_a_failed_deliberation_ends_it_at_once_with_the_reason(
    parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.fails = True
    assert await asyncio.wait_for(parts.run(seconds=60), 10) == 1
    assert "failed: quorum_missed; 0 of 2 answered" in capsys.readouterr().err


async def test_the_last_line_of_json_is_the_summary(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    parts.left_out = "shown"
    assert await parts.run(seconds=2, as_json=True) == 1
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["kind"] == "summary" and summary["complete"] is False
    [task] = summary["tasks"]
    assert task["decision_id"].startswith("dec-") and task["seconds"]["shown"] is None
    assert [proposal["rank"] for proposal in task["proposals"]] == [1, 2]
    assert summary["missing"][0]["step"] == "shown" and summary["missing"][0]["log"] == "logs/monitoring.log"


async def test_an_unknown_test_case_is_usage(fleet: cliservers.Fleet) -> None:
    result = await fleet("demo", "--test-case", "none")
    assert result.exit_code == 2 and "there are basic, medium, complex" in result.stderr
