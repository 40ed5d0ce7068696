"""What the orchestrator does with each event: save its effect, wake whoever it concerns. One function an event.

An effect is saved before the message is acknowledged; what follows from it is due in the saved state and needs no message.
"""

import dataclasses
import datetime as dt

import msgspec
import structlog

from fleet.deliberation.plan import Overruled
from fleet.deliberation.state import DeadlinePassed, Deliberation, Job, JobEnded, SubmissionLost, waiting
from fleet.orchestrator.deliberations import Deliberations
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.plans import Plans
from fleet_wire import events, ids
from fleet_wire.bus import Bus
from fleet_wire.errors import FleetError, Invalid, NotFound, Unavailable
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
        """Opens the plan's record once, and cancels what runs of those it supersedes; a repeated event changes nothing."""
        await self.plans.open(event)
        for before in event.supersedes:
            await self.plans.supersede(before, event)

    async def on_result(self, result: AgentResult) -> None:
        """The DeliberationResultCollector: copies the result, counts its job, or records it as late.

        Raises NotFound for a deliberation that has no record, Unavailable until its jobs are saved, and Invalid for a job that is
        none of its and for a result that contradicts itself. What others had the executor run, under ids that no deliberation
        has, is none of its business.
        """
        if not ids.is_deliberation(result.deliberation_id):
            log.info("result of nobody's deliberation", deliberation_id=result.deliberation_id)
            return
        records = self.deliberations.records
        state = await records.known(result.deliberation_id)
        if state is not None and not any(job.job_id == result.job_id for job in state.jobs):
            state = await records.read(result.deliberation_id)  # another replica may have opened a phase since
        if state is None:
            raise NotFound(f"deliberation {result.deliberation_id} has no record")
        if state.status == "preparing":
            # Whoever submitted its jobs saves them now, or crashed, and they are made once more.
            self.deliberation_driver.wake(result.deliberation_id)
            raise Unavailable(f"the jobs of deliberation {result.deliberation_id} are not saved yet")
        if not state.jobs:
            await self._late(state, result)  # it was closed before those that were submitted were saved
            return
        job_of(state, result)
        result = await self.deliberations.results.save(checked(result))
        after = await self.deliberations.end_job(ended(result, self.deliberations.clock()), result.deliberation_id)
        if after is not None and job_of(after, result).status == "waiting":
            await self._late(after, result)
        if after is not None and after.retired:
            await self.deliberations.results.expire(result.job_id)
        self.deliberation_driver.wake(result.deliberation_id)

    async def on_deadline(self, event: DeadlineReached) -> None:
        """Closes a deliberation whose time is up; one that has ended stays as it is. Where the server's clock is ahead of
        ours, raises Unavailable, so that the message comes again."""
        state = await self.deliberations.records.read(event.deliberation_id)
        if state is None or state.status not in ("preparing", "running"):
            return
        if state.deadline > self.deliberations.clock():
            raise Unavailable(f"the deadline of {event.deliberation_id} has not come yet")
        await self.close_at_deadline(state)

    async def close_at_deadline(self, state: Deliberation) -> None:
        """Counts what came in time, though nobody has read its message yet, and closes the rest."""
        try:
            await self.take_results(state)
        except FleetError as error:
            log.warning(
                "deadline without asking the executor", deliberation_id=state.deliberation_id, reason=str(error)
            )
        except Exception:
            log.exception("deadline without all results", deliberation_id=state.deliberation_id)
        await self.deliberations.fold(state.deliberation_id, (DeadlinePassed(self.deliberations.clock()),))
        self.deliberation_driver.wake(state.deliberation_id)

    async def take_results(self, state: Deliberation) -> None:
        """Asks the executor of a deliberation whose jobs it may have, whether that was noted or not: takes in results that no
        message brought, and has what should run there and does not submitted again."""
        open_jobs = waiting(state)
        if not open_jobs:
            return
        known = await self.deliberations.executor.results(state.deliberation_id)
        came = [result for job in open_jobs if (result := known.get(job.job_id)) is not None]
        for result in came:
            await self.on_result(result)
        # A result counts as word of the whole submission.
        if (state.submitted or came) and any(job.job_id not in known for job in open_jobs):
            log.warning("deliberation submission lost", deliberation_id=state.deliberation_id)
            await self.deliberations.fold(state.deliberation_id, (SubmissionLost(),))
            self.deliberation_driver.wake(state.deliberation_id)

    async def on_context_updated(self, event: ContextUpdated) -> None:
        """Lets start what waited for this plan, or for this decision, to be in the graph, and notes which decisions rely on
        superseded ones, and which a person overruled."""
        for decision_id in event.flagged:
            # One that was overruled on arrival stands among those itself.
            await self.plans.flag(decision_id, tuple(one for one in event.superseded if one != decision_id))
        if event.plan_id and (overruled := overruled_by(event)):
            await self.plans.fold(event.plan_id, Overruled(overruled))
        if event.plan_id and event.deliberation_id:
            await self.plans.remembered(event.plan_id, event.deliberation_id)
        elif event.plan_id:
            self.plans.arrived(event.plan_id)

    async def _late(self, state: Deliberation, result: AgentResult) -> None:
        """Recorded, not counted. What was stopped on purpose is no late answer."""
        if result.error is not None and result.error.kind == "cancelled":
            return
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


def overruled_by(event: ContextUpdated) -> frozenset[str]:
    """The deliberations whose decisions a person overruled, as the event tells in the story of these: a ruling's names no
    deliberation, and a decision that came after the ruling names itself."""
    named = {ids.deliberation_of(decision) for decision in event.superseded}
    return frozenset(named & {event.deliberation_id} if event.deliberation_id else named)


def ended(result: AgentResult, now: dt.datetime) -> JobEnded:
    """The end of a job as its record takes it."""
    tokens = result.usage.prompt + result.usage.completion
    return JobEnded(result.job_id, result.error, now, tokens=tokens, calls=result.calls)


def checked(result: AgentResult) -> AgentResult:
    """The result with its error's text kept short; raises Invalid where status, content and error contradict each other."""
    if result.status == "failed" and result.error is None:
        raise Invalid(f"result {result.job_id} failed and does not say why")
    says = result.content.strip() or result.phase in ("dry_run", "rerun")
    if result.status == "completed" and (result.error is not None or not says):
        raise Invalid(f"result {result.job_id} is completed, and has an error or no content")
    if result.error is None:
        return result
    message, _ = events.cut(result.error.message, MAX_ERROR_BYTES)
    return msgspec.structs.replace(result, error=msgspec.structs.replace(result.error, message=message))


def job_of(state: Deliberation, result: AgentResult) -> Job:
    """The job a result belongs to; raises Invalid where job and agent are not one of the deliberation's."""
    for job in state.jobs:
        if job.job_id == result.job_id and job.agent_id == result.agent_id:
            return job
    raise Invalid(f"job {result.job_id} of {result.agent_id} is no job of deliberation {state.deliberation_id}")
