"""`fleet decisions override`: a person decides otherwise."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli import changing, client
from fleet.cli.addresses import addresses
from fleet.cli.changing import By, RequestId
from fleet.cli.client import RPC_SECONDS
from fleet.cli.options import AsJson, decision_id_of
from fleet.deliberation.plan_rules import MAX_TITLE
from fleet_wire.errors import Invalid
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.rpc import call


def override(
    decision_id: Annotated[str, typer.Argument(metavar="ID", help="The decision's id, or its deliberation's.")],
    reason: Annotated[str, typer.Option(help="Why; kept with the decision.")],
    title: Annotated[str, typer.Option(help="What is decided now, in a few words; the old title unless given.")] = "",
    content: Annotated[str, typer.Option(metavar="TEXT", help="What is decided now; the reason unless given.")] = "",
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="A file with what is decided now.")] = None,
    by: By = "",
    request_id: RequestId = "",
    as_json: AsJson = False,
) -> None:
    """Decide otherwise than a council, or than a person before: makes a decision that supersedes that one. Tasks that start
    from now on get the new one; what relied on the old one is flagged, and a person may have it tried again.

    Examples:  fleet decisions override dec-delib-5a0c --by "the team lead" --reason "the audit forbids it" --file new.md
               fleet decisions override dec-delib-5a0c --reason "use bcrypt, as everywhere else"
    """

    async def main() -> int:
        if content and file is not None:
            raise Invalid("--content and --file: give one of them")
        wanted = decision_id_of(decision_id)
        text = content or (changing.text_of("--file", file) if file is not None else reason)
        async with client.clients(addresses()) as to:
            found = title
            if not found:
                asked = context_pb2.ExplainDecisionRequest(decision_id=wanted)
                old = await call(to.context.ExplainDecision(asked, timeout=RPC_SECONDS), "context")
                found = old.decision.title[:MAX_TITLE]
            told = context_pb2.OverrideDecision(decision_id=wanted, title=found, content=text, reason=reason)
            return await changing.change(to, context_pb2.Change(override=told), by, request_id, as_json)

    client.run(main, changing.HINTS)
