"""Brings one deliberation as far as it goes: carries out what is due, folds in what it confirms, and again.

Each command is a function of the saved state and may run twice, on two replicas at once, or after a crash: what it writes is
create-only or derived, and what it sends carries derived ids.
"""

import asyncio
import dataclasses
import datetime as dt
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import ParamSpec, TypeVar

import structlog

from fleet.deliberation.outcome import decides, outcome
from fleet.deliberation.prompt import Prompt
from fleet.deliberation.requests import requests
from fleet.deliberation.state import (
    Announced,
    Broke,
    Command,
    Deliberation,
    DeliberationEvent,
    JobEnded,
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
from fleet.orchestrator.driver import at_once
from fleet.orchestrator.live import DeliberationRecords, Markers
from fleet.orchestrator.peers import Executor
from fleet.orchestrator.preparing import Preparing
from fleet.orchestrator.replay import Replays
from fleet.orchestrator.results import Results
from fleet.orchestrator.starting import Times
from fleet.orchestrator.store import Outcome, Store, outcome_key
from fleet_wire import topology
from fleet_wire.bus import Bus
from fleet_wire.consumer import HOPELESS
from fleet_wire.errors import Conflict, Unavailable
from fleet_wire.events import AgentResult, DeadlineReached, DeliberationCompleted, DeliberationStarted

log = structlog.get_logger(__name__)

Confirmed = tuple[DeliberationEvent, ...]
NEW = dt.timedelta(seconds=1)
"""How long a record is taken to be as this replica made it."""
REPEATABLE = (Announced, Submitted)
"""What these confirm does no harm done again: they wait for the next write."""
LONG_CHARACTERS = 8 * 1024
"""Of all answers together."""
P = ParamSpec("P")
R = TypeVar("R")


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
    times: Times
    plan_is_there: Callable[[Deliberation], Awaitable[None]]
    report: Callable[[Deliberation], Awaitable[None]]

    async def drive(self, deliberation_id: str) -> None:
        """Does all that is due until nothing is. Raises what stopped it: Unavailable where a part is away."""
        try:
            await self._drive(deliberation_id)
        except BaseException as error:
            state = self.records.remembered(deliberation_id)
            # The next try begins with what stands in the store, but where a new one only waits for the graph.
            new = state is not None and state.status == "preparing" and self.clock() - state.created_at < NEW
            if not (isinstance(error, Unavailable) and new):
                self.records.forget(deliberation_id)
            raise

    async def fold(self, deliberation_id: str, events: Confirmed) -> Deliberation | None:
        """Moves the saved state by these events; None where there is no record."""
        return await self.records.fold(deliberation_id, events)

    async def end_job(self, ended: JobEnded, deliberation_id: str) -> Deliberation | None:
        """Counts a saved result. Where it was the last one of its phase, the same write opens the next or closes the last."""
        return await self.records.fold(deliberation_id, (ended,), self._turn_at_once)

    async def _turn_at_once(self, state: Deliberation) -> Confirmed:
        """The turn that is due, where this replica has all that it takes. Whatever stops it, it stays due, and the results are
        counted all the same."""
        if "turn" not in due(state) or not self.results.remembers(state):
            return ()
        try:
            return await self._turn(state)
        except (*HOPELESS, Unavailable):
            return ()
        except Exception:
            log.exception("turn left to the driver", deliberation_id=state.deliberation_id)
            return ()

    async def _drive(self, deliberation_id: str) -> None:
        state = await self.records.known(deliberation_id)
        if state is None:
            log.warning("deliberation without a record", deliberation_id=deliberation_id)
        while state is not None and (commands := due(state)):
            found = await at_once([self._carry_out(command, state) for command in commands])
            confirmed = tuple(event for one in found if not isinstance(one, BaseException) for event in one)
            failed = next((one for one in found if isinstance(one, BaseException)), None)
            moved: Deliberation | None = state
            if failed is None and confirmed == (Reported(),) and state.retired:
                moved = self.records.note(deliberation_id, confirmed)
            elif failed is None and "prepare" in commands:
                moved = await self._begin(state, confirmed)
            elif confirmed and failed is None:
                moved = await self._confirm(deliberation_id, confirmed)
            elif confirmed:
                moved = await self.fold(deliberation_id, confirmed)
            if failed is not None:
                raise failed
            if moved == state:
                raise Unavailable(f"{' and '.join(commands)} of {deliberation_id} did not bring it on")
            if moved is not None and moved.retired and not state.retired and not due(moved):
                await self.tidy(moved)
            state = moved

    async def _confirm(self, deliberation_id: str, confirmed: Confirmed) -> Deliberation | None:
        if all(isinstance(event, REPEATABLE) for event in confirmed):
            return await self.records.later(deliberation_id, confirmed)
        return await self.fold(deliberation_id, confirmed)

    async def _begin(self, state: Deliberation, prepared: Confirmed) -> Deliberation | None:
        """Saves what was prepared, and has the first jobs run meanwhile: they follow from the frozen prompt, so that who prepares
        again after a crash submits the same. Where somebody closed the deliberation before they were saved, they are stopped."""
        opened = functools.reduce(advance, prepared, state)
        if "submit" not in due(opened):
            return await self.fold(state.deliberation_id, prepared)
        saved, submitted = await asyncio.gather(
            self.fold(state.deliberation_id, prepared), self._carry_out("submit", opened), return_exceptions=True
        )
        if isinstance(saved, BaseException):
            raise saved
        if saved is None or not saved.jobs:
            await self.executor.cancel(state.deliberation_id)
            return saved
        if isinstance(submitted, BaseException):
            raise submitted
        return await self._confirm(state.deliberation_id, submitted)

    async def tidy(self, state: Deliberation) -> None:
        """Takes back the timer of a retired deliberation and gives its results their time to live; the outcome has had its own
        from the start. By its marker, which goes last, or by its plan, which is told after that, a sweep finds what a crash left.
        None of it is waited for: should the server not get it, a timer comes that is passed over, results stay as long as a
        stub, or a sweep finds the marker."""
        if state.closed_at is None or self.times.near(state.deadline, state.closed_at):
            await self.bus.unschedule(state.deliberation_id)
        for job in state.jobs:
            await self.results.expire(job.job_id)
        self.results.forget(state)
        self.preparing.forget(state.deliberation_id)
        if state.reported or not state.plan_id:  # else its plan's marker is its own
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
        await self.set_timer(state)
        return (Scheduled(),)

    async def set_timer(self, state: Deliberation) -> None:
        """Has the server tell of the deadline; again, it replaces the timer that there is."""
        await self.bus.schedule(DeadlineReached(deliberation_id=state.deliberation_id), state.deadline)

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
        prompt, results = await self._at_hand(state)
        return (await worked_out(results, turn, state, prompt, results, self.clock()),)

    async def _at_hand(self, state: Deliberation) -> tuple[Prompt, dict[str, AgentResult]]:
        """One after the other: they are in memory, but for a replica that begins."""
        return await self.preparing.prompt(state), await self.results.of(state)

    async def _submit(self, state: Deliberation) -> Confirmed:
        prompt, results = await self._at_hand(state)
        jobs = await worked_out(results, requests, state, prompt, results)
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
        results = await self._counted_results(state)
        event = await worked_out(results, outcome, state, results)
        key = outcome_key(state.deliberation_id)
        try:
            await self.store.outcomes.create(key, Outcome.of(event, state.task), topology.RESULT_TTL)
        except Conflict:
            entry_before = await self.store.outcomes.get(key)
            event = entry_before.value.event if entry_before else event
        await self.bus.publish(event)
        if isinstance(event, DeliberationCompleted):
            log.info("deliberation.completed", deliberation_id=state.deliberation_id, winner=event.winner)
            published = OutcomePublished(event.decision_id, None)
        else:
            log.warning(
                "deliberation.failed", deliberation_id=state.deliberation_id, reason=event.reason, detail=event.detail
            )
            published = OutcomePublished("", event.reason)
        return (published, Retired()) if due(advance(state, published)) == ("retire",) else (published,)

    async def _counted_results(self, state: Deliberation) -> dict[str, AgentResult]:
        """The results of all jobs that ended in time. A deliberation that only fails does not wait for lost ones."""
        try:
            return await self.results.of(state)
        except Unavailable:
            if decides(state):
                raise
            return {}

    async def _report(self, state: Deliberation) -> Confirmed:
        """Tells the plan. After that nobody may look for this deliberation any more, so that it is tidied up before."""
        if state.retired:
            await self.plan_is_there(state)
            await self.tidy(state)
        await self.report(state)
        return (Reported(),)

    async def _retire(self, state: Deliberation) -> Confirmed:
        """Nothing is to be done any more but to tidy up, once that is saved."""
        return (Retired(),)


async def worked_out(results: Mapping[str, AgentResult], rule: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What the rule says. Over long answers it is CPU work of many milliseconds: off the loop that answers health checks and
    acknowledges messages. Over short ones a thread would cost more than it."""
    if sum(len(result.content) for result in results.values()) < LONG_CHARACTERS:
        return rule(*args, **kwargs)
    return await asyncio.to_thread(rule, *args, **kwargs)
