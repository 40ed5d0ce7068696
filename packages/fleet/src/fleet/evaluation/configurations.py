"""What is compared: protocols with a number of agents, and what each deliberation may spend, which is the same for all."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from fleet.deliberation.protocols import AUTO, PROTOCOLS, check_numbers, check_protocol
from fleet_wire.errors import Invalid

MAX_AGENTS = 15
PROMPT_BYTES = 4096
"""About what the council's words around a task take."""
BYTES_PER_TOKEN = 4
"""Of text that a model wrote, about."""
MESSAGE_OVERHEAD = 64
"""Tokens that a chat template may add to a message."""
ROUND_UP = 1000


class Configuration(Struct, frozen=True, kw_only=True):
    """A protocol with the seats that propose. `numbers` holds all that is asked for, `agents` among them."""

    protocol: str
    agents: int
    numbers: dict[str, float] = {}

    @property
    def name(self) -> str:
        """What the report card calls it."""
        return self.protocol if self.protocol == "single" else f"{self.protocol}-{self.agents}"

    @property
    def testers(self) -> int:
        """Agents of the QA council that it needs."""
        if self.protocol == AUTO:
            return int(self.numbers.get("testers", PROTOCOLS["best_of_n"].numbers["testers"].default))
        wanted = PROTOCOLS[self.protocol].numbers.get("testers")
        return int(self.numbers.get("testers", wanted.default)) if wanted else 0


def configurations(
    protocols: Sequence[str], agents: Sequence[int], numbers: Mapping[str, float]
) -> tuple[Configuration, ...]:
    """Each protocol with each number of agents, `single` once. `numbers` go to the protocols that have them. Raises Invalid for
    an unknown protocol, for a number that none of them has, and for one out of bounds."""
    for count in agents:
        if not 1 <= count <= MAX_AGENTS:
            raise Invalid(f"--agents must be from 1 to {MAX_AGENTS}, not {count}")
    found: dict[str, Configuration] = {}
    taken: set[str] = {"agents"} & set(numbers)
    if taken:
        raise Invalid("--number agents=… is what --agents is for")
    for protocol in protocols:
        known = _known(check_protocol("--protocols", protocol))
        mine = {name: value for name, value in numbers.items() if name in known}
        taken |= set(mine)
        check_numbers("--number", protocol, mine)
        for count in (1,) if protocol == "single" else agents:
            one = Configuration(protocol=protocol, agents=count, numbers={**mine, "agents": float(count)})
            found[one.name] = one
    unknown = sorted(set(numbers) - taken)
    if unknown:
        raise Invalid(f"--number {unknown[0]} is a number of none of {', '.join(protocols)}")
    if not found:
        raise Invalid("--protocols must name at least one protocol")
    return tuple(found.values())


def equal_budget(compared: Iterable[Configuration], task_bytes: int, max_tokens: int) -> int:
    """Tokens with which the largest of the configurations is not held back by the longest task: the budget of each
    deliberation, whatever its configuration. What a call may use is reserved before it is made, a token for each byte of its
    prompt, so this is more than any of them spends."""
    most = max(_tokens(one, task_bytes, max_tokens) for one in compared)
    return -(-most // ROUND_UP) * ROUND_UP


def _known(protocol: str) -> set[str]:
    if protocol == AUTO:
        return {*PROTOCOLS["best_of_n"].numbers, *PROTOCOLS["tournament"].numbers}
    return set(PROTOCOLS[protocol].numbers)


def _tokens(one: Configuration, task_bytes: int, max_tokens: int) -> int:
    """By an estimate from above of each phase."""
    if one.protocol == AUTO:
        both = (Configuration(protocol=name, agents=one.agents) for name in ("best_of_n", "tournament"))
        return max(_tokens(each, task_bytes, max_tokens) for each in both)
    numbers = {name: number.default for name, number in PROTOCOLS[one.protocol].numbers.items()} | one.numbers
    asked = task_bytes + PROMPT_BYTES + 2 * MESSAGE_OVERHEAD
    answer = max_tokens * BYTES_PER_TOKEN
    critics = int(numbers.get("critics", 0))
    last = min(one.agents, int(numbers.get("finalists", 0)))
    tokens = {
        "propose": one.agents * (asked + max_tokens),
        "tests": int(numbers.get("testers", 0)) * (asked + max_tokens),
        "critique": one.agents * critics * (asked + answer + max_tokens),
        "revise": one.agents * (asked + (1 + critics) * answer + 8 * 2048 + max_tokens),
        # Each verdict may be asked for a second time, with the first answer added.
        "judge": last * (last - 1) * (2 * (asked + 2 * answer + max_tokens) + max_tokens + 2 * MESSAGE_OVERHEAD),
    }
    return sum(tokens.get(phase, 0) for step in PROTOCOLS[one.protocol].phases for phase in step)
