"""One task put to the councils of a stack, and its decision to the test: over gRPC only, so any stack will do.

Ids are derived from the evaluation, so that a call that is repeated, and an evaluation that is begun again on the same stack,
asks for nothing twice.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from fleet.deliberation.code import program_of
from fleet.evaluation.card import About, Attempt
from fleet.evaluation.configurations import Configuration
from fleet.evaluation.tasks import Task
from fleet_wire import events, ids
from fleet_wire.errors import Conflict, Invalid, Unavailable
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as orchestrator
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as executor
from fleet_wire.rpc import call, timestamp

if TYPE_CHECKING:
    from fleet_wire.gen.orchestrator.v1.orchestrator_pb2_grpc import OrchestratorServiceAsyncStub
    from fleet_wire.gen.ray_executor.v1.ray_executor_pb2_grpc import RayExecutorServiceAsyncStub

RPC_SECONDS = 10.0
POLL_SECONDS = 0.25
PATIENCE_SECONDS = 60.0
"""How long a service may be away before the evaluation gives up."""
TRUTH_SECONDS = 10.0
"""What a task's own tests may take."""
TRUTH_DEADLINE_SECONDS = 90.0
MAX_DETAIL = 300

R = TypeVar("R")


class Bench:
    """A stack's orchestrator and executor, for one evaluation."""

    def __init__(
        self, to_orchestrator: "OrchestratorServiceAsyncStub", to_executor: "RayExecutorServiceAsyncStub", about: About
    ) -> None:
        self._orchestrator = to_orchestrator
        self._executor = to_executor
        self._about = about

    async def attempt(self, task: Task, configuration: Configuration, number: int = 1) -> Attempt:
        """Puts the task to the configuration and its decision to the test; another `number` asks anew. Raises Unavailable where
        the stack is away for long, or the truth cannot be told."""
        asked = self.request(task, configuration, number)
        begun = await patiently(
            lambda: call(self._orchestrator.Deliberate(asked, timeout=RPC_SECONDS), "the orchestrator")
        )
        ended = await self._ended(begun.deliberation_id)
        known = Attempt(
            task_id=task.task_id,
            configuration=configuration.name,
            deliberation_id=begun.deliberation_id,
            solved=False,
            protocol=ended.protocol,
            prompt_tokens=ended.usage.prompt,
            completion_tokens=ended.usage.completion,
            cached_tokens=ended.usage.cached,
            calls=ended.calls,
            seconds=ended.duration_seconds,
        )
        if isinstance(ended, events.DeliberationFailed):
            return msgspec.structs.replace(known, failure=f"{ended.reason}: {ended.detail}"[:MAX_DETAIL])
        solved, detail = await self.truth(task, ended.decision.content, begun.deliberation_id)
        return msgspec.structs.replace(
            known,
            solved=solved,
            detail=detail[:MAX_DETAIL],
            flips=ended.flips,
            verdicts=ended.verdicts,
            skipped=tuple(it.phase for it in ended.skipped),
        )

    def request(self, task: Task, configuration: Configuration, number: int = 1) -> orchestrator.DeliberateRequest:
        """What is asked of the DEV council; the same for the same evaluation."""
        about = self._about
        names = (about.seed, about.model, about.endpoint, about.budget_tokens, about.timeout_seconds, number)
        numbers = sorted(configuration.numbers.items())
        return orchestrator.DeliberateRequest(
            request_id=ids.derived("eval", task.fingerprint, configuration.protocol, numbers, *names),
            role="DEV",
            title=task.task_id[:200],
            description=task.description,
            entry_point=task.entry_point,
            protocol=configuration.protocol,
            numbers=configuration.numbers,
            budget=orchestrator.Budget(tokens=about.budget_tokens),
            timeout_seconds=about.timeout_seconds,
        )

    async def truth(self, task: Task, answer: str, deliberation_id: str) -> tuple[bool, str]:
        """Whether the answer passes the task's tests, and what they said. Raises Unavailable where they cannot be run."""
        program = program_of(answer, plan_task(task))
        if not program:
            return False, "the decision holds no Python program"
        name = ids.derived("truth", deliberation_id, task.fingerprint, answer)
        job = executor.Job(
            job_id=ids.job_id(name, "dry_run", "agent-QA-001", "", 1),
            agent_id="agent-QA-001",
            role="QA",
            phase="dry_run",
            dry_run=executor.DryRun(
                program=program, tests=[executor.Test(test_id="truth", code=task.truth)], seconds=TRUTH_SECONDS
            ),
        )
        now = dt.datetime.now(dt.timezone.utc)
        wanted = executor.ExecuteDeliberationRequest(
            deliberation_id=name,
            task_id=ids.derived("task", task.task_id),
            jobs=[job],
            deadline=timestamp(now + dt.timedelta(seconds=TRUTH_DEADLINE_SECONDS)),
        )
        await patiently(lambda: call(self._executor.ExecuteDeliberation(wanted, timeout=RPC_SECONDS), "the executor"))
        result = await self._result(name, job.job_id)
        if result.error is not None:
            raise Unavailable(f"the tests of {task.task_id} could not be run: {result.error.message}")
        [run] = result.runs
        if run.status == "not_run":
            raise Unavailable(f"the tests of {task.task_id} could not be run: {run.detail}")
        return run.status == "passed", run.detail

    async def _ended(self, deliberation_id: str) -> events.DeliberationCompleted | events.DeliberationFailed:
        asked = orchestrator.GetDeliberationResultRequest(deliberation_id=deliberation_id)
        while True:
            answer = await patiently(
                lambda: call(self._orchestrator.GetDeliberationResult(asked, timeout=RPC_SECONDS), "the orchestrator")
            )
            state = answer.deliberation.state
            if state in ("completed", "failed"):
                if not answer.outcome:
                    raise Unavailable(
                        f"{deliberation_id} is {state}, but its outcome is no longer kept: take a new --seed"
                    )
                event = events.decode(f"orchestration.deliberation.{state}", answer.outcome)
                assert isinstance(event, (events.DeliberationCompleted, events.DeliberationFailed))
                return event
            await asyncio.sleep(POLL_SECONDS)

    async def _result(self, name: str, job_id: str) -> events.AgentResult:
        asked = executor.GetDeliberationStatusRequest(deliberation_id=name)
        loop = asyncio.get_running_loop()
        until = loop.time() + TRUTH_DEADLINE_SECONDS + PATIENCE_SECONDS
        while loop.time() < until:
            answer = await patiently(
                lambda: call(self._executor.GetDeliberationStatus(asked, timeout=RPC_SECONDS), "the executor")
            )
            for job in answer.jobs:
                if job.job_id == job_id and job.result:
                    return msgspec.json.decode(job.result, type=events.AgentResult)
            await asyncio.sleep(POLL_SECONDS)
        raise Unavailable(f"the executor did not end {job_id} within its deadline")


def plan_task(task: Task) -> events.PlanTask:
    """The task as the council had it."""
    return events.PlanTask(
        task_id=ids.derived("task", task.task_id),
        title=task.task_id[:200],
        description=task.description,
        role="DEV",
        entry_point=task.entry_point,
    )


async def require_sandbox(to_executor: "RayExecutorServiceAsyncStub") -> executor.GetStatusResponse:
    """The executor's status; raises Invalid where no sandbox can be made, since then nobody can tell what is right."""
    status = await patiently(
        lambda: call(to_executor.GetStatus(executor.GetStatusRequest(), timeout=RPC_SECONDS), "the executor")
    )
    if not status.sandbox:
        raise Invalid(
            f"no sandbox can be made, so no task's tests can be run: {status.sandbox_reason or 'no reason given'}"
        )
    return status


async def patiently(ask: Callable[[], Awaitable[R]]) -> R:
    """Asks again while the other side is away, busy or overtaken, for PATIENCE_SECONDS; raises what it says then, and all
    else at once."""
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + PATIENCE_SECONDS, POLL_SECONDS
    while True:
        try:
            return await ask()
        except (Unavailable, Conflict):
            if loop.time() > until:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, 4.0)
