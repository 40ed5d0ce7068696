"""Brings one plan as far as it goes: starts the tasks that may start, closes it once when all have ended."""

import dataclasses
import datetime as dt

import msgspec
import structlog

from fleet.deliberation import plan as rules
from fleet.deliberation.plan import Close, Plan, PlanEvent, Start, TaskProgress
from fleet.deliberation.plan_rules import check_plan, tasks_of
from fleet.deliberation.state import ENDED, Deliberation, Seat
from fleet.orchestrator.councils import PROTOCOLS, Council
from fleet.orchestrator.deliberations import Clock
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.store import Store, council_key, plan_ttl, state_key
from fleet_wire import ids
from fleet_wire.bus import Bus
from fleet_wire.errors import Conflict, Unavailable
from fleet_wire.events import FailedTask, FailureReason, PlanApproved, PlanCompleted, PlanTask, StoryPhase
from fleet_wire.kv import change

log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Plans:
    """The ports that a plan is driven with. `timeout` is a deliberation's, from its start."""

    store: Store
    bus: Bus
    driver: Driver
    deliberation_driver: Driver
    clock: Clock
    timeout: dt.timedelta

    async def open(self, event: PlanApproved, decided: frozenset[str] = frozenset()) -> bool:
        """Saves the record of an approved plan; False where there is one, or was. `decided` are tasks whose decision the
        graph holds from before this store was lost. Raises Invalid for a plan that could never be run."""
        check_plan(event)
        plan = Plan(
            plan_id=event.plan_id,
            story_id=event.story_id,
            phase=event.story.phase,
            tasks=tuple(
                TaskProgress(task=task, status="decided", remembered=True)
                if task.task_id in decided
                else TaskProgress(task=task)
                for task in tasks_of(event)
            ),
            started_at=self.clock(),
        )
        try:
            await self.store.plans.create(event.plan_id, plan)
        except Conflict:
            return False
        log.info("plan.approved", plan_id=event.plan_id, tasks=len(plan.tasks))
        return True

    async def fold(self, plan_id: str, event: PlanEvent) -> Plan | None:
        """Moves the saved plan by an event; None where there is no record."""
        return await change(self.store.plans, plan_id, lambda plan: plan and rules.advance(plan, event), plan_ttl)

    async def drive(self, plan_id: str) -> None:
        """Does all that is due until nothing is."""
        while True:
            entry = await self.store.plans.get(plan_id)
            if entry is None:
                log.warning("plan without a record", plan_id=plan_id)
                return
            commands = rules.due(entry.value)
            if not commands:
                return
            for command in commands:
                match command:
                    case Start(task_id):
                        await self.start(entry.value, task_id)
                    case Close():
                        await self._close(entry.value)

    async def report(self, state: Deliberation) -> None:
        """Tells the plan how one of its deliberations ended. Raises Unavailable while the plan has no record: the sweep
        takes it from planning again."""
        reason = "" if state.decision_id else f"{state.reason}: {state.detail}".rstrip(": ")
        ended = rules.TaskEnded(state.task.task_id, state.number, reason)
        if await self.fold(state.plan_id, ended) is None:
            raise Unavailable(f"plan {state.plan_id} has no record")
        self.driver.wake(state.plan_id)

    async def start(self, plan: Plan, task_id: str) -> None:
        """Saves the deliberation, then the plan's word of it; again, it does no harm. A crash between the two leaves a
        deliberation that runs, and a task that finds it: also where it has ended and the plan was lost meanwhile."""
        task = rules.task_of(plan, task_id)
        entry = await self.store.councils.get(council_key(task.task.role))
        state = new_deliberation(
            rules.deliberation_of(plan, task),
            task.task,
            entry.value if entry else None,
            now=self.clock(),
            timeout=self.timeout,
            plan_id=plan.plan_id,
            story_id=plan.story_id,
            phase=plan.phase,
            number=task.number,
            based_on=rules.decisions_below(plan, task),
        )
        try:
            await self.store.deliberations.create(state_key(state.deliberation_id), state)
        except Conflict:
            found = await self.store.deliberations.get(state_key(state.deliberation_id))
            state = found.value if found else state
        await self.fold(plan.plan_id, rules.TaskStarted(task_id, task.number))
        if state.status in ENDED:
            await self.report(state)
        self.deliberation_driver.wake(state.deliberation_id)

    async def _close(self, plan: Plan) -> None:
        await self.bus.publish(
            PlanCompleted(
                plan_id=plan.plan_id,
                story_id=plan.story_id,
                decided=[task.task.task_id for task in plan.tasks if task.status == "decided"],
                failed=_without_decision(plan, "failed"),
                skipped=_without_decision(plan, "skipped"),
            )
        )
        log.info("plan completed", plan_id=plan.plan_id)
        await self.fold(plan.plan_id, rules.Closed(self.clock()))


def new_deliberation(
    deliberation_id: str,
    task: PlanTask,
    council: Council | None,
    *,
    now: dt.datetime,
    timeout: dt.timedelta,
    plan_id: str = "",
    story_id: str = "",
    phase: StoryPhase = "build",
    number: int = 1,
    based_on: tuple[str, ...] = (),
    request_hash: str = "",
) -> Deliberation:
    """A deliberation at its start. Without a council, or under an unknown protocol, it is one that has only to fail."""
    protocol = task.protocol or (council.protocol if council else PROTOCOLS[0])
    state = Deliberation(
        deliberation_id=deliberation_id,
        plan_id=plan_id,
        story_id=story_id,
        phase=phase,
        task=task,
        number=number,
        protocol=protocol,
        seats=tuple(
            Seat(agent_id=agent, job_id=ids.job_id(deliberation_id, "propose", agent, "", 1))
            for agent in (council.agents if council else ())
        ),
        quorum=council.needed() if council else 1,
        created_at=now,
        deadline=now + timeout,
        based_on=based_on,
        request_hash=request_hash,
    )
    if council is None:
        return _stillborn(state, "no_council", f"role {task.role} has no council", now)
    if protocol not in PROTOCOLS:
        return _stillborn(state, "error", f"protocol {protocol!r} is unknown; known are {', '.join(PROTOCOLS)}", now)
    return state


def _stillborn(state: Deliberation, by: FailureReason, detail: str, now: dt.datetime) -> Deliberation:
    return msgspec.structs.replace(state, status="deciding", closed_at=now, closed_by=by, detail=detail)


def _without_decision(plan: Plan, status: rules.TaskStatus) -> list[FailedTask]:
    return [FailedTask(task_id=task.task.task_id, reason=task.reason) for task in plan.tasks if task.status == status]
