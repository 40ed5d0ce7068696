"""Brings one deliberation as far as it goes: carries out what is due, folds in what it confirms, and again.

Each command is a function of the saved state and may run twice, on two replicas at once, or after a crash: what it writes is
create-only or derived, and what it sends carries derived ids.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping

import structlog

from fleet.deliberation.outcome import decides, outcome
from fleet.deliberation.requests import requests
from fleet.deliberation.state import (
    Announced,
    Broke,
    Command,
    Deliberation,
    DeliberationEvent,
    OutcomePublished,
    Reported,
    Retired,
    Scheduled,
    Stopped,
    Submitted,
    advance,
    due,
)
from fleet.deliberation.turn import turn
from fleet.orchestrator.clocks import Clock
from fleet.orchestrator.live import DeliberationRecords, Markers
from fleet.orchestrator.peers import Executor
from fleet.orchestrator.preparing import Preparing
from fleet.orchestrator.replay import Replays
from fleet.orchestrator.results import Results
from fleet.orchestrator.store import Outcome, Store, outcome_key
from fleet_wire import topology
from fleet_wire.bus import Bus
from fleet_wire.consumer import HOPELESS
from fleet_wire.errors import Conflict, Unavailable
from fleet_wire.events import AgentResult, DeadlineReached, DeliberationCompleted, DeliberationStarted

log = structlog.get_logger(__name__)

Confirmed = tuple[DeliberationEvent, ...]


@dataclasses.dataclass(frozen=True)
class Deliberations:
    """The ports that a deliberation is driven with. `report` tells its plan how it ended."""

    store: Store
    bus: Bus
    executor: Executor
    records: DeliberationRecords
    live: Markers
    results: Results
    preparing: Preparing
    replays: Replays
    clock: Clock
    report: Callable[[Deliberation], Awaitable[None]]

    async def drive(self, deliberation_id: str) -> None:
        """Does all that is due until nothing is. Raises what stopped it: Unavailable where a part is away."""
        try:
            await self._drive(deliberation_id)
        except BaseException as error:
            state = self.records.remembered(deliberation_id)
            # The next try begins with what stands in the store, but where it only waits for the graph: there a record that
            # another replica has moved since does no harm, and shows when it is written.
            if not (isinstance(error, Unavailable) and state is not None and state.status == "preparing"):
                self.records.forget(deliberation_id)
            raise

    async def fold(self, deliberation_id: str, events: Confirmed) -> Deliberation | None:
        """Moves the saved state by these events; None where there is no record."""
        return await self.records.fold(deliberation_id, events)

    async def _drive(self, deliberation_id: str) -> None:
        state = await self.records.known(deliberation_id)
        if state is None:
            log.warning("deliberation without a record", deliberation_id=deliberation_id)
        while state is not None and (commands := due(state)):
            found = await asyncio.gather(
                *(self._carry_out(command, state) for command in commands), return_exceptions=True
            )
            confirmed = tuple(event for one in found if not isinstance(one, BaseException) for event in one)
            moved = await self.fold(deliberation_id, confirmed) if confirmed else state
            for one in found:
                if isinstance(one, BaseException):
                    raise one
            if moved == state:
                raise Unavailable(f"{' and '.join(commands)} of {deliberation_id} did not bring it on")
            state = moved
            if state is not None and state.retired:
                await self._forget(state)

    async def _forget(self, state: Deliberation) -> None:
        self.results.forget(state)
        self.preparing.forget(state.deliberation_id)
        await self.live.unmark(state.deliberation_id)

    async def _carry_out(self, command: Command, state: Deliberation) -> Confirmed:
        try:
            return await self._commands()[command](state)
        except HOPELESS as error:
            if command not in ("prepare", "turn", "submit"):
                raise
            log.warning("deliberation broke", deliberation_id=state.deliberation_id, command=command, reason=str(error))
            return (Broke(f"{command}: {error}", self.clock()),)

    def _commands(self) -> Mapping[Command, Callable[[Deliberation], Awaitable[Confirmed]]]:
        return {
            "schedule": self._schedule,
            "prepare": self._prepare,
            "announce": self._announce,
            "turn": self._turn,
            "submit": self._submit,
            "stop": self._stop,
            "decide": self._decide,
            "report": self._report,
            "retire": self._retire,
        }

    async def _schedule(self, state: Deliberation) -> Confirmed:
        await self.bus.schedule(DeadlineReached(deliberation_id=state.deliberation_id), state.deadline)
        return (Scheduled(),)

    async def _prepare(self, state: Deliberation) -> Confirmed:
        """Freezes the prompt, and opens the first phase with it: one write for both."""
        prepared = await self.preparing.prepare(state)
        return (prepared, *(await self._turn(advance(state, prepared))))

    async def _announce(self, state: Deliberation) -> Confirmed:
        await self.bus.publish(
            DeliberationStarted(
                deliberation_id=state.deliberation_id,
                task_id=state.task.task_id,
                plan_id=state.plan_id,
                story_id=state.story_id,
                role=state.task.role,
                protocol=state.protocol,
                numbers=state.numbers,
                chosen_because=state.chosen_because,
                agents=list(state.seats),
                deadline=state.deadline,
            )
        )
        log.info(
            "deliberation started",
            deliberation_id=state.deliberation_id,
            role=state.task.role,
            protocol=state.protocol,
        )
        return (Announced(),)

    async def _turn(self, state: Deliberation) -> Confirmed:
        """The next phase, or that there is none."""
        prompt, results = await asyncio.gather(self.preparing.prompt(state), self.results.of(state))
        # With answers it is CPU work of some milliseconds: off the loop that answers health checks and acknowledges messages.
        if results:
            return (await asyncio.to_thread(turn, state, prompt, results, self.clock()),)
        return (turn(state, prompt, results, self.clock()),)

    async def _submit(self, state: Deliberation) -> Confirmed:
        prompt, results = await asyncio.gather(self.preparing.prompt(state), self.results.of(state))
        jobs = (
            await asyncio.to_thread(requests, state, prompt, results) if results else requests(state, prompt, results)
        )
        over = await self.replays.take_over(state, jobs) if state.replay_of else ()
        rest = [job for job in jobs if all(job.job_id != ended.job_id for ended in over)]
        if rest:
            await self.executor.execute(state, rest)
        log.info("deliberation submitted", deliberation_id=state.deliberation_id, phase=state.phase, jobs=len(rest))
        return (*over, Submitted(state.phase))

    async def _stop(self, state: Deliberation) -> Confirmed:
        await self.executor.cancel(state.deliberation_id)
        return (Stopped(),)

    async def _decide(self, state: Deliberation) -> Confirmed:
        event = await asyncio.to_thread(outcome, state, await self._counted_results(state))
        key = outcome_key(state.deliberation_id)
        try:
            await self.store.outcomes.create(key, Outcome.of(event, state.task), topology.RESULT_TTL)
        except Conflict:
            entry_before = await self.store.outcomes.get(key)
            event = entry_before.value.event if entry_before else event
        await self.bus.publish(event)
        if isinstance(event, DeliberationCompleted):
            log.info("deliberation.completed", deliberation_id=state.deliberation_id, winner=event.winner)
            return (OutcomePublished(event.decision_id, None),)
        log.warning(
            "deliberation.failed", deliberation_id=state.deliberation_id, reason=event.reason, detail=event.detail
        )
        return (OutcomePublished("", event.reason),)

    async def _counted_results(self, state: Deliberation) -> dict[str, AgentResult]:
        """The results of all jobs that ended in time. A deliberation that only fails does not wait for lost ones."""
        try:
            return await self.results.of(state)
        except Unavailable:
            if decides(state):
                raise
            return {}

    async def _report(self, state: Deliberation) -> Confirmed:
        """Tells the plan; where nothing is to be stopped any more, what is left behind gets its time to live as well."""
        await self.report(state)
        over = advance(state, Reported())
        return (Reported(), *(await self._retire(over) if due(over) == ("retire",) else ()))

    async def _retire(self, state: Deliberation) -> Confirmed:
        """Takes the timer back and gives the results their time to live; the outcome has had its own from the start."""
        await asyncio.gather(
            self.bus.unschedule(state.deliberation_id),
            *(self.results.expire(job.job_id) for job in state.jobs),
        )
        return (Retired(),)
