"""Options that several commands have: a protocol's numbers, and budgets."""

import uuid
from collections.abc import Iterable
from typing import Annotated

import typer

from fleet.planmessages import check_budget, check_entry_point, check_numbers
from fleet_wire import events, ids
from fleet_wire.errors import Invalid

Protocol = Annotated[
    str, typer.Option(metavar="NAME", help="single, vote, best_of_n, tournament, peer_review, or auto, which chooses.")
]
Number = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="A number of the protocol, such as testers=2; may be given several times."),
]
BudgetTokens = Annotated[int, typer.Option(min=0, help="Tokens of prompts and answers at most; 0 for no limit.")]
BudgetCalls = Annotated[int, typer.Option(min=0, help="Calls to the model at most; 0 for no limit.")]
BudgetSeconds = Annotated[float, typer.Option(min=0, help="Seconds at most; 0 for no limit.")]
EntryPoint = Annotated[str, typer.Option(metavar="NAME", help="The Python function that is asked for, if one is.")]
Timeout = Annotated[
    float, typer.Option(min=0, max=86400, help="Seconds until the deadline; 0 for the service's own setting.")
]
RequestId = Annotated[str, typer.Option(help="Makes a repeated call safe: the same id gives the same deliberation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print JSON instead of text, one line for each.")]
Reason = Annotated[str, typer.Option(help="Why; stands in the outcome.")]


def numbers_of(given: Iterable[str] | None) -> dict[str, float]:
    """The numbers by name; raises Invalid for what does not read NAME=VALUE."""
    found: dict[str, float] = {}
    for word in given or ():
        name, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise Invalid(f"--number must read NAME=VALUE, such as testers=2, not {word[:80]!r}") from None
        if name in found:
            raise Invalid(f"--number gives {name[:80]!r} twice")
        found[name] = number
    check_numbers("--number", found)
    return found


def budget_of(tokens: int, calls: int, seconds: float) -> events.Budget:
    """The budget; raises Invalid where a limit is beyond what is taken."""
    budget = events.Budget(tokens=tokens, calls=calls, seconds=seconds)
    check_budget("--budget", budget)
    return budget


def request_id_of(given: str) -> str:
    """The id of a request that may be sent again; a random one where none is given. Raises Invalid for one that is no id."""
    return ids.check_id("--request-id", given) if given else f"cli-{uuid.uuid4().hex}"


def decision_id_of(given: str) -> str:
    """The id of a decision, also where its deliberation's is given; raises Invalid for one that is no id."""
    checked = ids.check_id("ID", given)
    return ids.decision_id(checked) if ids.is_deliberation(checked) else checked


def entry_point_of(name: str) -> str:
    """The name; raises Invalid where it is none of a Python function."""
    check_entry_point("--entry-point", name)
    return name
