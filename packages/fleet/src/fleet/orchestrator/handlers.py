"""What the orchestrator does with each event: save its effect, wake whoever it concerns. One function an event.

An effect is saved before the message is acknowledged; what follows from it is due in the saved state and needs no message.
"""

import dataclasses

import msgspec
import structlog

from fleet.deliberation.plan import Remembered
from fleet.deliberation.state import DeadlinePassed, Deliberation, Seat, SeatEnded, SubmissionLost
from fleet.orchestrator.deliberations import Deliberations, expire
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.plans import Plans
from fleet.orchestrator.store import state_key
from fleet_wire import events
from fleet_wire.bus import Bus
from fleet_wire.errors import Conflict, FleetError, Invalid, NotFound, Unavailable
from fleet_wire.events import (
    AgentResult,
    ContextUpdated,
    DeadlineReached,
    PlanApproved,
    ResultLate,
)

log = structlog.get_logger(__name__)

MAX_ERROR_BYTES = 2 * 1024
"""What is kept of an agent's error message."""


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

        Raises NotFound for a deliberation that has no record, Invalid for a job that is none of its and for a result that
        contradicts itself.
        """
        store = self.deliberations.store
        before = await store.deliberations.get(state_key(result.deliberation_id))
        if before is None:
            raise NotFound(f"deliberation {result.deliberation_id} has no record")
        seat_of(before.value, result)
        result = checked(result)
        try:
            await store.results.create(result.job_id, result)
        except Conflict:
            kept = await store.results.get(result.job_id)
            result = kept.value if kept else result  # the first one counts, whatever a repetition says
        after = await self.deliberations.fold(
            result.deliberation_id, [SeatEnded(result.job_id, result.error, self.deliberations.clock())]
        )
        if after is not None and seat_of(after, result).status == "waiting":
            await self._late(after, result)
        if after is not None and after.retired:
            await expire(store.results, result.job_id)
        self.deliberation_driver.wake(result.deliberation_id)

    async def on_deadline(self, event: DeadlineReached) -> None:
        """Closes a deliberation whose time is up; one that has ended stays as it is. Where the server's clock is ahead of
        ours, raises Unavailable, so that the message comes again."""
        entry = await self.deliberations.store.deliberations.get(state_key(event.deliberation_id))
        if entry is None or entry.value.status not in ("preparing", "running"):
            return
        if entry.value.deadline > self.deliberations.clock():
            raise Unavailable(f"the deadline of {event.deliberation_id} has not come yet")
        await self.close_at_deadline(entry.value)

    async def close_at_deadline(self, state: Deliberation) -> None:
        """Counts what came in time, though nobody has read its message yet, and closes the rest."""
        try:
            await self.take_results(state)
        except FleetError as error:
            log.warning(
                "deadline without asking the executor", deliberation_id=state.deliberation_id, reason=str(error)
            )
        await self.deliberations.fold(state.deliberation_id, [DeadlinePassed(self.deliberations.clock())])
        self.deliberation_driver.wake(state.deliberation_id)

    async def take_results(self, state: Deliberation) -> None:
        """Asks the executor of a deliberation that is believed running: takes in results that no message brought, and has
        what the executor does not know submitted again."""
        known = await self.deliberations.executor.results(state.deliberation_id)
        waiting = [seat for seat in state.seats if seat.status == "waiting"]
        for seat in waiting:
            result = known.get(seat.job_id)
            if result is not None:
                await self.on_result(result)
        if any(seat.job_id not in known for seat in waiting):
            log.warning("deliberation submission lost", deliberation_id=state.deliberation_id)
            await self.deliberations.fold(state.deliberation_id, [SubmissionLost()])
            self.deliberation_driver.wake(state.deliberation_id)

    async def on_context_updated(self, event: ContextUpdated) -> None:
        """Lets the tasks start that waited for this decision to be in the graph."""
        if event.plan_id and event.deliberation_id:
            plan = await self.plans.fold(event.plan_id, Remembered(event.deliberation_id))
            if plan is not None:
                self.plan_driver.wake(event.plan_id)

    async def _late(self, state: Deliberation, result: AgentResult) -> None:
        """Recorded, not counted."""
        since = (self.deliberations.clock() - (state.closed_at or state.deadline)).total_seconds()
        log.info("result late", deliberation_id=state.deliberation_id, agent_id=result.agent_id, status=state.status)
        await self.bus.publish(
            ResultLate(
                deliberation_id=result.deliberation_id,
                task_id=result.task_id,
                job_id=result.job_id,
                agent_id=result.agent_id,
                late_seconds=max(0.0, since),
            )
        )


def checked(result: AgentResult) -> AgentResult:
    """The result with its error's text kept short; raises Invalid where status, content and error contradict each other."""
    if result.status == "failed" and result.error is None:
        raise Invalid(f"result {result.job_id} failed and does not say why")
    if result.status == "completed" and (result.error is not None or not result.content.strip()):
        raise Invalid(f"result {result.job_id} is completed, and has an error or no content")
    if result.error is None:
        return result
    message, _ = events.cut(result.error.message, MAX_ERROR_BYTES)
    return msgspec.structs.replace(result, error=msgspec.structs.replace(result.error, message=message))


def seat_of(state: Deliberation, result: AgentResult) -> Seat:
    """The seat a result belongs to; raises Invalid where job and agent are not one of the deliberation's."""
    for seat in state.seats:
        if seat.job_id == result.job_id and seat.agent_id == result.agent_id:
            return seat
    raise Invalid(f"job {result.job_id} of {result.agent_id} is no seat of deliberation {state.deliberation_id}")
