"""`fleet deliberate`: one question to one council, outside any plan."""

import sys
from typing import Annotated

import typer

from fleet.cli import client, live, safe
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, RPC_SECONDS
from fleet.cli.options import (
    BudgetCalls,
    BudgetSeconds,
    BudgetTokens,
    EntryPoint,
    Number,
    Protocol,
    RequestId,
    Timeout,
    budget_of,
    entry_point_of,
    numbers_of,
    request_id_of,
)
from fleet.planmessages import budget_message
from fleet_wire import ids
from fleet_wire.errors import Invalid, Precondition
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.rpc import call


def deliberate(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What the council is to decide.")],
    role: Annotated[str, typer.Option(help=f"Which council: {', '.join(ids.ROLES)}.")],
    title: Annotated[str, typer.Option(help="A short name; the beginning of the task unless given.")] = "",
    requirement: Annotated[
        list[str] | None, typer.Option(help="What an answer must deal with; may be given several times.")
    ] = None,
    protocol: Protocol = "",
    number: Number = None,
    budget_tokens: BudgetTokens = 0,
    budget_calls: BudgetCalls = 0,
    budget_seconds: BudgetSeconds = 0,
    entry_point: EntryPoint = "",
    timeout: Timeout = 0,
    request_id: RequestId = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it until it ends.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one line of JSON.")] = False,
) -> None:
    """Ask one council one thing, and follow it until it is decided.

    Examples:  fleet deliberate "Write a function that parses a date" --role DEV
               fleet deliberate "Which tests does a login need?" --role QA --requirement "a wrong password"
               fleet deliberate "Write median(values)" --role DEV --protocol best_of_n --number testers=2 --budget-tokens 40000
    """

    async def main() -> int:
        if not task.strip():
            raise Invalid("TASK must not be empty")
        asked = orchestrator_pb2.DeliberateRequest(
            request_id=request_id_of(request_id),
            role=ids.check_role("--role", role.upper()),
            title=title or safe.line(task, 80),
            description=task,
            requirements=requirement or [],
            timeout_seconds=timeout,
            protocol=protocol,
            numbers=numbers_of(number),
            budget=budget_message(budget_of(budget_tokens, budget_calls, budget_seconds), orchestrator_pb2.Budget),
            entry_point=entry_point_of(entry_point),
        )
        async with client.clients(addresses()) as to:
            answer = await call(to.orchestrator.Deliberate(asked, timeout=RPC_SECONDS), "the orchestrator")
            if not wait:
                _say_begun(answer, as_json)
                return DONE
            print(f"deliberation {safe.line(answer.deliberation_id)}", file=sys.stderr)
            ended = await live.follow(to, answer.deliberation_id, sys.stderr)
        return live.say_ended(ended, as_json)

    client.run(main, {Precondition: "does the role have a council? `fleet status` lists them"})


def _say_begun(answer: orchestrator_pb2.DeliberateResponse, as_json: bool) -> None:
    if as_json:
        print(safe.json_line(answer))
    else:
        name = safe.line(answer.deliberation_id)
        print(f"deliberation {name} is {safe.line(answer.state)}\nnext: fleet watch {name}")
