"""`fleet plan draft`: the ARCHITECT council derives a plan, a person approves it."""

import sys
from pathlib import Path
from typing import Annotated, cast

import typer

from fleet import planfile
from fleet.cli import client, live, safe, show
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, REFUSED, RPC_SECONDS, Clients
from fleet.cli.options import (
    BudgetCalls,
    BudgetSeconds,
    BudgetTokens,
    Number,
    Protocol,
    Timeout,
    budget_of,
    numbers_of,
    request_id_of,
)
from fleet.planfile import drafting
from fleet.planmessages import budget_message
from fleet_wire import events, ids
from fleet_wire.errors import AlreadyExists, Invalid, NotFound, Precondition, Problems
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.gen.planning.v1 import planning_pb2
from fleet_wire.rpc import call

HINTS: client.Hints = {
    NotFound: "`fleet plan list` names the stories that have plans; the name of a file ends in .md",
    Precondition: f"has {drafting.ROLE} a council? `fleet council list` tells",
    AlreadyExists: "the same --request-id was used for something else: take a new one",
}


def draft(
    what: Annotated[str, typer.Argument(metavar="STORY|FILE", help="A story's id, or an issue in Markdown (FILE.md).")],
    protocol: Protocol = "",
    number: Number = None,
    budget_tokens: BudgetTokens = 0,
    budget_calls: BudgetCalls = 0,
    budget_seconds: BudgetSeconds = 0,
    max_tokens: Annotated[
        int,
        typer.Option(min=0, max=16384, help="Tokens that an agent may write; 0 for the service's own setting."),
    ] = drafting.MAX_TOKENS,
    timeout: Timeout = 0,
    request_id: Annotated[
        str, typer.Option(help="Makes a repeated call safe: the same id gives the same plan. Random unless given.")
    ] = "",
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who asks; your user name unless given.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Have the ARCHITECT council derive a plan for a story, and propose it for a person to approve.

    Ends with 1, and stores nothing, where the council does not decide or its answer is no valid plan.

    Examples:  fleet plan draft examples/export-issue.md
               fleet plan draft story-3f2a --protocol vote
    """

    async def main() -> int:
        request = request_id_of(request_id)
        async with client.clients(addresses()) as to:
            story_id, issue = await _story(to, what)
            asked = orchestrator_pb2.DeliberateRequest(
                request_id=request,
                role=drafting.ROLE,
                title=drafting.title(issue.story),
                description=drafting.question(issue.story),
                requirements=issue.story.acceptance,
                response_schema=drafting.form(),
                max_tokens=max_tokens,
                protocol=protocol,
                numbers=numbers_of(number),
                budget=budget_message(budget_of(budget_tokens, budget_calls, budget_seconds), orchestrator_pb2.Budget),
                timeout_seconds=timeout,
            )
            answer = await call(to.orchestrator.Deliberate(asked, timeout=RPC_SECONDS), "the orchestrator")
            print(f"deliberation {safe.line(answer.deliberation_id)}", file=sys.stderr)
            ended = await live.follow(to, answer.deliberation_id, sys.stderr)
            if not isinstance(ended, events.DeliberationCompleted):
                return live.say_ended(ended, as_json)
            try:
                tasks = drafting.tasks_of(ended.decision.content)
            except Problems as error:
                return _say_refused(ended, error, as_json)
            if not story_id:
                story_id = await planfile.create_story(to.planning, issue.story, request, by or client.user_name())
            plan = await planfile.propose(to.planning, story_id, request, tasks=tasks, budget=issue.budget)
            asked_plan = planning_pb2.GetPlanRequest(plan_id=plan.plan_id)
            stored = await call(to.planning.GetPlan(asked_plan, timeout=RPC_SECONDS), "planning")
        _say_proposed(stored, ended, as_json)
        return DONE

    client.run(main, HINTS)


async def _story(to: Clients, what: str) -> tuple[str, planfile.Issue]:
    """The story's id, empty for one that is not stored yet, and what is known of it. Only a file's name has a dot or a slash."""
    if "." in what or "/" in what:
        if not planfile.is_issue(what):
            raise Invalid(f"{what} is no issue: the name of a file with one ends in .md or .markdown")
        return "", planfile.load_issue(Path(what))
    asked = planning_pb2.GetStoryRequest(story_id=ids.check_id("STORY", what))
    found = (await call(to.planning.GetStory(asked, timeout=RPC_SECONDS), "planning")).story
    story = planfile.Story(
        title=found.title,
        brief=found.brief,
        acceptance=list(found.acceptance),
        phase=cast(events.StoryPhase, found.phase),
    )
    return found.story_id, planfile.Issue(story=story)


def _say_proposed(stored: planning_pb2.GetPlanResponse, ended: events.DeliberationCompleted, as_json: bool) -> None:
    plan = stored.plan
    if as_json:
        found = {
            "story_id": plan.story_id,
            "plan_id": plan.plan_id,
            "state": plan.state,
            "deliberation_id": ended.deliberation_id,
            "decision_id": ended.decision_id,
            "tasks": [task.task_id for task in plan.tasks],
        }
        print(safe.json_line(found))
        return
    safe.console().print(show.plan(stored))
    print(f"drafted by {safe.line(ended.winner)} in {safe.line(ended.deliberation_id)}")
    print(f"next: fleet plan approve {safe.line(plan.plan_id)}")


def _say_refused(ended: events.DeliberationCompleted, error: Problems, as_json: bool) -> int:
    print(client.sentence(error), file=sys.stderr)
    name = safe.line(ended.deliberation_id)
    print(f"no plan is stored; `fleet deliberation show {name}` shows the answer", file=sys.stderr)
    if as_json:
        found = {"deliberation_id": ended.deliberation_id, "decision_id": ended.decision_id, "problems": error.lines}
        print(safe.json_line(found))
    return REFUSED
