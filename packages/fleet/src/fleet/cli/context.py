"""`fleet context …`: what an agent sees of a story and may see, and what people add to it."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, get_args

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding

from fleet.cli import client, safe, tables
from fleet.cli.additions import add_affects, add_constraint, add_milestone, add_summary
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, RPC_SECONDS
from fleet.cli.options import AsJson, AsJsonLines
from fleet_wire import ids
from fleet_wire.errors import Invalid, NotFound
from fleet_wire.events import StoryPhase
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.gen.planning.v1 import planning_pb2
from fleet_wire.rpc import call

app = typer.Typer(help="Show what an agent sees of a story and may see, and add to it.", no_args_is_help=True)

PHASES: tuple[str, ...] = get_args(StoryPhase)
HINTS: client.Hints = {
    NotFound: "`fleet plan list` names the plans there are, `fleet plan show` their tasks",
}

app.command("add-constraint")(add_constraint)
app.command("add-affects")(add_affects)
app.command("add-summary")(add_summary)
app.command("add-milestone")(add_milestone)


@app.command()
def show(
    plan: Annotated[str, typer.Option(metavar="ID", help="The approved plan.")],
    task: Annotated[str, typer.Option(metavar="ID", help="The task in it.")],
    role: Annotated[str, typer.Option(help=f"Of {', '.join(ids.ROLES)}; the task's own where not given.")] = "",
    phase: Annotated[str, typer.Option(help=f"Of {', '.join(PHASES)}; the story's own where not given.")] = "",
    budget: Annotated[int, typer.Option(min=64, max=1_000_000, help="What it may take, in tokens.")] = 4096,
    required: Annotated[
        list[str] | None, typer.Option("--require", metavar="ID", help="A decision that must be in the graph.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what an agent sees for a task: each block with its tokens, what was left out, and why.

    Examples:  fleet context show --plan plan-3f2a --task api
               fleet context show --plan plan-3f2a --task api --role QA --phase test --budget 1024
    """

    async def main() -> int:
        async with client.clients(addresses()) as to:
            asked = planning_pb2.GetPlanRequest(plan_id=ids.check_id("--plan", plan))
            found = await call(to.planning.GetPlan(asked, timeout=RPC_SECONDS), "planning")
            wanted = context_pb2.GetContextRequest(
                story_id=found.plan.story_id,
                plan_id=plan,
                task_id=ids.check_id("--task", task),
                role=_role(role) if role else _role_of(found.plan, task),
                phase=_phase(phase) if phase else found.story.phase,
                token_budget=budget,
                required_decision_ids=required or [],
            )
            answer = await call(to.context.GetContext(wanted, timeout=RPC_SECONDS), "context")
        if as_json:
            print(safe.json_line(answer))
        else:
            safe.console().print(_shown(wanted, answer))
        return DONE

    client.run(main, HINTS)


@app.command()
def rehydrate(
    session: Annotated[
        str, typer.Argument(metavar="SESSION", help="Who asks: an id of your choice, kept for a while.")
    ],
    plan: Annotated[str, typer.Option(metavar="ID", help="The approved plan.")],
    task: Annotated[str, typer.Option(metavar="ID", help="The task in it; the whole plan unless given.")] = "",
    role: Annotated[str, typer.Option(help=f"Of {', '.join(ids.ROLES)}; the task's own where not given.")] = "",
    phase: Annotated[str, typer.Option(help=f"Of {', '.join(PHASES)}; the story's own where not given.")] = "",
    budget: Annotated[int, typer.Option(min=64, max=1_000_000, help="What it may take, in tokens.")] = 4096,
    as_json: AsJson = False,
) -> None:
    """Build a role's pack anew from the graph alone, with the story's timeline and what of it is new to the session.

    Example:  fleet context rehydrate my-session --plan plan-3f2a --role ARCHITECT
    """

    async def main() -> int:
        if not task and not role:
            raise Invalid("--role: say whose pack it is, or name a --task")
        async with client.clients(addresses()) as to:
            asked = planning_pb2.GetPlanRequest(plan_id=ids.check_id("--plan", plan))
            found = await call(to.planning.GetPlan(asked, timeout=RPC_SECONDS), "planning")
            wanted = context_pb2.RehydrateSessionRequest(
                session_id=ids.check_id("SESSION", session),
                story_id=found.plan.story_id,
                plan_id=plan,
                task_id=ids.check_id("--task", task) if task else "",
                role=_role(role) if role else _role_of(found.plan, task),
                phase=_phase(phase) if phase else found.story.phase,
                token_budget=budget,
            )
            answer = await call(to.context.RehydrateSession(wanted, timeout=RPC_SECONDS), "context")
        if as_json:
            print(safe.json_line(answer))
        else:
            safe.console().print(_rehydrated(wanted, answer))
        return DONE

    client.run(main, HINTS)


@app.command()
def scopes(
    role: Annotated[str, typer.Option(help=f"Only of {', '.join(ids.ROLES)}.")] = "",
    phase: Annotated[str, typer.Option(help=f"Only of {', '.join(PHASES)}.")] = "",
    as_json: AsJsonLines = False,
) -> None:
    """Show what each role may see in each phase: kinds of blocks, and the councils whose decisions it sees.

    Examples:  fleet context scopes
               fleet context scopes --role DEV --phase build --json
    """

    async def main() -> int:
        roles = [_role(role)] if role else list(ids.ROLES)
        phases = [_phase(phase)] if phase else list(PHASES)
        asked = [context_pb2.ValidateScopeRequest(role=each, phase=when) for each in roles for when in phases]
        async with client.clients(addresses()) as to:
            answers = await asyncio.gather(
                *(call(to.context.ValidateScope(one, timeout=RPC_SECONDS), "context") for one in asked)
            )
        if as_json:
            for one, answer in zip(asked, answers, strict=True):
                names = ("allowed_kinds", "depends_on", "affects")
                scope = {name: list(getattr(answer, name)) for name in names}
                print(safe.json_line({"role": one.role, "phase": one.phase, **scope}))
        else:
            safe.console().print(_scopes(asked, answers))
        return DONE

    client.run(main)


def _role(value: str) -> str:
    return ids.check_role("--role", value.upper())


def _phase(value: str) -> str:
    if value not in PHASES:
        raise Invalid(f"--phase must be one of {', '.join(PHASES)}, not {value[:80]!r}")
    return value


def _role_of(plan: planning_pb2.Plan, task_id: str) -> str:
    """The role that works on a task; a plan of roles has a task for each, named like it."""
    for task in plan.tasks:
        if task.task_id == task_id:
            return task.role
    for role in plan.roles:
        if role.lower() == task_id:
            return role
    raise NotFound(f"plan {plan.plan_id} has no task {task_id}")


def _shown(asked: context_pb2.GetContextRequest, answer: context_pb2.GetContextResponse) -> RenderableType:
    by = "estimated" if answer.tokenizer == "estimate" else f"counted by the tokenizer of {answer.tokenizer}"
    facts = [
        ("task", f"{asked.task_id} of plan {asked.plan_id}, story {asked.story_id}"),
        ("seen by", f"{asked.role} in {asked.phase}"),
        ("tokens", f"{answer.tokens} of {asked.token_budget}, {by}"),
        ("version", f"{answer.version}, {answer.hash[:12]}" + (", from the cache" if answer.from_cache else "")),
    ]
    return Group(tables.facts(facts), *_blocks(answer))


def _rehydrated(
    asked: context_pb2.RehydrateSessionRequest, answer: context_pb2.RehydrateSessionResponse
) -> RenderableType:
    known = answer.HasField("since")
    facts = [
        ("plan", f"{asked.plan_id}, story {asked.story_id}"),
        ("task", asked.task_id),
        ("seen by", f"{asked.role} in {asked.phase}"),
        ("tokens", f"{answer.tokens} of {asked.token_budget}, the timeline's included"),
        ("version", f"{answer.version}, {answer.hash[:12]}"),
        ("last look", f"{tables.moment(answer.since.at)}, version {answer.since.version}" if known else "none known"),
    ]
    table = tables.table("at", "", "what happened")
    for entry in answer.timeline:
        new = "new" if entry.event_id in answer.since.event_ids else ""
        table.add_row(*map(safe.text, (tables.moment(entry.at), new, entry.summary)))
    return Group(tables.facts(facts), *_blocks(answer), tables.heading("timeline"), table)


def _blocks(answer: context_pb2.GetContextResponse | context_pb2.RehydrateSessionResponse) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for block in answer.blocks:
        title = f", {safe.line(block.title)}" if block.title else ""
        parts += [tables.heading(f"{block.kind} {safe.line(block.source_id)}{title}: {block.tokens} tokens")]
        parts += [Padding(safe.text(block.text), (0, 2))]  # so that no text looks like a heading
    if answer.left_out:
        parts += [tables.heading("left out"), _left_out(answer)]
    return parts


def _left_out(answer: context_pb2.GetContextResponse | context_pb2.RehydrateSessionResponse) -> RenderableType:
    table = tables.table("what", "kind", "why", "tokens")
    for item in answer.left_out:
        table.add_row(*map(safe.text, (item.source_id, item.kind, item.reason, str(item.tokens or ""))))
    return table


def _scopes(
    asked: Sequence[context_pb2.ValidateScopeRequest], answers: Sequence[context_pb2.ValidateScopeResponse]
) -> RenderableType:
    table = tables.table("role", "phase", "sees", "decisions it depends on", "decisions that affect it")
    for one, answer in zip(asked, answers, strict=True):
        cells = (
            one.role,
            one.phase,
            *(", ".join(it) for it in (answer.allowed_kinds, answer.depends_on, answer.affects)),
        )
        table.add_row(*map(safe.text, cells))
    return table
