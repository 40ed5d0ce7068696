"""Brings one deliberation as far as it goes: carries out what is due, folds in what it confirms, and again.

Each command is a function of the saved state and may run twice, on two replicas at once, or after a crash: what it writes is
create-only or derived, and what it sends carries derived ids.
"""

import asyncio
import dataclasses
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping

import structlog

from fleet.deliberation import prompt as prompts
from fleet.deliberation.outcome import decides, outcome
from fleet.deliberation.state import (
    Announced,
    Broke,
    Command,
    Deliberation,
    DeliberationEvent,
    OutcomePublished,
    Prepared,
    Reported,
    Retired,
    Scheduled,
    Submitted,
    advance,
    counted,
    due,
)
from fleet.orchestrator.peers import AgentJob, Executor, Memory
from fleet.orchestrator.store import (
    Outcome,
    Store,
    deliberation_ttl,
    outcome_key,
    prompt_key,
    state_key,
)
from fleet_wire import ids, topology
from fleet_wire.bus import Bus
from fleet_wire.consumer import HOPELESS
from fleet_wire.errors import Conflict, Unavailable
from fleet_wire.events import AgentResult, DeadlineReached, DeliberationCompleted, DeliberationStarted
from fleet_wire.kv import Bucket, T, change

log = structlog.get_logger(__name__)

Clock = Callable[[], dt.datetime]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an agent may write and be shown, in tokens, and how it samples."""

    max_tokens: int
    temperature: float
    token_budget: int


@dataclasses.dataclass(frozen=True)
class Deliberations:
    """The ports that a deliberation is driven with. `report` tells its plan how it ended."""

    store: Store
    bus: Bus
    executor: Executor
    memory: Memory
    limits: Limits
    clock: Clock
    report: Callable[[Deliberation], Awaitable[None]]

    async def drive(self, deliberation_id: str) -> None:
        """Does all that is due until nothing is. Raises what stopped it: Unavailable where a part is away."""
        while True:
            entry = await self.store.deliberations.get(state_key(deliberation_id))
            if entry is None:
                log.warning("deliberation without a record", deliberation_id=deliberation_id)
                return
            state = entry.value
            commands = due(state)
            if not commands:
                return
            outcomes = await asyncio.gather(
                *(self._carry_out(command, state) for command in commands), return_exceptions=True
            )
            confirmed = [found for found in outcomes if not isinstance(found, BaseException)]
            await self.fold(deliberation_id, confirmed)
            for found in outcomes:
                if isinstance(found, BaseException):
                    raise found

    async def fold(self, deliberation_id: str, confirmed: list[DeliberationEvent]) -> Deliberation | None:
        """Moves the saved state by these events; None where there is no record."""

        def step(state: Deliberation | None) -> Deliberation | None:
            if state is None:
                return None
            for event in confirmed:
                state = advance(state, event)
            return state

        return await change(self.store.deliberations, state_key(deliberation_id), step, deliberation_ttl)

    async def _carry_out(self, command: Command, state: Deliberation) -> DeliberationEvent:
        try:
            return await self._commands()[command](state)
        except HOPELESS as error:
            if command not in ("prepare", "submit"):
                raise
            log.warning("deliberation broke", deliberation_id=state.deliberation_id, command=command, reason=str(error))
            return Broke(f"{command}: {error}", self.clock())

    def _commands(self) -> Mapping[Command, Callable[[Deliberation], Awaitable[DeliberationEvent]]]:
        return {
            "announce": self._announce,
            "schedule": self._schedule,
            "prepare": self._prepare,
            "submit": self._submit,
            "decide": self._decide,
            "report": self._report,
            "retire": self._retire,
        }

    async def _announce(self, state: Deliberation) -> DeliberationEvent:
        await self.bus.publish(
            DeliberationStarted(
                deliberation_id=state.deliberation_id,
                task_id=state.task.task_id,
                plan_id=state.plan_id,
                story_id=state.story_id,
                role=state.task.role,
                protocol=state.protocol,
                agents=[seat.agent_id for seat in state.seats],
                deadline=state.deadline,
            )
        )
        log.info("deliberation started", deliberation_id=state.deliberation_id, role=state.task.role)
        return Announced()

    async def _schedule(self, state: Deliberation) -> DeliberationEvent:
        await self.bus.schedule(DeadlineReached(deliberation_id=state.deliberation_id), state.deadline)
        return Scheduled()

    async def _prepare(self, state: Deliberation) -> DeliberationEvent:
        """Renders the prompt once. Whoever saves it first has frozen it for every later try."""
        key = prompt_key(state.deliberation_id)
        entry = await self.store.prompts.get(key)
        if entry is not None:
            return Prepared(entry.value.hash)
        blocks = await self.memory.context_for(state, self.limits.token_budget) if state.plan_id else ()
        prompt = prompts.render(
            state.task,
            blocks,
            len(state.seats),
            max_tokens=self.limits.max_tokens,
            temperature=self.limits.temperature,
        )
        try:
            await self.store.prompts.create(key, prompt, state.deadline - self.clock() + topology.RESULT_TTL)
        except Conflict:
            return await self._prepare(state)
        return Prepared(prompt.hash)

    async def _submit(self, state: Deliberation) -> DeliberationEvent:
        entry = await self.store.prompts.get(prompt_key(state.deliberation_id))
        if entry is None or entry.value.hash != state.prompt_hash:
            raise Unavailable(f"the frozen prompt of {state.deliberation_id} cannot be read")
        await self.executor.execute(state, jobs_of(state, entry.value))
        log.info("deliberation submitted", deliberation_id=state.deliberation_id, jobs=len(state.seats))
        return Submitted()

    async def _decide(self, state: Deliberation) -> DeliberationEvent:
        results = await self._counted_results(state) if decides(state) else {}
        # CPU work of some milliseconds: off the loop that answers health checks and acknowledges messages.
        event = await asyncio.to_thread(outcome, state, results)
        key = outcome_key(state.deliberation_id)
        try:
            await self.store.outcomes.create(key, Outcome.of(event))
        except Conflict:
            entry_before = await self.store.outcomes.get(key)
            event = entry_before.value.event if entry_before else event
        await self.bus.publish(event)
        if isinstance(event, DeliberationCompleted):
            log.info("deliberation.completed", deliberation_id=state.deliberation_id, winner=event.winner)
            return OutcomePublished(event.decision_id, None)
        log.warning(
            "deliberation.failed", deliberation_id=state.deliberation_id, reason=event.reason, detail=event.detail
        )
        return OutcomePublished("", event.reason)

    async def _counted_results(self, state: Deliberation) -> dict[str, AgentResult]:
        """The results that count, from the store, or from the executor where the store has lost them."""
        entries = [await self.store.results.get(seat.job_id) for seat in counted(state)]
        found = {entry.key: entry.value for entry in entries if entry is not None}
        if len(found) < len(entries):
            log.error("counted results are gone from the store", deliberation_id=state.deliberation_id)
            kept = await self.executor.results(state.deliberation_id)
            found.update((job_id, result) for job_id, result in kept.items() if result and result.status == "completed")
        return found

    async def _report(self, state: Deliberation) -> DeliberationEvent:
        await self.report(state)
        return Reported()

    async def _retire(self, state: Deliberation) -> DeliberationEvent:
        """Takes the timer back and gives what the deliberation leaves behind its time to live."""
        await self.bus.unschedule(state.deliberation_id)
        await expire(self.store.outcomes, outcome_key(state.deliberation_id))
        for seat in state.seats:
            await expire(self.store.results, seat.job_id)
        return Retired()


def jobs_of(state: Deliberation, prompt: prompts.Prompt) -> list[AgentJob]:
    """The jobs of the seats that still wait, from the frozen prompt alone. A seat's sampling seed is derived."""
    return [
        AgentJob(
            job_id=seat.job_id,
            agent_id=seat.agent_id,
            system=prompt.system,
            user=prompt.user_message(number),
            max_tokens=prompt.max_tokens,
            temperature=prompt.temperature,
            seed=int(ids.derived("seed", seat.job_id)[-8:], 16),
        )
        for number, seat in enumerate(state.seats, start=1)
        if seat.status == "waiting"
    ]


async def expire(bucket: Bucket[T], key: str) -> None:
    """Writes the record once more, now with RESULT_TTL; one that somebody changes or removes meanwhile is left to them."""
    entry = await bucket.get(key)
    if entry is not None:
        try:
            await bucket.update(key, entry.value, entry.revision, topology.RESULT_TTL)
        except Conflict:
            log.info("expired by another replica", key=key)
