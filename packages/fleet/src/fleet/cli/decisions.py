"""`fleet decisions …`: what was decided, and why."""

import datetime as dt
import itertools
import sys
from typing import Annotated

import typer

from fleet.cli import client, mermaid, safe, show
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, RPC_SECONDS
from fleet.cli.options import AsJsonLines, decision_id_of
from fleet.cli.override import override
from fleet_wire import ids
from fleet_wire.errors import Invalid, NotFound
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.rpc import call, timestamp

app = typer.Typer(help="Find decisions and why they were taken, and decide otherwise.", no_args_is_help=True)

HINTS: client.Hints = {NotFound: "`fleet decisions list` names the decisions there are"}

app.command("override")(override)

PAGE = 100

Story = Annotated[str, typer.Option(metavar="ID", help="Only of this story.")]
Plan = Annotated[str, typer.Option(metavar="ID", help="Only of this plan.")]
Role = Annotated[str, typer.Option(help=f"Only of this council: {', '.join(ids.ROLES)}.")]
Since = Annotated[
    str, typer.Option(metavar="TIME", help="Decided then or later: 2026-03-01, or 2026-03-01T12:00 here.")
]
Until = Annotated[str, typer.Option(metavar="TIME", help="Decided before then.")]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many to show.")]


@app.command("list")
def list_decisions(
    query: Annotated[str, typer.Option(help="As in `fleet decisions search`.")] = "",
    story: Story = "",
    plan: Plan = "",
    role: Role = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = 50,
    as_json: AsJsonLines = False,
) -> None:
    """List decisions, the newest first; with --query what fits best.

    Examples:  fleet decisions list --role DEV
               fleet decisions list --since 2026-03-01 --json
    """

    async def main() -> int:
        return await _print_found(_asked(query, story, plan, role, since, until), limit, as_json)

    client.run(main, HINTS)


@app.command()
def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Words, or how words begin.")],
    story: Story = "",
    plan: Plan = "",
    role: Role = "",
    since: Since = "",
    until: Until = "",
    limit: Limit = 50,
    as_json: AsJsonLines = False,
) -> None:
    """Find decisions whose title, content and rationale have all the words; what fits best first.

    Examples:  fleet decisions search "rate limit"
               fleet decisions search token --role ARCHITECT --since 2026-03-01
    """

    async def main() -> int:
        if not text.strip():
            raise Invalid("TEXT must have a word; `fleet decisions list` lists all")
        return await _print_found(_asked(text, story, plan, role, since, until), limit, as_json)

    client.run(main, HINTS)


@app.command()
def why(
    decision_id: Annotated[str, typer.Argument(metavar="ID", help="The decision's id, or its deliberation's.")],
    as_json: AsJsonLines = False,
    as_mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart instead of text.")] = False,
) -> None:
    """Explain a decision: its proposals with scores and checks, the dissent, what it depended on, what has depended on it since,
    and what took its place.

    Examples:  fleet decisions why dec-delib-5a0c
               fleet decisions why dec-delib-5a0c --mermaid > why.mmd
    """

    async def main() -> int:
        if as_json and as_mermaid:
            raise Invalid("--json and --mermaid exclude each other")
        wanted = decision_id_of(decision_id)
        async with client.clients(addresses()) as to:
            asked = context_pb2.ExplainDecisionRequest(decision_id=wanted)
            answer = await call(to.context.ExplainDecision(asked, timeout=RPC_SECONDS), "context")
        if as_json:
            print(safe.json_line(answer))
        elif as_mermaid:
            print(mermaid.why(answer))
        else:
            safe.console().print(show.explanation(answer))
        return DONE

    client.run(main, HINTS)


def _asked(query: str, story: str, plan: str, role: str, since: str, until: str) -> context_pb2.SearchDecisionsRequest:
    return context_pb2.SearchDecisionsRequest(
        query=query,
        story_id=ids.check_id("--story", story) if story else "",
        plan_id=ids.check_id("--plan", plan) if plan else "",
        role=ids.check_role("--role", role.upper()) if role else "",
        since=timestamp(_moment("--since", since)),
        until=timestamp(_moment("--until", until)),
    )


async def _print_found(asked: context_pb2.SearchDecisionsRequest, limit: int, as_json: bool) -> int:
    found: list[context_pb2.Decision] = []
    relevance: list[float] = []
    async with client.clients(addresses()) as to:
        while len(found) < limit:
            asked.page_size = min(PAGE, limit - len(found))
            answer = await call(to.context.SearchDecisions(asked, timeout=RPC_SECONDS), "context")
            found.extend(answer.decisions)
            relevance.extend(answer.relevance)
            if not answer.next_page_token or not answer.decisions:
                break
            asked.page_token = answer.next_page_token
    if as_json:
        for decision, fits in itertools.zip_longest(found, relevance):
            told = safe.plain(decision)
            print(safe.json_line(told if fits is None else {**told, "relevance": fits}))
    elif found:
        safe.console().print(show.decisions(found, relevance))
    else:
        print("no decision matches")
    if found and asked.query.strip() and not relevance:
        print("the graph database has no full-text index: searched by words, the newest first", file=sys.stderr)
    return DONE


def _moment(option: str, given: str) -> dt.datetime | None:
    """A time of this machine's zone, unless it says another; raises Invalid."""
    if not given:
        return None
    try:
        return dt.datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError) as error:
        raise Invalid(f"{option} must be a time such as 2026-03-01 or 2026-03-01T12:00, not {given[:80]!r}") from error
