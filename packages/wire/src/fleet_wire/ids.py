"""Identities. Derived wherever a retry can happen, so that a repeated step names the same thing again.

Derived ids are a prefix and the first 24 hex digits (96 bits) of a SHA-256 over the parts, joined by a character that no
id may hold.
"""

import hashlib
import re

from fleet_wire.errors import Invalid

ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$(?!\n)"
"""The last part because `$` alone lets a final line break pass; JavaScript, where it does not, reads it the same."""
ROLES = ("DEV", "QA", "ARCHITECT", "DEVOPS", "DATA")
DELIBERATION = "delib"
"""What the ids of deliberations begin with."""
DECISION = "dec"
"""What the ids of decisions begin with."""
AGENT = "agent"
"""What the ids of agents begin with."""

_ID = re.compile(ID_PATTERN)


def check_id(field: str, value: str) -> str:
    """The value, if it is a valid id; raises Invalid naming the field otherwise."""
    if not _ID.match(value):
        raise Invalid(f"{field} must match [A-Za-z0-9_-]{{1,64}}, not {value[:80]!r}")
    return value


def check_role(field: str, value: str) -> str:
    """The value, if it is one of ROLES; raises Invalid naming the field otherwise."""
    if value not in ROLES:
        raise Invalid(f"{field} must be one of {', '.join(ROLES)}, not {value[:80]!r}")
    return value


def derived(prefix: str, *parts: object) -> str:
    """An id that is the same for the same parts."""
    digest = hashlib.sha256("|".join(str(part) for part in parts).encode()).hexdigest()
    return f"{prefix}-{digest[:24]}"


def deliberation_id(plan_id: str, task_id: str, number: int) -> str:
    """Id of the `number`-th try (from 1) of a task; an ad-hoc request's id takes the plan's place."""
    return derived(DELIBERATION, plan_id, task_id, number)


def is_deliberation(value: str) -> bool:
    """Whether an id is one that `deliberation_id` makes."""
    return value.startswith(f"{DELIBERATION}-")


def job_id(deliberation: str, phase: str, agent: str, item: str, attempt: int) -> str:
    """Id of one agent's work in one phase; `item` tells several of an agent apart and is empty where there is one."""
    return derived("job", deliberation, phase, agent, item, attempt)


def decision_id(deliberation: str) -> str:
    """Id of the one decision a deliberation can end in."""
    return f"{DECISION}-{deliberation}"


def deliberation_of(decision: str) -> str:
    """The deliberation that can end in this decision; of a person's ruling, an id that is no deliberation's."""
    return decision[len(DECISION) + 1 :]


def agent_id(role: str, number: int) -> str:
    """Id of a council's `number`-th seat, from 1."""
    return f"{AGENT}-{role}-{number:03d}"


def is_agent(value: str) -> bool:
    """Whether an id is one that `agent_id` makes."""
    return value.startswith(f"{AGENT}-")
