"""The questions behind the steps that no event shows: to the executor, the dashboard and the graph."""

import asyncio
import datetime as dt
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from fleet.cli.client import Clients
from fleet.cli.progress import Explained, Jobs, Observation, Progress, Shown, TaskView
from fleet.steps import JobSeen, StepName
from fleet_wire.errors import FleetError, NotFound, Unavailable
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2
from fleet_wire.rpc import call

ASK_SECONDS = 3.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024

Observed = Callable[[Observation, dt.datetime], None]


class Asker:
    """Asks for what a progress still lacks, and hands each answer to `observed`. A refusal is kept in `refusals` by task and
    step, so that a step that stays missing can be explained, and asked again in the next round."""

    def __init__(self, to: Clients, monitoring_url: str, observed: Observed) -> None:
        self.refusals: dict[tuple[str, StepName], str] = {}
        self.explanations: dict[str, context_pb2.ExplainDecisionResponse] = {}
        self._to = to
        self._monitoring_url = monitoring_url
        self._observed = observed

    async def ask(self, progress: Progress) -> None:
        """One round of all questions that have a point by now."""
        await asyncio.gather(*(self._ask_for(task) for task in progress.tasks if not task.complete))

    async def _ask_for(self, task: TaskView) -> None:
        if task.seats and not {"submitted", "running"} <= set(task.times):
            await self._keep(task, "submitted", self._jobs(task))
        if task.decision_id and "shown" not in task.times:
            await self._keep(task, "shown", self._shown(task))
        if "remembered" in task.times and not task.in_graph:
            await self._keep(task, "remembered", self._explained(task))

    async def _keep(self, task: TaskView, step: StepName, question: Any) -> None:
        try:
            observation = await question
        except FleetError as error:
            self.refusals[task.task_id, step] = str(error)
        else:
            self.refusals.pop((task.task_id, step), None)
            self._observed(observation, dt.datetime.now(dt.timezone.utc))

    async def _jobs(self, task: TaskView) -> Jobs:
        asked = ray_executor_pb2.GetDeliberationStatusRequest(deliberation_id=task.deliberation_id)
        answer = await call(self._to.executor.GetDeliberationStatus(asked, timeout=ASK_SECONDS), "the executor")
        return Jobs(
            answer.deliberation_id,
            [
                JobSeen(
                    job.agent_id,
                    job.accepted_at.ToDatetime(tzinfo=dt.timezone.utc) if job.HasField("accepted_at") else None,
                    job.actor,
                )
                for job in answer.jobs
            ],
        )

    async def _shown(self, task: TaskView) -> Shown:
        url = f"{self._monitoring_url}/api/deliberations/{task.deliberation_id}"
        answer = await asyncio.to_thread(get_json, url)
        if not isinstance(answer, dict):
            raise Unavailable(f"{url} answers with something else than an object")
        return Shown(str(answer.get("deliberation_id", "")), str(answer.get("decision_id") or ""))

    async def _explained(self, task: TaskView) -> Explained:
        asked = context_pb2.ExplainDecisionRequest(decision_id=task.decision_id)
        answer = await call(self._to.context.ExplainDecision(asked, timeout=ASK_SECONDS), "context")
        self.explanations[task.task_id] = answer
        decision = answer.decision
        return Explained(decision.deliberation_id, decision.decision_id, decision.content)


def get_json(url: str) -> Any:
    """What an HTTP GET answers with, as JSON. Blocks for at most ASK_SECONDS. Raises NotFound or Unavailable."""
    try:
        with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
            return json.loads(answer.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        kind = NotFound if error.code == 404 else Unavailable
        raise kind(f"{url} answers with status {error.code}") from error
    except OSError as error:
        raise Unavailable(f"{url} does not answer: {error}") from error
    except ValueError as error:
        raise Unavailable(f"{url} answers with something that is not JSON: {error}") from error
