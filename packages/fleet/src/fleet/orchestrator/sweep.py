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
from fleet.orchestrator.clocks import Clock
from fleet.orchestrator.handlers import Handlers
from fleet.orchestrator.live import STRAY_AFTER, Markers, running_of
from fleet.orchestrator.peers import Memory, PlanBook
from fleet.orchestrator.store import Live, Store
from fleet_wire import ids
from fleet_wire.errors import FleetError, Unavailable
from fleet_wire.kv import Entry

log = structlog.get_logger(__name__)

FAILURES = (FleetError, nats.errors.Error)
"""What may go wrong with one record: it is noted, the others are looked at all the same, and the next sweep tries again."""
TRIES = 5
"""How many tries of a task the graph is asked about where the store was lost."""


@dataclasses.dataclass
class Sweep:
    """The ports of a sweep. The first one of a process reads all records (`unread`), those after it what is marked as live."""

    store: Store
    live: Markers
    live_plans: Markers
    handlers: Handlers
    memory: Memory
    plan_book: PlanBook
    clock: Clock
    unread: set[str] = dataclasses.field(default_factory=lambda: {"deliberations", "plans"})
    _executor_away: bool = False

    async def once(self) -> None:
        """Looks at everything open. No failure ends it: the sweep is what mends failures."""
        self._executor_away = False
        for work in (self._deliberations, self._plans, self._unknown_plans):
            try:
                await work()
            except FAILURES as error:
                log.warning("sweep incomplete", work=work.__name__.strip("_"), reason=str(error))

    async def _deliberations(self) -> None:
        """Those with a marker of their own; those of a plan are looked at with it."""
        marked = await self.live.names()
        names = list(marked)
        if "deliberations" in self.unread:
            found = [entry.value async for entry in self.store.deliberations.entries("state.")]
            self.unread.discard("deliberations")
            names += [one.deliberation_id for one in found if not one.retired and one.deliberation_id not in marked]
        for deliberation_id in names:
            await self._deliberation(deliberation_id, marked.get(deliberation_id))

    async def _deliberation(self, deliberation_id: str, marker: Entry[Live] | None = None) -> None:
        try:
            state = await self.handlers.deliberations.records.read(deliberation_id)
            if state is None:
                if marker is not None and self._stray(marker):
                    await self.live.unmark(deliberation_id, marker.revision)
                return
            if state.retired:
                await self.handlers.deliberations.tidy(state)
                if marker is not None:
                    await self.live.unmark(deliberation_id, marker.revision)
            else:
                if marker is None and not state.plan_id:
                    await self.live.mark(deliberation_id, self.clock())
                await self._look_after(state)
        except FAILURES as error:
            self._executor_away = self._executor_away or isinstance(error, Unavailable)
            log.warning("deliberation not swept", deliberation_id=deliberation_id, reason=str(error))
        self.handlers.deliberation_driver.wake(deliberation_id)

    def _stray(self, marker: Entry[Live]) -> bool:
        return marker.value.created_at + STRAY_AFTER < self.clock()

    async def _look_after(self, state: Deliberation) -> None:
        if due(state):
            self.handlers.deliberation_driver.wake(state.deliberation_id)
        now = self.clock()
        if state.status in ("preparing", "running") and state.deadline <= now:
            await self.handlers.close_at_deadline(state)
            return
        if state.status in ("preparing", "running") and self.handlers.deliberations.times.near(state.deadline, now):
            await self.handlers.deliberations.set_timer(state)
        if state.status == "running" and not self._executor_away:
            await self.handlers.take_results(state)

    async def _plans(self) -> None:
        marked = await self.live_plans.names()
        names = list(marked)
        if "plans" in self.unread:
            found = [entry.value async for entry in self.store.plans.entries()]
            self.unread.discard("plans")
            names += [plan.plan_id for plan in found if plan.status == "running" and plan.plan_id not in marked]
        for plan_id in names:
            try:
                plan = await self.handlers.plans.records.read(plan_id)
                marker = marked.get(plan_id)
                if plan is None or plan.status == "completed":
                    if plan is not None and marker is not None:
                        await self.handlers.plans.complete(plan, marker.revision)
                    elif marker is not None and self._stray(marker):
                        await self.live_plans.unmark(plan_id, marker.revision)
                    continue
                if plan_id not in marked:
                    await self.live_plans.mark(plan_id, self.clock())
                await self._remember(plan)
                for deliberation_id in running_of(plan):
                    await self._deliberation(deliberation_id)
                for task in plan.tasks:
                    if task.status == "running" and task.started and not task.cancelling:
                        await self.handlers.plans.restore(plan, task)
            except FAILURES as error:
                log.warning("plan not swept", plan_id=plan_id, reason=str(error))
            self.handlers.plan_driver.wake(plan_id)

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
        decided = {}
        for task in tasks_of(event):
            number = await self._decided(plan_id, task.task_id)
            if number:
                decided[task.task_id] = number
        if await self.handlers.plans.open(event, decided):
            log.warning("plan taken from planning", plan_id=plan_id, decided=sorted(decided))

    async def _decided(self, plan_id: str, task_id: str) -> int:
        """The last try of a task whose decision the graph holds: it superseded those before. 0 where it holds none."""
        for number in range(TRIES, 0, -1):
            deliberation = ids.deliberation_id(plan_id, task_id, number)
            if await self.memory.has_decision(ids.decision_id(deliberation)):
                return number
        return 0
