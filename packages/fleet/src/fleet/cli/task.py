"""`fleet task …`: what can be done with one task of a plan."""

from typing import Annotated

import typer

from fleet.cli import client, safe
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, RPC_SECONDS
from fleet_wire import ids
from fleet_wire.errors import NotFound, Precondition
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.rpc import call

app = typer.Typer(help="Run a failed task of a plan again.", no_args_is_help=True)

HINTS: client.Hints = {
    NotFound: "`fleet plan progress PLAN` names its tasks",
    Precondition: "`fleet plan progress PLAN` tells the state of each task",
}


@app.callback()
def tasks() -> None:
    """Run a failed task of a plan again."""


@app.command()
def retry(
    plan_id: Annotated[str, typer.Argument(metavar="PLAN", help="The plan's id.")],
    task_id: Annotated[str, typer.Argument(metavar="TASK", help="The task's id in its plan.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Run a failed or cancelled task again, or a decided one that relies on a superseded decision, as its next try; tasks that
    were skipped because of it wait for it again.

    Example:  fleet task retry plan-3f2a slug
    """

    async def main() -> int:
        asked = orchestrator_pb2.RetryTaskRequest(
            plan_id=ids.check_id("PLAN", plan_id), task_id=ids.check_id("TASK", task_id)
        )
        async with client.clients(addresses()) as to:
            answer = await call(to.orchestrator.RetryTask(asked, timeout=RPC_SECONDS), "the orchestrator")
        if as_json:
            print(safe.json_line(answer))
            return DONE
        print(f"task {safe.line(task_id)}: try {answer.number} is deliberation {safe.line(answer.deliberation_id)}")
        if answer.waiting_task_ids:
            print(f"waiting again: {safe.line(', '.join(answer.waiting_task_ids))}")
        print(f"next: fleet deliberation watch {safe.line(answer.deliberation_id)}")
        return DONE

    client.run(main, HINTS)
