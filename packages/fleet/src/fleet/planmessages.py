"""Tasks and budgets, between the events' types and the messages of planning and orchestrator: the one list of their fields.

Values are carried over as they are; what they must keep is checked by whoever takes them in: `check_how`, `check_numbers`,
`check_budget` and `check_entry_point` are the same for a plan's file, for planning and for the command line.
"""

import math
import re
from collections.abc import Mapping
from typing import TypeVar

from fleet.deliberation import protocols
from fleet_wire.errors import Invalid
from fleet_wire.events import Budget, PlanTask
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as orchestrator_pb
from fleet_wire.gen.planning.v1 import planning_pb2 as pb

NUMBER_PATTERN = r"^[a-z_]{1,32}$(?!\n)"
"""The name of a protocol's number."""
MAX_NUMBERS = 16
MAX_ENTRY_POINT = 100
"""Characters."""
NO_LIMITS = Budget()

Message = TypeVar("Message", pb.Budget, orchestrator_pb.Budget)


def task_message(task: PlanTask) -> pb.Task:
    """The task as planning takes and gives it."""
    return pb.Task(
        task_id=task.task_id,
        title=task.title,
        description=task.description,
        role=task.role,
        requirements=task.requirements,
        acceptance=task.acceptance,
        depends_on=task.depends_on,
        protocol=task.protocol or "",
        numbers=task.numbers,
        budget=budget_message(task.budget, pb.Budget),
        entry_point=task.entry_point,
    )


def task_of(message: pb.Task) -> PlanTask:
    """The task in a message. Nothing of it has been checked."""
    return PlanTask(
        task_id=message.task_id,
        title=message.title,
        description=message.description,
        role=message.role,  # type: ignore[arg-type]
        requirements=list(message.requirements),
        acceptance=list(message.acceptance),
        depends_on=list(message.depends_on),
        protocol=message.protocol or None,
        numbers=dict(message.numbers),
        budget=budget_of(message.budget),
        entry_point=message.entry_point,
    )


def budget_message(budget: Budget, kind: type[Message]) -> Message | None:
    """The budget as a field of that service takes it; None, which leaves the field unset, where it sets no limit."""
    if budget == NO_LIMITS:
        return None
    return kind(tokens=budget.tokens, calls=budget.calls, seconds=budget.seconds)


def budget_of(message: pb.Budget | orchestrator_pb.Budget) -> Budget:
    """The budget in a message of either service; one that is not set has no limits."""
    return Budget(tokens=message.tokens, calls=message.calls, seconds=message.seconds)


def check_how(field: str, task: PlanTask) -> None:
    """Protocol, numbers, budget and entry point of a task; raises Invalid naming the field, and the protocols or numbers that
    there are. Numbers without a protocol are those of the council's, and are only known to the council."""
    check_numbers(f"{field}.numbers", task.numbers)
    if task.protocol:
        protocols.check_protocol(f"{field}.protocol", task.protocol)
        protocols.check_numbers(f"{field}.numbers", task.protocol, task.numbers)
    check_budget(f"{field}.budget", task.budget)
    check_entry_point(f"{field}.entry_point", task.entry_point)


def check_numbers(field: str, numbers: Mapping[str, float]) -> None:
    """Raises Invalid naming the field. Which numbers there are is the protocol's to say."""
    if len(numbers) > MAX_NUMBERS:
        raise Invalid(f"{field} holds {len(numbers)} entries, above the limit of {MAX_NUMBERS}")
    for name, value in numbers.items():
        if not re.match(NUMBER_PATTERN, name):
            raise Invalid(f"{field}: a name must match [a-z_]{{1,32}}, not {name[:80]!r}")
        _check_amount(f"{field}.{name}", value)


def check_budget(field: str, budget: Budget) -> None:
    """Raises Invalid naming the field."""
    _check_amount(f"{field}.seconds", budget.seconds)
    for name, value in (("tokens", budget.tokens), ("calls", budget.calls)):
        if value >= 2**31:
            raise Invalid(f"{field}.{name} must be below 2147483648, or 0 for no limit, not {value}")


def check_entry_point(field: str, name: str) -> None:
    """Raises Invalid naming the field."""
    if name and not (name.isidentifier() and name.isascii() and len(name) <= MAX_ENTRY_POINT):
        raise Invalid(
            f"{field} must be the name of a Python function of up to {MAX_ENTRY_POINT} ASCII characters, "
            f"or empty, not {name[:80]!r}"
        )


def _check_amount(field: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise Invalid(f"{field} must be a number from 0 up, not {value}")
