"""Councils: which agents answer for a role, how many must, and by which protocol. Pure rules; the records live in a bucket."""

import re
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from fleet.deliberation import protocols
from fleet.deliberation.state import default_quorum
from fleet_wire import ids
from fleet_wire.errors import AlreadyExists, Invalid, NotFound, Precondition

DEFAULT_AGENTS = 3
MAX_AGENTS = 15
DEFAULT_PROTOCOL = protocols.AUTO
"""What an empty name means."""


class Council(Struct, frozen=True, kw_only=True):
    """The record. `quorum` 0 means the default: half the agents rounded down, plus 1. `numbers` are the protocol's, where they
    are not its defaults."""

    role: str
    agents: tuple[str, ...]
    quorum: int = 0
    protocol: str = DEFAULT_PROTOCOL
    numbers: dict[str, float] = {}

    def needed(self) -> int:
        """How many answers decide."""
        return self.quorum or default_quorum(len(self.agents))


def make(
    role: str,
    agents: int = DEFAULT_AGENTS,
    quorum: int = 0,
    protocol: str = "",
    numbers: Mapping[str, float] | None = None,
) -> Council:
    """A council with seats 1 to `agents`; raises Invalid naming the field that is wrong."""
    ids.check_role("role", role)
    if not 1 <= agents <= MAX_AGENTS:
        raise Invalid(f"agents must be 1 to {MAX_AGENTS}, not {agents}")
    if quorum > agents:
        raise Invalid(f"quorum must be 0 for the default or 1 to the number of agents ({agents}), not {quorum}")
    seats = tuple(ids.agent_id(role, number) for number in range(1, agents + 1))
    name = protocols.check_protocol("protocol", protocol or DEFAULT_PROTOCOL)
    kept = protocols.check_numbers("numbers", name, numbers or {})
    return Council(role=role, agents=seats, quorum=quorum, protocol=name, numbers=kept)


def with_agent(council: Council, agent_id: str) -> Council:
    """The council with one more seat; an empty id takes the next free number."""
    if len(council.agents) >= MAX_AGENTS:
        raise Precondition(f"council {council.role} has {MAX_AGENTS} agents, and no more are allowed")
    if not agent_id:
        numbers = range(1, MAX_AGENTS + 2)
        agent_id = next(free for n in numbers if (free := ids.agent_id(council.role, n)) not in council.agents)
    ids.check_id("agent_id", agent_id)
    if not re.fullmatch(rf"agent-{council.role}-[0-9]{{3}}", agent_id):
        raise Invalid(f"agent_id must read agent-{council.role}-nnn, not {agent_id!r}")
    if agent_id in council.agents:
        raise AlreadyExists(f"council {council.role} has {agent_id} already")
    return msgspec.structs.replace(council, agents=tuple(sorted((*council.agents, agent_id))))


def without_agent(council: Council, agent_id: str) -> Council:
    """The council with that seat gone; a quorum that nobody could reach any more falls to the number of agents."""
    if agent_id not in council.agents:
        raise NotFound(f"council {council.role} has no agent {agent_id!r}")
    if len(council.agents) == 1:
        raise Precondition(f"{agent_id} is the last agent of council {council.role}: delete the council instead")
    agents = tuple(agent for agent in council.agents if agent != agent_id)
    return msgspec.structs.replace(council, agents=agents, quorum=min(council.quorum, len(agents)))
