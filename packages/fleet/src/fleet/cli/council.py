"""`fleet council …`: the agents that answer for a role."""

from typing import Annotated

import typer

from fleet.cli import client, outcomes, safe
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, RPC_SECONDS
from fleet.cli.options import AsJson, Number, Protocol, numbers_of
from fleet_wire import ids
from fleet_wire.errors import AlreadyExists, NotFound
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.rpc import call

app = typer.Typer(help="Make, list and remove councils.", no_args_is_help=True)

HINTS: client.Hints = {
    AlreadyExists: "`fleet council delete ROLE` removes it; deliberations that run keep their seats",
    NotFound: "`fleet council list` names the councils there are",
}

Role = Annotated[str, typer.Argument(metavar="ROLE", help=f"One of {', '.join(ids.ROLES)}.")]


@app.command()
def create(
    role: Role,
    agents: Annotated[int, typer.Option(min=1, max=15, help="How many agents.")] = 3,
    quorum: Annotated[
        int, typer.Option(min=0, max=15, help="How many answers decide; 0 for half of the agents, plus 1.")
    ] = 0,
    protocol: Protocol = "",
    number: Number = None,
    as_json: AsJson = False,
) -> None:
    """Make a council. Its protocol is `auto`, which chooses by the task, unless another is given.

    Examples:  fleet council create DEV --agents 5
               fleet council create QA --protocol tournament --number finalists=3
    """

    async def main() -> int:
        asked = orchestrator_pb2.CreateCouncilRequest(
            role=ids.check_role("ROLE", role.upper()),
            agents=agents,
            quorum=quorum,
            protocol=protocol,
            numbers=numbers_of(number),
        )
        async with client.clients(addresses()) as to:
            answer = await call(to.orchestrator.CreateCouncil(asked, timeout=RPC_SECONDS), "the orchestrator")
        _print([answer.council], as_json)
        return DONE

    client.run(main, HINTS)


@app.command("list")
def list_councils(as_json: AsJson = False) -> None:
    """List the councils with their agents and what each does now.

    Example:  fleet council list
    """

    async def main() -> int:
        asked = orchestrator_pb2.ListCouncilsRequest()
        async with client.clients(addresses()) as to:
            answer = await call(to.orchestrator.ListCouncils(asked, timeout=RPC_SECONDS), "the orchestrator")
        if answer.councils or as_json:
            _print(list(answer.councils), as_json)
        else:
            print("there is no council; `fleet council create ROLE` makes one")
        return DONE

    client.run(main, HINTS)


@app.command()
def delete(role: Role, as_json: AsJson = False) -> None:
    """Remove a council. Deliberations that run keep their seats.

    Example:  fleet council delete DATA
    """

    async def main() -> int:
        asked = orchestrator_pb2.DeleteCouncilRequest(role=ids.check_role("ROLE", role.upper()))
        async with client.clients(addresses()) as to:
            await call(to.orchestrator.DeleteCouncil(asked, timeout=RPC_SECONDS), "the orchestrator")
        print(safe.json_line({"role": asked.role, "deleted": True}) if as_json else f"council {asked.role} is removed")
        return DONE

    client.run(main, HINTS)


def _print(found: list[orchestrator_pb2.Council], as_json: bool) -> None:
    if as_json:
        for council in found:
            print(safe.json_line(council))
    else:
        safe.console().print(outcomes.councils(found))
