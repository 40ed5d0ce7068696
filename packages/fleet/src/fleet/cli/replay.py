"""`fleet replay`: a stored deliberation decided again under another protocol, with the answers it has."""

import sys
from typing import Annotated, Any

import msgspec
import typer

from fleet.cli import client, live, outcomes, safe
from fleet.cli.addresses import addresses
from fleet.cli.client import RPC_SECONDS
from fleet.cli.following import Ended, outcome
from fleet.cli.options import (
    BudgetCalls,
    BudgetSeconds,
    BudgetTokens,
    Number,
    Protocol,
    RequestId,
    Timeout,
    budget_of,
    numbers_of,
    request_id_of,
)
from fleet.planmessages import budget_message
from fleet_wire import events, ids
from fleet_wire.errors import Invalid, NotFound, Precondition
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.rpc import call


def replay(
    deliberation_id: Annotated[str, typer.Argument(metavar="ID", help="A deliberation that has ended.")],
    protocol: Protocol = "",
    number: Number = None,
    budget_tokens: BudgetTokens = 0,
    budget_calls: BudgetCalls = 0,
    budget_seconds: BudgetSeconds = 0,
    timeout: Timeout = 0,
    request_id: RequestId = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print both outcomes as one line of JSON.")] = False,
) -> None:
    """Decide a deliberation again under another protocol. Answers to the same questions are taken over; the model is asked
    only for what is missing.

    Ends with 0 for a decision and 1 for a failure. The old decision stays what it was.

    Examples:  fleet replay delib-5a0c --protocol vote
               fleet replay delib-5a0c --protocol best_of_n --number testers=2
    """

    async def main() -> int:
        name = ids.check_id("ID", deliberation_id)
        if not protocol:
            raise Invalid("--protocol must be given: under which one to decide again")
        async with client.clients(addresses()) as to:
            before = await outcome(to, name)
            if before is None:
                raise Precondition(f"{name} has not ended yet")
            asked = orchestrator_pb2.DeliberateRequest(
                request_id=request_id_of(request_id),
                replay_of=name,
                protocol=protocol,
                numbers=numbers_of(number),
                budget=budget_message(budget_of(budget_tokens, budget_calls, budget_seconds), orchestrator_pb2.Budget),
                timeout_seconds=timeout,
            )
            answer = await call(to.orchestrator.Deliberate(asked, timeout=RPC_SECONDS), "the orchestrator")
            print(f"deliberation {safe.line(answer.deliberation_id)} replays {name}", file=sys.stderr)
            after = await live.follow(to, answer.deliberation_id, sys.stderr)
        if as_json:
            print(safe.json_line(as_values(before, after)))
        else:
            safe.console().print(outcomes.side_by_side(before, after))
            print(verdict(before, after))
        return live.exit_code(after)

    hints: client.Hints = {
        NotFound: "`fleet deliberation list` names the newest",
        Precondition: "`fleet deliberation watch ID` follows it",
    }
    client.run(main, hints)


def as_values(before: Ended, after: Ended) -> dict[str, Any]:
    """For programs."""
    return {
        "before": {"type": before.TYPE, "event": msgspec.to_builtins(before)},
        "after": {"type": after.TYPE, "event": msgspec.to_builtins(after)},
        "model_calls": after.calls,
        "same_content": same_content(before, after),
    }


def same_content(before: Ended, after: Ended) -> bool | None:
    """Whether both decided on the same text; None where one has no decision."""
    if isinstance(before, events.DeliberationCompleted) and isinstance(after, events.DeliberationCompleted):
        return before.decision.content == after.decision.content
    return None


def verdict(before: Ended, after: Ended) -> str:
    """What came of it in a line."""
    calls = f"{after.calls} calls to the model" if after.calls else "no call to the model"
    same = same_content(before, after)
    if same is None:
        return f"one of the two has no decision; {calls}"
    return f"{'the same decision' if same else 'another decision'}, with {calls}"
