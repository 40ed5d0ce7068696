"""What the orchestrator does with each event: save its effect, wake whoever it concerns. One function an event.

An effect is saved before the message is acknowledged; what follows from it is due in the saved state and needs no message.
"""

import dataclasses

import structlog

from fleet.deliberation.plan import Remembered, TaskEnded
from fleet.deliberation.state import DeadlinePassed, Deliberation, Seat, SeatEnded
from fleet.orchestrator.deliberations import Deliberations, has_ended
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.plans import Plans
from fleet.orchestrator.store import state_key
from fleet_wire import topology
from fleet_wire.bus import Bus
from fleet_wire.errors import Conflict, Invalid, NotFound
from fleet_wire.events import (
    AgentResult,
    ContextUpdated,
    DeadlineReached,
    PlanApproved,
    ResultLate,
)

log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Handlers:
    """The ports that events are handled with."""

    bus: Bus
    deliberations: Deliberations
    plans: Plans
    deliberation_driver: Driver
    plan_driver: Driver

    async def on_plan_approved(self, event: PlanApproved) -> None:
        """Opens the plan's record once; a repeated event finds it and changes nothing."""
        await self.plans.open(event)
        self.plan_driver.wake(event.plan_id)

    async def on_result(self, result: AgentResult) -> None:
        """The DeliberationResultCollector: copies the result, counts its seat, or records it as late.

        Raises NotFound for a deliberation that has no record, Invalid for a job that is none of its.
        """
        store = self.deliberations.store
        before = await store.deliberations.get(state_key(result.deliberation_id))
        if before is None:
            raise NotFound(f"deliberation {result.deliberation_id} has no record")
        seat_of(before.value, result)
        if result.status == "failed" and result.error is None:
            raise Invalid(f"result {result.job_id} failed and does not say why")
        try:
            ttl = topology.RESULT_TTL if has_ended(before.value) else None
            await store.results.create(result.job_id, result, ttl)
        except Conflict:
            log.debug("agent.results again", job_id=result.job_id)
        event = SeatEnded(
            result.job_id, result.error if result.status == "failed" else None, self.deliberations.clock()
        )
        after = await self.deliberations.fold(result.deliberation_id, [event])
        if after is not None and seat_of(after, result).status == "waiting":
            await self._late(after, result)
        self.deliberation_driver.wake(result.deliberation_id)

    async def on_deadline(self, event: DeadlineReached) -> None:
        """Closes a deliberation whose time is up; one that has ended stays as it is."""
        await self.deliberations.fold(event.deliberation_id, [DeadlinePassed(self.deliberations.clock())])
        self.deliberation_driver.wake(event.deliberation_id)

    async def on_context_updated(self, event: ContextUpdated) -> None:
        """Lets the tasks start that waited for this decision to be in the graph."""
        if event.plan_id and event.deliberation_id:
            plan = await self.plans.fold(event.plan_id, Remembered(event.deliberation_id))
            if plan is not None:
                self.plan_driver.wake(event.plan_id)

    async def _late(self, state: Deliberation, result: AgentResult) -> None:
        """Recorded, not counted."""
        since = (self.deliberations.clock() - (state.closed_at or state.deadline)).total_seconds()
        log.info("result late", deliberation_id=state.deliberation_id, agent_id=result.agent_id, ended=has_ended(state))
        await self.bus.publish(
            ResultLate(
                deliberation_id=result.deliberation_id,
                task_id=result.task_id,
                job_id=result.job_id,
                agent_id=result.agent_id,
                late_seconds=max(0.0, since),
            )
        )


@dataclasses.dataclass(frozen=True)
class PlanReporter:
    """Tells a plan how one of its deliberations ended."""

    plans: Plans
    driver: Driver

    async def report(self, state: Deliberation) -> None:
        reason = "" if state.decision_id else f"{state.reason}: {state.detail}".rstrip(": ")
        await self.plans.fold(state.plan_id, TaskEnded(state.task.task_id, state.number, reason))
        self.driver.wake(state.plan_id)


def seat_of(state: Deliberation, result: AgentResult) -> Seat:
    """The seat a result belongs to; raises Invalid where job and agent are not one of the deliberation's."""
    for seat in state.seats:
        if seat.job_id == result.job_id and seat.agent_id == result.agent_id:
            return seat
    raise Invalid(f"job {result.job_id} of {result.agent_id} is no seat of deliberation {state.deliberation_id}")
