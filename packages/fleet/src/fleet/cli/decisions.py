"""`fleet decisions …`: what was decided, and why."""

from typing import Annotated

import typer

from fleet.cli import client, safe, show
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, RPC_SECONDS
from fleet.cli.override import override
from fleet_wire import ids
from fleet_wire.errors import NotFound
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.rpc import call

app = typer.Typer(help="Find decisions and why they were taken, and decide otherwise.", no_args_is_help=True)

HINTS: client.Hints = {NotFound: "`fleet decisions list` names the decisions there are"}

app.command("override")(override)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text, one line for each.")]
PAGE = 100


@app.command("list")
def list_decisions(
    query: Annotated[str, typer.Option(help="Words that all stand in the title or content.")] = "",
    story: Annotated[str, typer.Option(metavar="ID", help="Only of this story.")] = "",
    plan: Annotated[str, typer.Option(metavar="ID", help="Only of this plan.")] = "",
    role: Annotated[str, typer.Option(help=f"Only of this council: {', '.join(ids.ROLES)}.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List decisions, newest first.

    Examples:  fleet decisions list --role DEV
               fleet decisions list --query "rate limit" --json
    """

    async def main() -> int:
        asked = context_pb2.SearchDecisionsRequest(
            query=query,
            story_id=ids.check_id("--story", story) if story else "",
            plan_id=ids.check_id("--plan", plan) if plan else "",
            role=ids.check_role("--role", role.upper()) if role else "",
        )
        found: list[context_pb2.Decision] = []
        async with client.clients(addresses()) as to:
            while len(found) < limit:
                asked.page_size = min(PAGE, limit - len(found))
                answer = await call(to.context.SearchDecisions(asked, timeout=RPC_SECONDS), "context")
                found.extend(answer.decisions)
                if not answer.next_page_token or not answer.decisions:
                    break
                asked.page_token = answer.next_page_token
        if as_json:
            for decision in found:
                print(safe.json_line(decision))
        elif found:
            safe.console().print(show.decisions(found))
        else:
            print("no decision matches")
        return DONE

    client.run(main, HINTS)


@app.command()
def why(
    decision_id: Annotated[str, typer.Argument(metavar="ID", help="The decision's id, or its deliberation's.")],
    as_json: AsJson = False,
) -> None:
    """Explain a decision: its proposals with scores and checks, the dissent, and what it was based on.

    Example:  fleet decisions why dec-delib-5a0c
    """

    async def main() -> int:
        wanted = ids.check_id("ID", decision_id)
        if wanted.startswith("delib-"):
            wanted = ids.decision_id(wanted)
        async with client.clients(addresses()) as to:
            asked = context_pb2.ExplainDecisionRequest(decision_id=wanted)
            answer = await call(to.context.ExplainDecision(asked, timeout=RPC_SECONDS), "context")
        if as_json:
            print(safe.json_line(answer))
        else:
            safe.console().print(show.explanation(answer))
        return DONE

    client.run(main, HINTS)
