"""The second net: at start and every so often, everything that is open is looked at and woken.

It finds what a crash left due, what no message came for (a deadline, a result, a `context.updated`), and plans that planning
has approved and this store does not know.
"""

import dataclasses
import datetime as dt

import structlog

from fleet.deliberation.plan import Plan, Remembered, deliberation_of
from fleet.deliberation.plan_tasks import tasks_of
from fleet.deliberation.state import DeadlinePassed, Deliberation, SubmissionLost, due
from fleet.orchestrator.deliberations import Clock
from fleet.orchestrator.handlers import Handlers
from fleet.orchestrator.peers import Executor, Memory, PlanBook
from fleet.orchestrator.store import Store
from fleet_wire import ids
from fleet_wire.errors import Invalid, Unavailable

log = structlog.get_logger(__name__)

SETTLE = dt.timedelta(seconds=5)
"""A deliberation younger than this is left alone: its first calls are under way."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The ports of a sweep."""

    store: Store
    handlers: Handlers
    executor: Executor
    memory: Memory
    plan_book: PlanBook
    clock: Clock

    async def once(self) -> None:
        """Looks at everything open. A part that is away is noted, and asked again by the next sweep."""
        for work in (self._deliberations, self._plans, self._unknown_plans):
            try:
                await work()
            except Unavailable as error:
                log.info("sweep incomplete", work=work.__name__.strip("_"), reason=str(error))

    async def _deliberations(self) -> None:
        async for entry in self.store.deliberations.entries("state."):
            state = entry.value
            if state.status == "running" and state.created_at + SETTLE < self.clock():
                await self._reconcile(state)
            if state.status in ("preparing", "running") and state.deadline <= self.clock():
                await self.handlers.deliberations.fold(state.deliberation_id, [DeadlinePassed(self.clock())])
                self.handlers.deliberation_driver.wake(state.deliberation_id)
            elif due(state):
                self.handlers.deliberation_driver.wake(state.deliberation_id)

    async def _reconcile(self, state: Deliberation) -> None:
        """Asks the executor of what is believed running: takes in results that no message brought, and submits again what
        the executor does not know."""
        try:
            known = await self.executor.results(state.deliberation_id)
        except (Unavailable, Invalid) as error:
            log.info("executor not asked", deliberation_id=state.deliberation_id, reason=str(error))
            return
        waiting = [seat for seat in state.seats if seat.status == "waiting"]
        for seat in waiting:
            result = known.get(seat.job_id)
            if result is not None:
                await self.handlers.on_result(result)
        if any(seat.job_id not in known for seat in waiting):
            log.warning("deliberation submission lost", deliberation_id=state.deliberation_id)
            await self.handlers.deliberations.fold(state.deliberation_id, [SubmissionLost()])
            self.handlers.deliberation_driver.wake(state.deliberation_id)

    async def _plans(self) -> None:
        async for entry in self.store.plans.entries():
            plan = entry.value
            if plan.status == "running":
                await self._remember(plan)
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
        for event in await self.plan_book.approved_plans():
            if await self.store.plans.get(event.plan_id) is not None:
                continue
            decided = set()
            for task in tasks_of(event):
                deliberation = ids.deliberation_id(event.plan_id, task.task_id, 1)
                if await self.memory.has_decision(ids.decision_id(deliberation)):
                    decided.add(task.task_id)
            if await self.handlers.plans.open(event, frozenset(decided)):
                log.warning("plan taken from planning", plan_id=event.plan_id, decided=sorted(decided))
            self.handlers.plan_driver.wake(event.plan_id)
