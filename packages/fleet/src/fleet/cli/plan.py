"""`fleet plan …`: submit a plan from a file, look at it, approve or reject it, see how far it is, cancel it."""

import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from fleet import planfile
from fleet.cli import client, safe, show
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, RPC_SECONDS
from fleet.cli.draft import draft
from fleet.cli.options import AsJson, Reason, request_id_of
from fleet_wire import ids
from fleet_wire.errors import AlreadyExists, Invalid, NotFound, Precondition, Unavailable
from fleet_wire.events import Role
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.gen.planning.v1 import planning_pb2
from fleet_wire.rpc import call

app = typer.Typer(help="Submit, look at, approve, reject and cancel plans.", no_args_is_help=True)

HINTS: client.Hints = {
    NotFound: "`fleet plan list` names the plans there are",
    Precondition: "`fleet plan show ID` tells its state",
    AlreadyExists: "the same --request-id was used for another plan: take a new one",
}

app.command("draft")(draft)

PlanId = Annotated[str, typer.Argument(metavar="ID", help="The plan's id.")]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who decides; your user name unless given.")]


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plan in YAML, or an issue in Markdown (FILE.md).")],
    approve: Annotated[bool, typer.Option("--approve", help="Approve it at once.")] = False,
    request_id: Annotated[
        str, typer.Option(help="Makes a repeated call safe: the same id gives the same plan. Random unless given.")
    ] = "",
    role: Annotated[
        list[str] | None,
        typer.Option(
            help="For an issue: a role whose council decides on the story itself; may be given several times."
        ),
    ] = None,
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Create a story and propose the plan of a file. What is wrong with the file is told all at once, with line and column.

    Examples:  fleet plan submit examples/rate-limit.yaml
               fleet plan submit examples/rate-limit.yaml --approve
               fleet plan submit examples/export-issue.md --role DEV --role QA
    """

    async def main() -> int:
        plan = _plan_of(file, role or [])
        request = request_id_of(request_id)
        actor = by or client.user_name()
        async with client.clients(addresses()) as to:
            story_id, plan_id = await planfile.submit(to.planning, plan, request, actor)
            state = "proposed"
            if approve:
                asked = planning_pb2.ApprovePlanRequest(plan_id=plan_id, approved_by=actor)
                state = (await call(to.planning.ApprovePlan(asked, timeout=RPC_SECONDS), "planning")).plan.state
        if as_json:
            print(safe.json_line({"story_id": story_id, "plan_id": plan_id, "state": state}))
            return DONE
        print(f"story {safe.line(story_id)}\nplan  {safe.line(plan_id)} is {safe.line(state)}")
        following = f"fleet watch {plan_id}" if approve else f"fleet plan approve {plan_id}"
        print(f"next: {safe.line(following)}")
        return DONE

    client.run(main, HINTS)


@app.command()
def approve(plan_id: PlanId, by: By = "", as_json: AsJson = False) -> None:
    """Approve a proposed plan: its councils begin.

    Example:  fleet plan approve plan-3f2a --by "the team lead"
    """

    async def main() -> int:
        async with client.clients(addresses()) as to:
            asked = planning_pb2.ApprovePlanRequest(
                plan_id=ids.check_id("ID", plan_id), approved_by=by or client.user_name()
            )
            answer = await call(to.planning.ApprovePlan(asked, timeout=RPC_SECONDS), "planning")
        _print_decided(answer.plan, as_json)
        return DONE

    client.run(main, HINTS)


@app.command()
def reject(
    plan_id: PlanId,
    reason: Annotated[str, typer.Option(help="Why; kept with the plan.")],
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Reject a proposed plan.

    Example:  fleet plan reject plan-3f2a --reason "the rollout is missing"
    """

    async def main() -> int:
        if not reason.strip():
            raise Invalid("--reason must not be empty")
        async with client.clients(addresses()) as to:
            asked = planning_pb2.RejectPlanRequest(
                plan_id=ids.check_id("ID", plan_id), rejected_by=by or client.user_name(), reason=reason
            )
            answer = await call(to.planning.RejectPlan(asked, timeout=RPC_SECONDS), "planning")
        _print_decided(answer.plan, as_json)
        return DONE

    client.run(main, HINTS)


@app.command("show")
def show_plan(plan_id: PlanId, as_json: AsJson = False) -> None:
    """Show a plan with its story, tasks and state, and which tasks' decisions rely on superseded ones.

    Example:  fleet plan show plan-3f2a
    """

    async def main() -> int:
        async with client.clients(addresses()) as to:
            asked = planning_pb2.GetPlanRequest(plan_id=ids.check_id("ID", plan_id))
            answer = await call(to.planning.GetPlan(asked, timeout=RPC_SECONDS), "planning")
            relies = await _relies(to, answer.plan)
        if as_json:
            print(safe.json_line({**safe.plain(answer), "relies_on_superseded": relies}))
        else:
            safe.console().print(show.plan(answer, relies))
        return DONE

    client.run(main, HINTS)


async def _relies(to: client.Clients, plan: planning_pb2.Plan) -> dict[str, list[str]] | None:
    """The superseded decisions that each task's own one relies on, for those that do; None, and a warning, where the
    orchestrator, which knows them, is away. It has never heard of a plan that was not approved."""
    asked = orchestrator_pb2.GetPlanProgressRequest(plan_id=plan.plan_id)
    try:
        found = await call(to.orchestrator.GetPlanProgress(asked, timeout=RPC_SECONDS), "the orchestrator")
    except NotFound:
        return {}
    except Unavailable as error:
        print(f"what relies on superseded decisions is not known: {client.sentence(error)}", file=sys.stderr)
        return None
    return {task.task_id: list(task.relies_on_superseded) for task in found.tasks if task.relies_on_superseded}


@app.command()
def progress(plan_id: PlanId, as_json: AsJson = False) -> None:
    """Show how far each task of an approved plan is.

    Example:  fleet plan progress plan-3f2a
    """

    async def main() -> int:
        asked = orchestrator_pb2.GetPlanProgressRequest(plan_id=ids.check_id("ID", plan_id))
        async with client.clients(addresses()) as to:
            answer = await call(to.orchestrator.GetPlanProgress(asked, timeout=RPC_SECONDS), "the orchestrator")
        if as_json:
            print(safe.json_line(answer))
        else:
            safe.console().print(show.plan_progress(answer))
        return DONE

    client.run(main, {NotFound: "only an approved plan has progress: `fleet plan show ID` tells its state"})


@app.command()
def cancel(plan_id: PlanId, reason: Reason = "", as_json: AsJson = False) -> None:
    """Cancel what runs of an approved plan and skip what waits. What is decided stays.

    Example:  fleet plan cancel plan-3f2a --reason "the story was withdrawn"
    """

    async def main() -> int:
        asked = orchestrator_pb2.CancelPlanRequest(
            plan_id=ids.check_id("ID", plan_id), reason=reason or f"by {client.user_name()}"
        )
        async with client.clients(addresses()) as to:
            answer = await call(to.orchestrator.CancelPlan(asked, timeout=RPC_SECONDS), "the orchestrator")
        if as_json:
            print(safe.json_line(answer))
            return DONE
        for word, tasks in (("cancelled", answer.cancelled_task_ids), ("skipped", answer.skipped_task_ids)):
            print(f"{word}: {safe.line(', '.join(tasks)) or 'no task'}")
        print(f"next: fleet plan progress {safe.line(plan_id)}")
        return DONE

    client.run(main, {**HINTS, Precondition: "`fleet plan progress ID` tells how it ended"})


@app.command("list")
def list_plans(
    state: Annotated[str, typer.Option(help="Only stories with a plan in this state: proposed, approved, ...")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Stories to show, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List plans, those of the newest stories first.

    Example:  fleet plan list --state proposed
    """

    async def main() -> int:
        async with client.clients(addresses()) as to:
            asked = planning_pb2.ListStoriesRequest(page_size=limit, plan_state=state)
            answer = await call(to.planning.ListStories(asked, timeout=RPC_SECONDS), "planning")
        if as_json:
            for story in answer.stories:
                print(safe.json_line(story))
        elif answer.stories:
            safe.console().print(show.plans(answer.stories))
        else:
            print("there is no such plan; `fleet plan submit FILE` makes one")
        return DONE

    client.run(main, HINTS)


def _plan_of(file: Path, roles: list[str]) -> planfile.PlanFile:
    chosen = [cast(Role, ids.check_role("--role", role.upper())) for role in roles]
    if planfile.is_issue(file):
        return planfile.load_issue(file).plan(list(dict.fromkeys(chosen)))
    if chosen:
        raise Invalid("--role is for an issue in Markdown: a plan in YAML says itself who decides")
    return planfile.load(file)


def _print_decided(plan: planning_pb2.Plan, as_json: bool) -> None:
    if as_json:
        print(safe.json_line(plan))
    else:
        print(f"plan {safe.line(plan.plan_id)} is {safe.line(plan.state)}, by {safe.line(plan.decided_by)}")
