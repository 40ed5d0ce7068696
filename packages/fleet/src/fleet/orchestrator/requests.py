"""What the orchestrator answers about what is going on, and what it does with councils."""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Callable, Sequence

import structlog

from fleet import paging
from fleet.deliberation.plan import Plan
from fleet.deliberation.state import LIVE, Deliberation
from fleet.orchestrator import councils
from fleet.orchestrator.clocks import Clock
from fleet.orchestrator.councils import Council
from fleet.orchestrator.live import DeliberationRecords, Markers, PlanRecords, running_of
from fleet.orchestrator.store import DefaultCouncils, Outcome, Store, council_key, outcome_key
from fleet_wire import ids
from fleet_wire.errors import AlreadyExists, Conflict, FleetError, NotFound
from fleet_wire.kv import change

log = structlog.get_logger(__name__)

DEFAULTS_KEY = "defaults"


@dataclasses.dataclass(frozen=True)
class Requests:
    """The ports of the requests."""

    store: Store
    records: DeliberationRecords
    plan_records: PlanRecords
    live: Markers
    live_plans: Markers
    clock: Clock

    async def deliberation(self, deliberation_id: str) -> Deliberation:
        """The record; raises NotFound."""
        state = await self.records.read(ids.check_id("deliberation_id", deliberation_id))
        if state is None:
            raise NotFound(f"no deliberation {deliberation_id}")
        return state

    async def outcome(self, deliberation_id: str) -> Outcome | None:
        """What it ended in, for as long as that is kept."""
        entry = await self.store.outcomes.get(outcome_key(deliberation_id))
        return entry.value if entry else None

    async def deliberations(self, status: str = "", plan_id: str = "") -> list[Deliberation]:
        """All that are kept, of this status and of this plan where these are named, newest first."""
        if status in LIVE:
            found = await self._live()
        elif plan_id:
            found = await self._of_plan(plan_id)
        else:
            newest = {entry.key: entry.value async for entry in self.store.deliberations.entries("state.")}
            found = list(newest.values())
        wanted = [
            state
            for state in found
            if (not status or state.status == status) and (not plan_id or state.plan_id == plan_id)
        ]
        return sorted(wanted, key=_newest, reverse=True)

    async def running(self) -> list[Deliberation]:
        """Those that have not ended."""
        return [state for state in await self._live() if state.status in LIVE]

    async def _live(self) -> list[Deliberation]:
        """Those that are not over: of plans that run, and of no plan."""
        plans = await self.live_plans.live(self.plan_records)
        found = {state.deliberation_id: state for state in await self.live.live(self.records)}
        names = [name for plan in plans for name in running_of(plan) if name not in found]
        read = await asyncio.gather(*(self.records.read(name) for name in names))
        return [*found.values(), *(state for state in read if state is not None and not self.records.over(state))]

    async def plan(self, plan_id: str) -> Plan:
        """The plan's progress; raises NotFound for one that was never approved."""
        plan = await self.plan_records.read(ids.check_id("plan_id", plan_id))
        if plan is None:
            raise NotFound(f"no approved plan {plan_id}")
        return plan

    async def running_plans(self) -> int:
        """How many plans have not ended."""
        return len(await self.live_plans.live(self.plan_records))

    async def create_council(self, council: Council) -> Council:
        """Saves it; raises AlreadyExists where the role has one."""
        try:
            await self.store.councils.create(council_key(council.role), council)
        except Conflict:
            raise AlreadyExists(f"role {council.role} has a council already") from None
        return council

    async def councils(self) -> list[Council]:
        """All councils, by the order of the roles."""
        found = [entry.value async for entry in self.store.councils.entries("council.")]
        return sorted(found, key=lambda council: ids.ROLES.index(council.role))

    async def delete_council(self, role: str) -> None:
        """Removes it; raises NotFound where the role has none."""
        if await self.store.councils.get(council_key(ids.check_role("role", role))) is None:
            raise NotFound(f"role {role} has no council")
        await self.store.councils.delete(council_key(role))

    async def change_council(self, role: str, step: Callable[[Council], Council]) -> Council:
        """Changes it by a rule of `councils`; raises NotFound where the role has none, and what the rule raises."""
        refused: list[FleetError] = []

        def attempt(council: Council | None) -> Council | None:
            refused.clear()
            try:
                if council is None:
                    raise NotFound(f"role {role} has no council")
                return step(council)
            except FleetError as error:
                refused.append(error)
                return None

        changed = await change(self.store.councils, council_key(ids.check_role("role", role)), attempt)
        if refused:
            raise refused[0]
        if changed is None:
            raise NotFound(f"role {role} has no council")
        return changed

    async def default_councils(self) -> int:
        """Makes one council for each role, once and for all replicas; answers how many it made. Where there are councils
        already and no word that the defaults were made, a start before was cut off: what is missing is made."""
        if await self.store.defaults.get(DEFAULTS_KEY) is not None:
            return 0
        made = 0
        for role in ids.ROLES:
            try:
                await self.create_council(councils.make(role))
                made += 1
            except AlreadyExists:
                continue
        try:
            await self.store.defaults.create(DEFAULTS_KEY, DefaultCouncils(made_at=self.clock()))
        except Conflict:
            log.info("another replica made the default councils")
        return made

    async def _of_plan(self, plan_id: str) -> list[Deliberation]:
        """Those of all tries of a plan's tasks; none where the plan is not known."""
        plan = await self.plan_records.read(plan_id)
        names = [
            ids.deliberation_id(plan_id, task.task.task_id, number)
            for task in (plan.tasks if plan else ())
            for number in range(1, task.number + 1)
        ]
        found = await asyncio.gather(*(self.records.read(name) for name in names))
        return [state for state in found if state is not None]


def page(found: Sequence[Deliberation], page_size: int, page_token: str) -> tuple[Sequence[Deliberation], str]:
    """One page of deliberations sorted newest first, and the token of the next; raises Invalid naming the field."""
    size = paging.size(page_size)
    if page_token:
        after = _place(page_token)
        found = [state for state in found if _newest(state) < after]
    shown = found[:size]
    return shown, paging.token("|".join(_newest(shown[-1]))) if len(found) > size else ""


def _newest(state: Deliberation) -> tuple[str, str]:
    return state.created_at.isoformat(), state.deliberation_id


def _place(page_token: str) -> tuple[str, str]:
    try:
        created_at, deliberation_id = paging.place(page_token).split("|")
        dt.datetime.fromisoformat(created_at)
    except ValueError as error:
        raise paging.refused() from error
    return created_at, deliberation_id
