"""Brings one plan as far as it goes: starts what may start, cancels what is to be cancelled, closes it when all has ended."""

import dataclasses
from collections.abc import Mapping

import msgspec
import structlog

from fleet.deliberation import plan as rules
from fleet.deliberation import state as deliberation_rules
from fleet.deliberation.plan import Cancel, Close, Plan, PlanEvent, Remembered, Start, TaskProgress
from fleet.deliberation.plan_rules import check_plan, tasks_of
from fleet.deliberation.state import ENDED, Deliberation, spent
from fleet.orchestrator.clocks import Clock
from fleet.orchestrator.contexts import Contexts
from fleet.orchestrator.driver import Driver, at_once
from fleet.orchestrator.live import DeliberationRecords, Markers, PlanRecords
from fleet.orchestrator.starting import Times, bench_of, new_deliberation
from fleet.orchestrator.store import Store
from fleet_wire import ids
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.events import Budget, FailedTask, PlanApproved, PlanCompleted

log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Plans:
    """The ports that a plan is driven with."""

    store: Store
    bus: Bus
    records: PlanRecords
    deliberations: DeliberationRecords
    live: Markers
    live_plans: Markers
    driver: Driver
    deliberation_driver: Driver
    contexts: Contexts
    clock: Clock
    times: Times

    async def open(self, event: PlanApproved, decided: Mapping[str, int] | None = None) -> bool:
        """Saves the record of an approved plan, and has it driven; False where there is one, or was. `decided` are tasks, each
        with its try, whose decision the graph holds from before this store was lost. Raises Invalid for a plan that could never
        be run."""
        check_plan(event)
        known = decided or {}
        plan = Plan(
            plan_id=event.plan_id,
            story_id=event.story_id,
            phase=event.story.phase,
            tasks=tuple(
                TaskProgress(task=task, number=known[task.task_id], status="decided", remembered=True)
                if task.task_id in known
                else TaskProgress(task=task)
                for task in tasks_of(event)
            ),
            started_at=self.clock(),
            budget=event.budget,
        )
        plan = rules.opened(plan)
        self.contexts.begin(plan)
        plan, created = await self.live_plans.create(self.records, event.plan_id, plan, self.clock())
        if created:
            log.info("plan.approved", plan_id=event.plan_id, tasks=len(plan.tasks))
        self._wake(plan)
        return created

    def _wake(self, plan: Plan | None) -> None:
        """Has the plan driven, unless it is completed: then it has been, or the sweep does what is left."""
        if plan is not None and plan.status == "running":
            self.driver.wake(plan.plan_id)

    async def supersede(self, plan_id: str, by: PlanApproved) -> None:
        """Cancels what runs of a plan that another supersedes. One that has no record yet gets one that is over, without tasks:
        its own event, which may come after this one, then opens nothing."""
        cancelled = rules.Cancelled(f"superseded by {by.plan_id}")
        plan = await self.fold(plan_id, cancelled)
        if plan is None:
            now = self.clock()
            over = Plan(
                plan_id=plan_id,
                story_id=by.story_id,
                phase=by.story.phase,
                tasks=(),
                started_at=now,
                status="completed",
                ended_at=now,
            )
            if not (await self.records.create(plan_id, over))[1]:  # it was opened in between
                plan = await self.fold(plan_id, cancelled)
        self._wake(plan)

    def arrived(self, plan_id: str) -> None:
        """The graph holds the plan: what waits for that need wait no longer."""
        plan = self.records.remembered(plan_id)
        if plan is not None:
            for task in plan.tasks:
                self.deliberation_driver.hurry(rules.deliberation_of(plan, task))

    async def remembered(self, plan_id: str, deliberation_id: str) -> None:
        """The graph holds a decision: lets the tasks start that waited for it. Where none of a plan's depends on another,
        nobody needs to know."""
        plan = await self.records.known(plan_id)
        if plan is not None and any(task.task.depends_on for task in plan.tasks):
            self._wake(await self.fold(plan_id, Remembered(deliberation_id)))

    async def flag(self, decision_id: str, superseded: tuple[str, ...]) -> None:
        """Notes that a decision relies on others that were superseded, where a plan's deliberation made it: a person's ruling, or
        one whose record is kept no longer, concerns no plan here."""
        deliberation_id = ids.deliberation_of(decision_id)
        state = await self.deliberations.read(deliberation_id) if ids.is_deliberation(deliberation_id) else None
        if state is not None and state.plan_id:
            await self.fold(state.plan_id, rules.Flagged(state.deliberation_id, superseded))

    async def fold(self, plan_id: str, *events: PlanEvent) -> Plan | None:
        """Moves the saved plan by these events; None where there is no record."""
        return await self.records.fold(plan_id, events)

    async def drive(self, plan_id: str) -> None:
        """Does all that is due until nothing is. Raises what stopped it: Unavailable where a part is away."""
        try:
            plan = await self.records.known(plan_id)
            if plan is None:
                log.warning("plan without a record", plan_id=plan_id)
            while plan is not None and (commands := rules.due(plan)):
                plan = await self._carry_out(plan, commands)
            if plan is not None and plan.status == "completed":
                await self._complete(plan)
        except BaseException:
            self.records.forget(plan_id)
            raise

    async def _complete(self, plan: Plan) -> None:
        # What this replica marked, it marked before the plan was completed: where a retry has made the marker anew since, that
        # one stays, and the next sweep publishes once more, under the same message id.
        revision = self.live_plans.own(plan.plan_id) or await self.live_plans.revision(plan.plan_id)
        if not self.live_plans.own(plan.plan_id):
            now = await self.records.read(plan.plan_id)
            if not revision or now is None or now.status == "running":
                return
        await self.complete(plan, revision)

    async def complete(self, plan: Plan, revision: int) -> None:
        """Publishes the completion of a completed plan, then has its marker of this revision taken away: by it a sweep finds what
        a crash left unpublished. One without tasks was superseded before it came, and never ran."""
        if plan.tasks:
            await self.bus.publish(
                PlanCompleted(
                    plan_id=plan.plan_id,
                    story_id=plan.story_id,
                    decided=[task.task.task_id for task in plan.tasks if task.status == "decided"],
                    failed=_without_decision(plan, "failed"),
                    skipped=_without_decision(plan, "skipped"),
                    round=plan.round,
                )
            )
            log.info("plan completed", plan_id=plan.plan_id, round=plan.round)
        await self.live_plans.unmark(plan.plan_id, revision)

    async def is_there(self, state: Deliberation) -> None:
        """Raises Unavailable while the plan of a deliberation has no record: the sweep takes it from planning again."""
        if await self.records.known(state.plan_id) is None:
            raise Unavailable(f"plan {state.plan_id} has no record")

    async def report(self, state: Deliberation) -> None:
        """Tells the plan how one of its deliberations ended, and what it used; where that was the last, the same write completes
        it. Raises Unavailable as `is_there` does.

        The plan's marker may go after that: a deliberation with which something is left to be done gets one of its own."""
        if not state.retired:
            await self.live.mark(state.deliberation_id, self.clock())
        if await self.records.fold(state.plan_id, (ended(state),), self._closed_at_once) is None:
            raise Unavailable(f"plan {state.plan_id} has no record")
        self.driver.wake(state.plan_id)

    async def _closed_at_once(self, plan: Plan) -> tuple[PlanEvent, ...]:
        return (rules.Closed(self.clock(), plan.round),) if rules.due(plan) == (Close(),) else ()

    async def restore(self, plan: Plan, task: TaskProgress) -> None:
        """Looks after a task that runs: its deliberation may be lost, or have ended without the plan's knowing."""
        deliberation_id = rules.deliberation_of(plan, task)
        state = await self.deliberations.read(deliberation_id)
        if state is None:
            await self.fold(plan.plan_id, await self._start(plan, task))
        elif state.reported:
            await self.report(state)
        else:
            self._have_told(state)
        self.deliberation_driver.wake(deliberation_id)

    def _have_told(self, state: Deliberation) -> None:
        """Has a deliberation that has ended tell this plan, though it may have told one that was lost since."""
        if state.status in ENDED:
            self.deliberations.forget(state.deliberation_id)

    async def _carry_out(self, plan: Plan, commands: tuple[Start | Cancel | Close, ...]) -> Plan | None:
        found = await at_once([self._do(plan, command) for command in commands])
        confirmed = [event for event in found if not isinstance(event, BaseException)]
        failed = next((one for one in found if isinstance(one, BaseException)), None)
        moved: Plan | None = plan
        if failed is None and all(isinstance(event, rules.TaskStarted) for event in confirmed):
            moved = await self.records.later(plan.plan_id, confirmed)  # starting again does no harm
        elif confirmed:
            moved = await self.fold(plan.plan_id, *confirmed)
        if failed is not None:
            raise failed
        if moved == plan:
            raise Unavailable(f"plan {plan.plan_id} was not brought on")
        return moved

    async def _do(self, plan: Plan, command: Start | Cancel | Close) -> PlanEvent:
        match command:
            case Start(task_id):
                return await self._start(plan, rules.task_of(plan, task_id))
            case Cancel(task_id):
                return await self._cancel(plan, rules.task_of(plan, task_id))
            case Close():
                return rules.Closed(self.clock(), plan.round)

    async def _start(self, plan: Plan, task: TaskProgress) -> PlanEvent:
        """Saves the deliberation; again, it does no harm, and finds the one that is there: also where that has ended."""
        state = await self._create(plan, task)
        self._have_told(state)
        self.deliberation_driver.wake(state.deliberation_id)
        if state.reported:
            return ended(state)
        return rules.TaskStarted(task.task.task_id, task.number)

    async def _cancel(self, plan: Plan, task: TaskProgress) -> PlanEvent:
        """Has the deliberation cancelled, and saved first where it is not there yet: another replica may be about to save it."""
        deliberation_id = rules.deliberation_of(plan, task)
        event = deliberation_rules.Cancelled(task.cancelling, self.clock())
        if await self.deliberations.fold(deliberation_id, (event,)) is None:
            await self._create(plan, task)
            await self.deliberations.fold(deliberation_id, (event,))
        self.deliberation_driver.wake(deliberation_id)
        return rules.CancelSent(task.task.task_id, task.number)

    async def _create(self, plan: Plan, task: TaskProgress) -> Deliberation:
        """Saves the record of a task that runs: the plan's marker is that of its deliberations too."""
        state = new_deliberation(
            rules.deliberation_of(plan, task),
            task.task,
            await bench_of(self.store, task.task),
            now=self.clock(),
            times=self.times,
            budget=task.reserved,
            plan_id=plan.plan_id,
            story_id=plan.story_id,
            story_phase=plan.phase,
            number=task.number,
            based_on=rules.decisions_below(plan, task),
        )
        return (await self.deliberations.create(state.deliberation_id, state))[0]


def ended(state: Deliberation) -> rules.TaskEnded:
    """How a deliberation ended, as its plan takes it."""
    reason = "" if state.decision_id else f"{state.reason}: {state.detail}".rstrip(": ")
    used = spent(state)
    closed_at = state.closed_at or state.deadline
    seconds = max(0.0, (closed_at - state.created_at).total_seconds())
    if state.budget.seconds:
        seconds = min(seconds, state.budget.seconds)  # it was closed at its deadline, however late that was noticed
    total: Budget = msgspec.structs.replace(used, seconds=seconds)
    return rules.TaskEnded(state.task.task_id, state.number, reason, total)


def _without_decision(plan: Plan, status: rules.TaskStatus) -> list[FailedTask]:
    return [FailedTask(task_id=task.task.task_id, reason=task.reason) for task in plan.tasks if task.status == status]
