"""An orchestrator on a real nats-server, its gRPC peers played by values in memory: for rules of state, not of transport.

`Replica` is one process of it: it can be dropped at any moment and another started on the same server.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from fleet.deliberation.prompt import ContextText
from fleet.deliberation.requests import JobRequest
from fleet.deliberation.state import Deliberation
from fleet.orchestrator import main, policies
from fleet.orchestrator.peers import Given, Wanted
from fleet.orchestrator.settings import OrchestratorSettings
from fleet_wire import apply, events, ids
from fleet_wire.bus import Bus, connect
from fleet_wire.errors import Exhausted, NotFound, Unavailable
from fleet_wire.events import AgentResult, Budget, Check, JobError, PlanApproved, PlanTask, StoryText, TestRun
from fleet_wire.rpc import Readiness

Answer = Callable[[Deliberation, JobRequest], AgentResult | None]

COMPLETED = "orchestration.deliberation.completed"
FAILED = "orchestration.deliberation.failed"
PLAN_COMPLETED = "orchestration.plan.completed"
PROGRAM = "def add(a, b):\n    return a + b\n"
TESTS = "def test_sum():\n    assert add(1, 2) == 3\n\n\ndef test_none():\n    assert add(0, 0) == 0\n"
CODE = "Add two numbers.\n\ndef add(a, b):\n"
"""The description of a code task."""


def answers(state: Deliberation, job: JobRequest) -> AgentResult | None:
    """Every agent answers, whatever it is asked; every check and every test passes; a judge prefers what it is shown first."""
    text = {
        "tests": f"```python\n{TESTS}```",
        "critique": "It lacks an error message.",
        "judge": '{"reason": "the first is shorter", "winner": "first"}',
        "dry_run": "",
        "rerun": "",
    }.get(
        job.phase, f"{job.agent_id} has a {job.phase} for {state.task.title}: parse the file\n```python\n{PROGRAM}```"
    )
    asked = 0 if job.dry_run else 1
    return AgentResult(
        job_id=job.job_id,
        deliberation_id=state.deliberation_id,
        task_id=state.task.task_id,
        agent_id=job.agent_id,
        role=job.role,
        phase=job.phase,
        item=job.item,
        attempt=1,
        status="completed",
        content=text,
        checks=[Check(name=name, status="passed", score=1.0) for name in (job.checks.names if job.checks else ())],
        runs=[TestRun(test_id=test_id, status="passed") for test_id, _ in (job.dry_run.tests if job.dry_run else ())],
        calls=asked,
        usage=events.Usage(prompt=10 * asked, completion=5 * asked),
    )


def fails(state: Deliberation, job: JobRequest) -> AgentResult | None:
    """No agent reaches its model."""
    answer = answers(state, job)
    assert answer is not None
    error = JobError(kind="unreachable", message="connection refused", retryable=True)
    return msgspec.structs.replace(answer, status="failed", content="", error=error)


def silent(state: Deliberation, job: JobRequest) -> AgentResult | None:
    """Nobody ever answers."""
    return None


class PlayedExecutor:
    """Accepts all jobs of a call, each id once, and has `answer` answered for each over the real NATS. `away` makes it
    unreachable, `full` one that takes no more, `no_sandbox` says why it runs no code. What is cancelled while it runs ends so,
    and is published, but where `stops` is False: then its answer crosses the cancelling."""

    def __init__(self, bus: Bus, answer: Answer = answers) -> None:
        self.bus = bus
        self.answer = answer
        self.away = False
        self.full = False
        self.no_sandbox = ""
        self.jobs: dict[str, JobRequest] = {}
        self.known: dict[str, dict[str, AgentResult | None]] = {}
        self.states: dict[str, Deliberation] = {}
        self.cancelled: list[str] = []
        self.calls = 0
        self.publishes = True
        self.stops = True

    async def execute(self, state: Deliberation, jobs: Sequence[JobRequest]) -> None:
        self._answering()
        if self.full:
            raise Exhausted("the model has all the calls it takes")
        self.calls += 1
        self.states[state.deliberation_id] = state
        assert state.until is not None
        assert state.until <= state.deadline
        known = self.known.setdefault(state.deliberation_id, {})
        new = [job for job in jobs if job.job_id not in known]
        for job in jobs:
            assert self.jobs.setdefault(job.job_id, job) == job, "a retry must send the same"
        known.update({job.job_id: self.answer(state, job) for job in new})
        if self.publishes:
            # As the executor does, whatever becomes of the caller.
            await asyncio.shield(self._publish([known[job.job_id] for job in new]))

    async def _publish(self, results: Sequence[AgentResult | None]) -> None:
        for result in results:
            if result is not None:
                await self.bus.publish(result)

    async def results(self, deliberation_id: str) -> dict[str, AgentResult | None]:
        self._answering()
        return dict(self.known.get(deliberation_id, {}))

    async def cancel(self, deliberation_id: str) -> None:
        self._answering()
        self.cancelled.append(deliberation_id)
        error = JobError(kind="cancelled", message="cancelled", retryable=False)
        for job_id, result in self.known.get(deliberation_id, {}).items():
            if result is None and self.stops:
                ended = answers(self.states[deliberation_id], self.jobs[job_id])
                assert ended is not None
                ended = msgspec.structs.replace(ended, status="failed", content="", calls=0, error=error)
                self.known[deliberation_id][job_id] = ended
                await self.bus.publish(ended)

    async def sandbox(self) -> str:
        self._answering()
        return self.no_sandbox

    def of_phase(self, phase: str) -> list[JobRequest]:
        """The jobs of a phase that were asked for."""
        return [job for job in self.jobs.values() if job.phase == phase]

    def _answering(self) -> None:
        if self.away:
            raise Unavailable("ray-executor does not answer")


class PlayedMemory:
    """Holds the decisions it is told of; `remember` is what `context.updated` would announce. `superseded_by` names those that
    stand in another's place."""

    def __init__(self) -> None:
        self.decisions: dict[str, str] = {}
        self.superseded_by: dict[str, str] = {}
        self.unknown_tasks = False

    async def context_for(self, wanted: Wanted, token_budget: int) -> Given:
        if self.unknown_tasks:
            raise NotFound(f"plan {wanted.plan_id} has no task {wanted.task_id}")
        if any(decision not in self.decisions for decision in wanted.required):
            raise Unavailable("a required decision is not in the graph")
        standing = [self.superseded_by.get(one, one) for one in wanted.required]
        below = [ContextText(kind="decision", title=one, text=self.decisions[one]) for one in standing]
        task = ContextText(kind="task", title=f"Task {wanted.task_id}", text=f"Do {wanted.task_id}")
        return Given((task, *below), {one: by for one, by in self.superseded_by.items() if one in wanted.required})

    async def has_decision(self, decision_id: str) -> bool:
        return decision_id in self.decisions


class PlayedPlanBook:
    """Planning's list of approved, unfinished plans."""

    def __init__(self) -> None:
        self.plans: list[PlanApproved] = []

    async def approved_plans(self) -> list[str]:
        return [plan.plan_id for plan in self.plans]

    async def plan(self, plan_id: str) -> PlanApproved:
        for plan in self.plans:
            if plan.plan_id == plan_id:
                return plan
        raise NotFound(f"no plan {plan_id}")


class Peers:
    """What all replicas talk to."""

    def __init__(self, bus: Bus) -> None:
        self.executor = PlayedExecutor(bus)
        self.memory = PlayedMemory()
        self.plan_book = PlayedPlanBook()


@contextlib.asynccontextmanager
async def replica(
    url: str,
    peers: Peers,
    *,
    timeout_seconds: float = 60,
    sweep_seconds: float = 0.3,
    broken: Callable[[main.Parts], None] = lambda parts: None,
) -> AsyncIterator[main.Parts]:
    """One orchestrator without its gRPC server, dropped at the end of the block like a crashed one: nothing is finished."""
    settings = OrchestratorSettings(deliberation_timeout_seconds=timeout_seconds, sweep_seconds=sweep_seconds)
    bus = await connect(url, "orchestrator")
    stop = asyncio.Event()
    readiness = Readiness()
    parts = main.assemble(settings, bus, peers.executor, peers.memory, peers.plan_book, policies.load())
    broken(parts)
    work = asyncio.gather(*main.loops(parts, settings, bus, readiness, stop).values())
    try:
        yield parts
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await work
        for driver in (parts.deliberation_driver, parts.plan_driver):
            stopped = asyncio.Event()
            stopped.set()
            await driver.run(stopped)
        await bus.close()


def marked_only(parts: main.Parts) -> None:
    """Its first sweep reads no more than the later ones: what a crash leaves is found by the markers alone."""
    parts.sweep.unread.clear()


def approved(plan_id: str, *tasks: PlanTask, budget: Budget | None = None) -> PlanApproved:
    """The event of an approved plan."""
    return PlanApproved(
        story_id=f"story-{plan_id}",
        story=StoryText(title="Import", brief="Customers import files"),
        plan_id=plan_id,
        plan_version=1,
        approved_by="somebody",
        approved_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        tasks=list(tasks),
        budget=budget or Budget(),
    )


def task(task_id: str, *depends_on: str, role: str = "DEV", **more: Any) -> PlanTask:
    """A task, for three proposals and no more unless told otherwise."""
    body = {
        "protocol": "vote",
        "task_id": task_id,
        "title": f"Task {task_id}",
        "description": f"Do {task_id}",
        "role": role,
        "requirements": ["parse the file"],
        "depends_on": list(depends_on),
        **more,
    }
    return msgspec.convert(body, PlanTask)


async def published(bus: Bus, subject: str) -> list[Any]:
    """Every event on a subject so far, repetitions included."""
    stream = await bus.js.find_stream_name_by_subject(subject)
    state = (await bus.js.stream_info(stream)).state
    found = []
    for sequence in range(max(1, state.first_seq), state.last_seq + 1):
        message = await bus.js.get_msg(stream, sequence)
        if message.subject == subject:
            found.append(events.decode(subject, message.data or b""))
    return found


async def count(bus: Bus, subject: str) -> int:
    """How many events there are on a subject, repetitions included."""
    stream = await bus.js.find_stream_name_by_subject(subject)
    found = (await bus.js.stream_info(stream, subjects_filter=subject)).state.subjects or {}
    return found.get(subject, 0)


async def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """What the condition gives once it is true (it may be async); fails after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def fresh_bus(url: str) -> Bus:
    """A connection to a server with all streams there."""
    bus = await connect(url, "tests")
    await apply.apply(bus)
    return bus


def deliberation_id(plan_id: str, task_id: str) -> str:
    return ids.deliberation_id(plan_id, task_id, 1)


async def remember(bus: Bus, peers: Peers, plan_id: str, task_id: str) -> None:
    """Puts a task's decision into the memory and announces it, as context does."""
    deliberation = deliberation_id(plan_id, task_id)
    [completed] = [
        event
        for event in await published(bus, "orchestration.deliberation.completed")
        if event.deliberation_id == deliberation
    ][:1]
    peers.memory.decisions[completed.decision_id] = completed.decision.content
    await bus.publish(
        events.ContextUpdated(
            story_id=f"story-{plan_id}",
            plan_id=plan_id,
            deliberation_id=deliberation,
            changed=[completed.decision_id],
            version=1,
            hash=completed.decision_id,
        )
    )
