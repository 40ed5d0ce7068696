"""The second net: at start and every so often, everything that is open is looked at and woken.

It finds what a crash left due, what no message came for (a deadline, a result, a `context.updated`), and plans that planning
has approved and this store does not know.
"""

import asyncio
import dataclasses

import nats.errors
import structlog

from fleet.deliberation.plan import Plan, Remembered, TaskProgress, deliberation_of
from fleet.deliberation.plan_rules import tasks_of
from fleet.deliberation.state import Deliberation
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
AT_ONCE = 16
"""Plans, and deliberations, that are looked at together. Each may wait for a part that does not answer, and the deadlines of the
others must not wait for it."""
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
    _plan_slots: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    _slots: asyncio.Semaphore = dataclasses.field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

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
        await asyncio.gather(*(self._deliberation(name, marked.get(name)) for name in names))

    async def _deliberation(self, deliberation_id: str, marker: Entry[Live] | None = None) -> None:
        async with self._slots:
            await self._look_at(deliberation_id, marker)
        self.handlers.deliberation_driver.wake(deliberation_id)

    async def _look_at(self, deliberation_id: str, marker: Entry[Live] | None) -> None:
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
                if marker is None and not await self._is_marked_by_its_plan(state):
                    await self.live.mark(deliberation_id, self.clock())
                await self._look_after(state)
        except FAILURES as error:
            log.warning("deliberation not swept", deliberation_id=deliberation_id, reason=str(error))

    async def _is_marked_by_its_plan(self, state: Deliberation) -> bool:
        plan = await self.handlers.plans.records.known(state.plan_id) if state.plan_id else None
        return plan is not None and plan.status == "running" and state.deliberation_id in running_of(plan)

    def _stray(self, marker: Entry[Live]) -> bool:
        return marker.value.created_at + STRAY_AFTER < self.clock()

    async def _look_after(self, state: Deliberation) -> None:
        now = self.clock()
        if state.status in ("preparing", "running") and state.deadline <= now:
            await self.handlers.close_at_deadline(state)
            return
        if state.status in ("preparing", "running") and self.handlers.deliberations.times.near(state.deadline, now):
            await self.handlers.deliberations.set_timer(state)
        if state.status == "running" and not self._executor_away:
            try:
                await self.handlers.take_results(state)
            except Unavailable:
                self._executor_away = True
                raise

    async def _plans(self) -> None:
        marked = await self.live_plans.names()
        names = list(marked)
        if "plans" in self.unread:
            found = [entry.value async for entry in self.store.plans.entries()]
            self.unread.discard("plans")
            names += [plan.plan_id for plan in found if plan.status == "running" and plan.plan_id not in marked]
        await asyncio.gather(*(self._plan(name, marked.get(name)) for name in names))

    async def _plan(self, plan_id: str, marker: Entry[Live] | None) -> None:
        async with self._plan_slots:
            try:
                plan = await self.handlers.plans.records.read(plan_id)
                if plan is not None and plan.status == "running":
                    if marker is None:
                        await self.live_plans.mark(plan_id, self.clock())
                    await self._remember(plan)
                    running = [task for task in plan.tasks if task.status == "running"]
                    await asyncio.gather(*(self._task(plan, task) for task in running))
                elif plan is not None and marker is not None:
                    await self.handlers.plans.complete(plan, marker.revision)
                elif marker is not None and self._stray(marker):
                    await self.live_plans.unmark(plan_id, marker.revision)
            except FAILURES as error:
                log.warning("plan not swept", plan_id=plan_id, reason=str(error))
        self.handlers.plan_driver.wake(plan_id)

    async def _task(self, plan: Plan, task: TaskProgress) -> None:
        await self._deliberation(deliberation_of(plan, task))
        if task.started and not task.cancelling:
            try:
                await self.handlers.plans.restore(plan, task)
            except FAILURES as error:
                log.warning("task not swept", plan_id=plan.plan_id, task_id=task.task.task_id, reason=str(error))

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
