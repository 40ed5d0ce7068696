"""A deliberation at its start: whose seats, by which protocol and numbers, within what."""

import dataclasses
import datetime as dt

import msgspec

from fleet.deliberation.protocols import PROTOCOLS, check_numbers, check_protocol
from fleet.deliberation.state import Deliberation
from fleet.orchestrator.councils import DEFAULT_PROTOCOL, Council
from fleet.orchestrator.store import Store, council_key
from fleet_wire.errors import Invalid
from fleet_wire.events import Budget, FailureReason, PlanTask, StoryPhase

TESTERS = "QA"
"""The role whose council writes tests."""


@dataclasses.dataclass(frozen=True)
class Times:
    """`timeout` is a deliberation's, from its start. The server gets to know its deadline when that is no more than `ahead` away,
    at the start or by a sweep: most have ended by then."""

    timeout: dt.timedelta
    ahead: dt.timedelta

    def near(self, deadline: dt.datetime, at: dt.datetime) -> bool:
        """Whether at this moment the server knows the deadline, or is to know it."""
        return deadline - at <= self.ahead


class Bench(msgspec.Struct, frozen=True):
    """Who works on a task: the council of its role, and the one that writes its tests. None where there is no such council, or
    no tests are written."""

    council: Council | None
    testers: Council | None


async def bench_of(store: Store, task: PlanTask) -> Bench:
    """The councils as they are now, or were up to a second ago."""
    # Where the council or the task itself decides on the protocol, there may be tests.
    protocol = PROTOCOLS.get(task.protocol or "")
    roles = (task.role, TESTERS) if protocol is None or "testers" in protocol.numbers else (task.role,)
    found = [await store.kept_councils.get(council_key(role)) for role in dict.fromkeys(roles)]
    councils = {entry.value.role: entry.value for entry in found if entry is not None}
    return Bench(councils.get(task.role), councils.get(TESTERS))


def asked_for(task: PlanTask, council: Council | None) -> tuple[str, dict[str, float]]:
    """Protocol and numbers of a task: its own, else the council's. The council's numbers belong to the council's protocol."""
    protocol = task.protocol or (council.protocol if council else DEFAULT_PROTOCOL)
    if council is not None and protocol == council.protocol:
        return protocol, {**council.numbers, **task.numbers}
    return protocol, dict(task.numbers)


def new_deliberation(
    deliberation_id: str,
    task: PlanTask,
    bench: Bench,
    *,
    now: dt.datetime,
    times: Times,
    budget: Budget,
    plan_id: str = "",
    story_id: str = "",
    story_phase: StoryPhase = "build",
    number: int = 1,
    based_on: tuple[str, ...] = (),
    request_hash: str = "",
    replay_of: str = "",
    response_schema: str = "",
    max_tokens: int = 0,
) -> Deliberation:
    """A deliberation at its start. Without a council, or with an unknown protocol or number, it is one that has only to fail."""
    council = bench.council
    protocol, numbers = asked_for(task, council)
    timeout = times.timeout.total_seconds()
    deadline = now + dt.timedelta(seconds=min(timeout, budget.seconds or timeout))
    state = Deliberation(
        deliberation_id=deliberation_id,
        plan_id=plan_id,
        story_id=story_id,
        story_phase=story_phase,
        task=task,
        number=number,
        protocol=protocol,
        numbers=numbers,
        budget=budget,
        seats=council.agents if council else (),
        testers=bench.testers.agents if bench.testers else (),
        quorum=council.needed() if council else 1,
        created_at=now,
        deadline=deadline,
        scheduled=not times.near(deadline, now),
        based_on=based_on,
        request_hash=request_hash,
        replay_of=replay_of,
        response_schema=response_schema,
        max_tokens=max_tokens,
    )
    if council is None:
        return _stillborn(state, "no_council", f"role {task.role} has no council", now)
    try:
        check_protocol("protocol", protocol)
        check_numbers("numbers", protocol, numbers)
    except Invalid as error:
        return _stillborn(state, "error", str(error), now)
    return state


def _stillborn(state: Deliberation, by: FailureReason, detail: str, now: dt.datetime) -> Deliberation:
    return msgspec.structs.replace(state, status="deciding", closed_at=now, closed_by=by, detail=detail)
