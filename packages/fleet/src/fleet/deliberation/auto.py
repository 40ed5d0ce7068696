"""Which protocol is run, with which numbers: what was asked for, or, for `auto`, what the task and the means allow."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from fleet.deliberation.code import is_code_task
from fleet.deliberation.protocols import AUTO, PROTOCOLS, check_numbers, check_protocol
from fleet.deliberation.requests import MESSAGE_OVERHEAD
from fleet_wire.errors import Invalid
from fleet_wire.events import Budget, PlanTask

BYTES_PER_TOKEN = 4
"""Of text that a model wrote, about; only to estimate whether a budget suffices. What a phase may use is reserved exactly."""


class Chosen(Struct, frozen=True, kw_only=True):
    """A protocol with all of its numbers. `because` says why it was chosen, and which number could not be had; empty where what
    was asked for is what is run."""

    protocol: str
    numbers: dict[str, float]
    because: str = ""


def choose(
    *,
    asked: str,
    numbers: Mapping[str, float],
    task: PlanTask,
    seats: Sequence[str],
    testers: Sequence[str],
    sandbox: str,
    budget: Budget,
    prompt_bytes: int,
    max_tokens: int,
    response_schema: str = "",
) -> Chosen:
    """The protocol to run: `asked`, or for `auto` `best_of_n` for a code task, `tournament` for an open one, and `single`
    where the budget or the council allows no more.

    `sandbox` says why code cannot be run, empty where it can; `prompt_bytes` is the size of a proposer's messages
    (`requests.prompt_bytes`), `max_tokens` what each job may write, `response_schema` the form of the answers, if one is asked
    for. Raises Invalid for an unknown protocol or number, and for one that cannot run here, with the reason.
    """
    check_protocol("protocol", asked)
    wanted = check_numbers("numbers", asked, numbers)
    code = is_code_task(task, response_schema)
    if asked == AUTO:
        return _auto(wanted, code, seats, testers, sandbox, budget, prompt_bytes + 2 * MESSAGE_OVERHEAD, max_tokens)
    if asked == "best_of_n" and not code:
        raise Invalid(
            "best_of_n compares what code does, and this task asks for no Python code: take tournament or auto"
        )
    if asked == "best_of_n" and sandbox:
        raise Invalid(f"best_of_n runs code, and no sandbox can be made here ({sandbox}): take tournament or auto")
    chosen, missing = _numbers(asked, wanted, seats, testers)
    return Chosen(protocol=asked, numbers=chosen, because=missing)


def _auto(
    wanted: Mapping[str, float],
    code: bool,
    seats: Sequence[str],
    testers: Sequence[str],
    sandbox: str,
    budget: Budget,
    job_tokens: int,
    max_tokens: int,
) -> Chosen:
    name, because = "tournament", "an open task"
    if code and sandbox:
        because = f"a code task, but no sandbox can be made: {sandbox}"
    elif code:
        name, because = "best_of_n", "a code task"
    numbers, missing = _numbers(name, wanted, seats, testers)
    most = int(numbers["agents"])
    agents = most
    while agents > 1 and not _affordable(name, {**numbers, "agents": agents}, budget, job_tokens, max_tokens):
        agents -= 1
    if agents < 2:
        why = "the council has one seat to propose" if most < 2 else "the budget allows no more than one proposal"
        return Chosen(protocol="single", numbers={"agents": 1.0}, because=f"{because}, and {why}")
    if agents < most:
        because += f"; the budget allows {agents} of {most} seats to propose"
    because = "; ".join(part for part in (because, missing) if part)
    return Chosen(protocol=name, numbers={**numbers, "agents": float(agents)}, because=because)


def _numbers(
    protocol: str, wanted: Mapping[str, float], seats: Sequence[str], testers: Sequence[str]
) -> tuple[dict[str, float], str]:
    """All numbers of a protocol, and which could not be had in full."""
    found = {name: wanted.get(name, one.default) for name, one in PROTOCOLS[protocol].numbers.items()}
    missing = []
    for name, there in (("agents", seats), ("testers", testers or seats)):
        if name not in found:
            continue
        asked = int(found[name])
        found[name] = float(min(asked or len(there), len(there)))
        if name in wanted and asked > len(there):
            missing.append(f"{asked} {name} were asked for, and {len(there)} are there")
    return {name: float(value) for name, value in found.items()}, "; ".join(missing)


def _affordable(protocol: str, numbers: Mapping[str, float], budget: Budget, job_tokens: int, max_tokens: int) -> bool:
    """Whether the whole protocol fits the budget, by an estimate."""
    proposals = int(numbers["agents"])
    calls = proposals
    tokens = calls * (job_tokens + max_tokens)
    if protocol == "best_of_n":
        calls += int(numbers["testers"])
        tokens += int(numbers["testers"]) * (job_tokens + max_tokens)
    else:
        last = min(proposals, int(numbers["finalists"]))
        verdicts = last * (last - 1)
        calls += 2 * verdicts  # each may be asked for twice: see `requests.reserve`
        tokens += verdicts * (2 * (job_tokens + 2 * max_tokens * BYTES_PER_TOKEN + max_tokens) + max_tokens)
    return (not budget.tokens or tokens <= budget.tokens) and (not budget.calls or calls <= budget.calls)
