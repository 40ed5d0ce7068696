"""The end of the demo: what each council decided, the eight steps with times, and what is missing."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from fleet.cli import progress, safe, show
from fleet.cli.progress import Progress
from fleet.cli.screen import steps
from fleet.steps import STEPS, StepName
from fleet_wire.gen.context.v1 import context_pb2

Explanations = Mapping[str, context_pb2.ExplainDecisionResponse]


@dataclasses.dataclass(frozen=True)
class MissingStep:
    """A step that is missing, why, and the log that tells more (None where it is not known)."""

    task_id: str
    step: str
    number: int
    service: str
    why: str
    log: Path | None

    def sentence(self) -> str:
        where = str(self.log) if self.log else "wherever it writes"
        return (
            f"step {self.number}, {self.step}, is missing for task {self.task_id}: {self.why}; "
            f"read the log of {self.service}: {where}"
        )


def findings(
    found: Progress,
    refusals: Mapping[tuple[str, StepName], str],
    log_path: Callable[[str], Path | None],
    seconds: float,
) -> list[MissingStep]:
    """What is missing, with the last refusal where a question was refused. `seconds` is the time limit."""
    result = []
    for lack in progress.missing(found):
        why = lack.why
        refusal = refusals.get((lack.task_id, lack.step.name)) or (
            refusals.get((lack.task_id, "submitted")) if lack.step.name == "running" else None
        )
        if refusal:
            why = f"{why}; last answer: {refusal}"
        if not found.settled:
            why = f"{why} (within {seconds:g} s)"
        result.append(
            MissingStep(
                lack.task_id, lack.step.name, lack.step.number, lack.step.service, why, log_path(lack.step.service)
            )
        )
    return result


def print_summary(found: Progress, explanations: Explanations, first_token_seconds: float | None) -> None:
    """For people."""
    console = safe.console()
    for task in found.tasks:
        if task.task_id in explanations:
            console.print(show.proposals(f"{task.task_id} ({task.role}): {task.title}", explanations[task.task_id]))
    console.print(Text("The eight steps, in seconds since the approval", style="bold"))
    console.print(steps(found))
    if first_token_seconds is not None:
        console.print(Text(f"first token of an agent {first_token_seconds:.1f} s after the command began"))
    if found.complete:
        console.print(Text(f"all eight steps were observed for {len(found.tasks)} tasks", style="green"))


def as_json_summary(
    found: Progress, explanations: Explanations, lacks: list[MissingStep], first_token_seconds: float | None
) -> dict[str, Any]:
    """For programs."""
    return {
        "complete": found.complete,
        "plan_id": found.plan_id,
        "first_token_seconds": first_token_seconds,
        "tasks": [
            {
                "task_id": task.task_id,
                "deliberation_id": task.deliberation_id,
                "decision_id": explanations[task.task_id].decision.decision_id
                if task.task_id in explanations
                else None,
                "winner": task.winner or None,
                "score": task.score,
                "failure": task.failure or None,
                "seconds": {step.name: found.seconds(task, step.name) for step in STEPS},
                "proposals": [
                    {
                        "agent_id": proposal.agent_id,
                        "rank": proposal.rank,
                        "score": proposal.score,
                        "content": proposal.content,
                    }
                    for proposal in (explanations[task.task_id].proposals if task.task_id in explanations else ())
                ],
            }
            for task in found.tasks
        ],
        "missing": [{**dataclasses.asdict(lack), "log": str(lack.log or "")} for lack in lacks],
    }
