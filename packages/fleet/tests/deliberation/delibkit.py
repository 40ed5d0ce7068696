"""Deliberations for tests: records in any state, prompts, and results of their jobs."""

import datetime as dt
import json
from collections.abc import Callable, Mapping

import msgspec

from fleet.deliberation import state as machine
from fleet.deliberation.prompt import Prompt, render
from fleet.deliberation.protocols import PROTOCOLS
from fleet.deliberation.requests import JobRequest, requests
from fleet.deliberation.state import Deliberation, advance
from fleet.deliberation.turn import turn
from fleet_wire.events import AgentResult, Budget, Check, JobError, PlanTask, TestRun, Usage

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DEADLINE = START + dt.timedelta(seconds=60)
TASK = PlanTask(task_id="t1", title="Parse", description="Parse it", role="DEV", requirements=["parse the file"])
CODE_TASK = PlanTask(
    task_id="t1",
    title="Add",
    description='from typing import List\n\ndef add(a: int, b: int) -> int:\n    """The sum."""\n',
    role="DEV",
    entry_point="add",
)
ERROR = JobError(kind="timeout", message="no token in 30 s", retryable=True)
ADD = "```python\ndef add(a, b):\n    return a + b\n```"
TESTS = "```python\ndef test_small():\n    assert add(1, 2) == 3\n\ndef test_zero():\n    assert add(0, 0) == 0\n```"


def after(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def fresh(
    seats: int = 3, quorum: int = 2, testers: int = 0, task: PlanTask = TASK, budget: Budget | None = None
) -> Deliberation:
    return Deliberation(
        deliberation_id="delib-1",
        plan_id="plan-1",
        story_id="story-1",
        story_phase="build",
        task=task,
        number=1,
        protocol="auto",
        seats=tuple(f"agent-DEV-{n:03d}" for n in range(1, seats + 1)),
        testers=tuple(f"agent-QA-{n:03d}" for n in range(1, testers + 1)),
        quorum=quorum,
        created_at=START,
        deadline=DEADLINE,
        budget=budget or Budget(),
    )


def numbers_of(protocol: str, **given: float) -> dict[str, float]:
    """All of a protocol's numbers."""
    return {name: one.default for name, one in PROTOCOLS[protocol].numbers.items()} | given


def prompt_for(state: Deliberation, sandbox: str = "", policy: str = "", max_tokens: int = 100) -> Prompt:
    return render(state.task, [], max_tokens=max_tokens, temperature=0.5, sandbox=sandbox, policy=policy)


def prepared(state: Deliberation, protocol: str, **numbers: float) -> Deliberation:
    """Announced, scheduled, its prompt frozen."""
    frozen = machine.Prepared(
        prompt_hash="hash", protocol=protocol, numbers=numbers_of(protocol, **numbers), chosen_because=""
    )
    for event in (machine.Scheduled(), frozen, machine.Announced()):
        state = advance(state, event)
    return state


def result(request: JobRequest, content: str = "", **fields: object) -> AgentResult:
    """A completed result, unless an error is among the fields."""
    of: dict[str, object] = {
        "job_id": request.job_id,
        "deliberation_id": "delib-1",
        "task_id": "t1",
        "agent_id": request.agent_id,
        "role": request.role,
        "phase": request.phase,
        "item": request.item,
        "attempt": 1,
        "status": "failed" if fields.get("error") else "completed",
        "content": content,
        "calls": 1 if request.messages else 0,
        "usage": Usage(prompt=10, completion=5) if request.messages else Usage(),
    }
    return msgspec.convert({**of, **fields}, AgentResult)


def checked(*statuses: str) -> list[Check]:
    """Checks `parse` and `lint` with these outcomes."""
    score = {"passed": 1.0, "failed": 0.0, "not_run": None}
    return [
        Check(name=name, status=status, score=score[status])  # type: ignore[arg-type]
        for name, status in zip(("parse", "lint"), statuses, strict=False)
    ]


def ran(request: JobRequest, *passed: str) -> AgentResult:
    """A dry run in which these tests passed and the others failed."""
    assert request.dry_run is not None
    runs = [
        TestRun(
            test_id=test,
            status="passed" if test in passed else "failed",
            detail="" if test in passed else "AssertionError",
        )
        for test, _ in request.dry_run.tests
    ]
    return result(request, runs=runs)


def verdict(winner: str, reason: str = "it meets more") -> str:
    return json.dumps({"reason": reason, "winner": winner})


class Council:
    """Runs a deliberation without chaos: opens phases, and answers each request as it is told."""

    def __init__(self, state: Deliberation, prompt: Prompt | None = None) -> None:
        self.state = state
        self.prompt = prompt or prompt_for(state)
        self.results: dict[str, AgentResult] = {}
        self.asked: list[JobRequest] = []
        self.now = START

    def open(self) -> tuple[JobRequest, ...]:
        """The requests of the next phase; none where the deliberation is closed instead."""
        event = turn(self.state, self.prompt, self.results, self.now)
        self.state = advance(self.state, event)
        found = requests(self.state, self.prompt, self.results)
        self.state = advance(self.state, machine.Submitted(self.state.phase))
        self.asked += found
        return found

    def end(self, answer: AgentResult) -> None:
        self.now += dt.timedelta(seconds=0.1)
        self.results[answer.job_id] = answer
        self.state = advance(
            self.state,
            machine.JobEnded(
                job_id=answer.job_id,
                error=answer.error,
                at=self.now,
                tokens=answer.usage.prompt + answer.usage.completion,
                calls=answer.calls,
            ),
        )

    def run(self, answer: Callable[[JobRequest], AgentResult]) -> Deliberation:
        """To its close."""
        while found := self.open():
            for request in found:
                self.end(answer(request))
        return self.state


def answers(by_phase: Mapping[str, Callable[[JobRequest], AgentResult]]) -> Callable[[JobRequest], AgentResult]:
    """One answer per phase; a phase that is not named fails."""

    def answer(request: JobRequest) -> AgentResult:
        make = by_phase.get(request.phase)
        return make(request) if make else result(request, error=ERROR)

    return answer
