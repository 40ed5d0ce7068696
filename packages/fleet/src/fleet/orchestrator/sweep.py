"""The second net: at start and every so often, everything that is open is looked at and woken.

It finds what a crash left due, what no message came for (a deadline, a result, a `context.updated`), and plans that planning
has approved and this store does not know.
"""

import dataclasses

import nats.errors
import structlog

from fleet.deliberation.plan import Plan, Remembered, deliberation_of
from fleet.deliberation.plan_rules import tasks_of
from fleet.deliberation.state import Deliberation, due
from fleet.orchestrator.deliberations import Clock
from fleet.orchestrator.handlers import Handlers
from fleet.orchestrator.peers import Memory, PlanBook
from fleet.orchestrator.store import Store
from fleet_wire import ids
from fleet_wire.errors import FleetError, Unavailable

log = structlog.get_logger(__name__)

FAILURES = (FleetError, nats.errors.Error)
"""What may go wrong with one record: it is noted, the others are looked at all the same, and the next sweep tries again."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The ports of a sweep."""

    store: Store
    handlers: Handlers
    memory: Memory
    plan_book: PlanBook
    clock: Clock

    async def once(self) -> None:
        """Looks at everything open. No failure ends it: the sweep is what mends failures."""
        for work in (self._deliberations, self._plans, self._unknown_plans):
            try:
                await work()
            except FAILURES as error:
                log.warning("sweep incomplete", work=work.__name__.strip("_"), reason=str(error))

    async def _deliberations(self) -> None:
        found = [entry.value async for entry in self.store.deliberations.entries("state.") if due_or_open(entry.value)]
        executor_away = False
        for state in found:
            try:
                if state.status in ("preparing", "running") and state.deadline <= self.clock():
                    await self.handlers.close_at_deadline(state)
                elif state.status == "running" and not executor_away:
                    await self.handlers.take_results(state)
            except FAILURES as error:
                executor_away = isinstance(error, Unavailable)
                log.warning("deliberation not swept", deliberation_id=state.deliberation_id, reason=str(error))
            if due(state):
                self.handlers.deliberation_driver.wake(state.deliberation_id)

    async def _plans(self) -> None:
        plans = [entry.value async for entry in self.store.plans.entries() if entry.value.status == "running"]
        for plan in plans:
            try:
                await self._remember(plan)
                for task in plan.tasks:
                    if (
                        task.status == "running"
                    ):  # its deliberation may be lost, or have ended without the plan's knowing
                        await self.handlers.plans.start(plan, task.task.task_id)
            except FAILURES as error:
                log.warning("plan not swept", plan_id=plan.plan_id, reason=str(error))
            self.handlers.plan_driver.wake(plan.plan_id)

    async def _remember(self, plan: Plan) -> None:
        """Asks the graph for decisions that others wait for and no `context.updated` told of."""
        awaited = {below for task in plan.tasks if task.status == "waiting" for below in task.task.depends_on}
        for task in plan.tasks:
            if task.status == "decided" and not task.remembered and task.task.task_id in awaited:
                deliberation = deliberation_of(plan, task)
                if await self.memory.has_decision(ids.decision_id(deliberation)):
                    await self.handlers.plans.fold(plan.plan_id, Remembered(deliberation))

    async def _unknown_plans(self) -> None:
        """Compares with planning. Where this store was lost, decisions that the graph holds are not made again."""
        for plan_id in await self.plan_book.approved_plans():
            try:
                if await self.store.plans.get(plan_id) is None:
                    await self._take(plan_id)
            except FAILURES as error:
                log.warning("plan not taken from planning", plan_id=plan_id, reason=str(error))

    async def _take(self, plan_id: str) -> None:
        event = await self.plan_book.plan(plan_id)
        decided = set()
        for task in tasks_of(event):
            deliberation = ids.deliberation_id(plan_id, task.task_id, 1)
            if await self.memory.has_decision(ids.decision_id(deliberation)):
                decided.add(task.task_id)
        if await self.handlers.plans.open(event, frozenset(decided)):
            log.warning("plan taken from planning", plan_id=plan_id, decided=sorted(decided))
        self.handlers.plan_driver.wake(plan_id)


def due_or_open(state: Deliberation) -> bool:
    """Whether a sweep has anything to do with it: a stub has not."""
    return state.status in ("preparing", "running") or bool(due(state))
