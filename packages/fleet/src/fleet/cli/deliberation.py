"""`fleet deliberation …`: what councils deliberate on, and how far they are."""

from typing import Annotated

import typer

from fleet.cli import client, live, outcomes, safe
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, RPC_SECONDS
from fleet.cli.following import decoded
from fleet.cli.options import AsJson, Reason
from fleet_wire import ids
from fleet_wire.errors import NotFound, Precondition
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.rpc import call

app = typer.Typer(help="List, watch and cancel deliberations.", no_args_is_help=True)

HINTS: client.Hints = {
    NotFound: "`fleet deliberation list` names the newest",
    Precondition: "`fleet deliberation show ID` tells its state",
}

DeliberationId = Annotated[str, typer.Argument(metavar="ID", help="The deliberation's id.")]
PAGE = 100


@app.command("list")
def list_deliberations(
    state: Annotated[
        str, typer.Option(help="Only those that are preparing, running, deciding, completed or failed.")
    ] = "",
    plan: Annotated[str, typer.Option(metavar="ID", help="Only of this plan.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many to show, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List deliberations, newest first.

    Example:  fleet deliberation list --state running
    """

    async def main() -> int:
        asked = orchestrator_pb2.ListDeliberationsRequest(
            state=state, plan_id=ids.check_id("--plan", plan) if plan else ""
        )
        found: list[orchestrator_pb2.Deliberation] = []
        async with client.clients(addresses()) as to:
            while len(found) < limit:
                asked.page_size = min(PAGE, limit - len(found))
                answer = await call(to.orchestrator.ListDeliberations(asked, timeout=RPC_SECONDS), "the orchestrator")
                found.extend(answer.deliberations)
                if not answer.next_page_token or not answer.deliberations:
                    break
                asked.page_token = answer.next_page_token
        if as_json:
            for one in found:
                print(safe.json_line(one))
        elif found:
            safe.console().print(outcomes.deliberations(found))
        else:
            print("there is no such deliberation; `fleet deliberate` begins one")
        return DONE

    client.run(main, HINTS)


@app.command("show")
def show_deliberation(deliberation_id: DeliberationId, as_json: AsJson = False) -> None:
    """Show a deliberation: its protocol and why auto chose it, its phases with their jobs, and how it ended.

    Example:  fleet deliberation show delib-5a0c
    """

    async def main() -> int:
        asked = orchestrator_pb2.GetDeliberationResultRequest(deliberation_id=ids.check_id("ID", deliberation_id))
        async with client.clients(addresses()) as to:
            answer = await call(to.orchestrator.GetDeliberationResult(asked, timeout=RPC_SECONDS), "the orchestrator")
        ended = decoded(answer.outcome) if answer.outcome else None
        if as_json:
            values = {"deliberation": safe.plain(answer.deliberation), "outcome": ended}
            print(safe.json_line(values))
        else:
            safe.console().print(outcomes.deliberation(answer.deliberation, ended))
        return DONE

    client.run(main, HINTS)


@app.command()
def watch(
    deliberation_id: DeliberationId,
    as_json: Annotated[bool, typer.Option("--json", help="Print what happens as lines of JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="With --json, each piece of the agents' text too, which is much.")
    ] = False,
) -> None:
    """Follow a deliberation until it ends: its phases, the end of each job with its checks, and the text as it is written.

    Ends with 0 for a decision and 1 for a failure.

    Example:  fleet deliberation watch delib-5a0c
    """

    async def main() -> int:
        name = ids.check_id("ID", deliberation_id)
        async with client.clients(addresses()) as to:
            if as_json:
                ended = await live.print_json(to, name, everything, lambda line: print(line, flush=True))
                return live.exit_code(ended)
            return live.say_ended(await live.follow(to, name), as_json=False)

    client.run(main, HINTS)


@app.command()
def cancel(deliberation_id: DeliberationId, reason: Reason = "", as_json: AsJson = False) -> None:
    """End a deliberation that runs, and stop its calls to the model.

    Example:  fleet deliberation cancel delib-5a0c --reason "asked the wrong thing"
    """

    async def main() -> int:
        asked = orchestrator_pb2.CancelDeliberationRequest(
            deliberation_id=ids.check_id("ID", deliberation_id), reason=reason or f"by {client.user_name()}"
        )
        async with client.clients(addresses()) as to:
            answer = await call(to.orchestrator.CancelDeliberation(asked, timeout=RPC_SECONDS), "the orchestrator")
        if as_json:
            print(safe.json_line({"deliberation_id": deliberation_id, "state": answer.state}))
        else:
            print(f"deliberation {safe.line(deliberation_id)} is {safe.line(answer.state)}")
        return DONE

    client.run(main, HINTS)
