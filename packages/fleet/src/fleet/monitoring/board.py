"""The read model: a fold over the events, bounded in size. Pure: time comes in with each message.

The order in which events of different streams arrive does not matter, and neither do repetitions: of each step the earliest
moment counts, of each job the first result, of each deliberation the first end. Only streamed text follows its order, since
it is shown as it comes.

`shown` is the moment at which this process first had the whole outcome to show: both the decision and its arrival in the
graph (`decided` and `remembered`), or the failure. After a restart of the dashboard it is when the new process had it.
"""

import collections
import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import TypeVar

from fleet.describe import PROGRAM_PHASES, describe
from fleet.monitoring.domain import (
    GAP,
    MAX_AGENTS,
    MAX_JOBS,
    MAX_PHASE_JOBS,
    MAX_STREAMS,
    TEXT_TAIL,
    Agent,
    Checked,
    Deliberation,
    End,
    Line,
    Result,
    Seen,
    Stream,
    shorten,
    tail,
)
from fleet.steps import JobSeen, proposers, step_of, steps_of_jobs
from fleet_wire import events, ids

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much the board keeps."""

    lines: int = 1000
    ended: int = 200
    running: int = 300
    plans: int = 500
    flags: int = 2000


@dataclasses.dataclass(frozen=True)
class Change:
    """What a message changed: a new line of the list, or None, and the deliberations it touched."""

    line: Line | None = None
    deliberations: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Plan:
    approved_at: dt.datetime
    titles: dict[str, str]


class Board:
    """Fed by `apply` and `note_jobs`, read through `lines`, `deliberations` and `get`."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits
        self._lines: collections.deque[Line] = collections.deque(maxlen=limits.lines)
        self._deliberations: dict[str, Deliberation] = {}
        self._plans: collections.OrderedDict[str, _Plan] = collections.OrderedDict()
        self._superseded: dict[str, None] = {}
        self._relies: dict[str, frozenset[str]] = {}
        self._numbers = 0
        self._version = 0

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._version

    def lines(self, limit: int) -> list[Line]:
        """The newest lines, newest first. At start the streams' histories come one beside the other: time orders them."""
        return sorted(self._lines, key=lambda line: (line.at, line.number), reverse=True)[:limit]

    def deliberations(self) -> list[Deliberation]:
        """All that are kept: those that run first, then by their last event, the newest first."""
        kept = self._deliberations.values()
        return sorted(kept, key=lambda one: (one.end is None, one.touched, one.deliberation_id), reverse=True)

    def get(self, deliberation_id: str) -> Deliberation | None:
        return self._deliberations.get(deliberation_id)

    def apply(self, seen: Seen) -> Change:
        """Takes one message in."""
        self._version += 1
        event, before = seen.event, len(self._deliberations)
        touched = () if event is None else self._fold(event, seen)
        for one in touched:
            self._touch(one, seen)
        if before != len(self._deliberations) or isinstance(
            event, (events.DeliberationCompleted, events.DeliberationFailed)
        ):
            self._evict()
        # Tokens would push everything else off the list within a second; they are shown with their agent.
        line = None if isinstance(event, events.TokenChunk) else self._line(seen)
        return Change(line, tuple(one.deliberation_id for one in touched if one.deliberation_id in self._deliberations))

    def note_jobs(self, deliberation_id: str, jobs: Sequence[JobSeen]) -> bool:
        """Takes in what the executor says of a deliberation's jobs; answers whether that changed anything."""
        one = self._deliberations.get(deliberation_id)
        if one is None:
            return False
        before = dict(one.steps), [agent.accepted for agent in one.agents.values()]
        for step, at in steps_of_jobs(jobs, one.seats).items():
            one.reached(step, at)
        for job in jobs:
            if job.accepted_at is not None and (agent := one.agent(job.agent_id)) is not None:
                agent.accepted = True
        if before == (one.steps, [agent.accepted for agent in one.agents.values()]):
            return False
        self._version += 1
        one.version = self._version
        return True

    def _fold(self, event: events.Event, seen: Seen) -> tuple[Deliberation, ...]:
        flagged: tuple[Deliberation, ...] = ()
        match event:
            case events.PlanApproved():
                return self._approved(event, seen)
            case events.DeliberationStarted():
                one = self._known(event.deliberation_id, event.plan_id, event.story_id, event.task_id, event.role)
                _protocol(one, event)
                one.deadline, one.active = event.deadline, True
                one.seats = proposers(event)[:MAX_AGENTS]
                for agent_id in one.seats:
                    one.agent(agent_id)
            case events.TokenChunk():
                one = self._known(event.deliberation_id)
                one.active = True
                if (agent := one.agent(event.agent_id)) is not None:
                    _stream(agent, event, seen.at)
            case events.AgentResult():
                one = self._known(event.deliberation_id, task_id=event.task_id, role=event.role)
                one.active = True
                _count(one, event, seen.at)
                if (agent := one.agent(event.agent_id)) is not None:
                    _answer(agent, event, seen.at)
            case events.DeliberationCompleted() | events.DeliberationFailed():
                one = self._known(event.deliberation_id, event.plan_id, event.story_id, event.task_id, event.role)
                if isinstance(event, events.DeliberationCompleted):
                    _protocol(one, event)
                _end(one, event, seen)
            case events.ContextUpdated(deliberation_id=""):
                return self._flag(event)
            case events.ContextUpdated():
                one = self._known(event.deliberation_id, event.plan_id, event.story_id)
                flagged = self._flag(event)
            case events.ResultLate():
                one = self._known(event.deliberation_id, task_id=event.task_id)
            case _:
                return ()
        step = step_of(event)
        if step is not None:
            one.reached(step, seen.at)
        return (one, *(other for other in flagged if other is not one))

    def _flag(self, event: events.ContextUpdated) -> tuple[Deliberation, ...]:
        """Notes what was superseded and what relies on it, whether the deliberations are known yet or not; those that are."""
        for decision_id in event.superseded:
            _keep(self._superseded, decision_id, None, self._limits.flags)
        for decision_id in event.flagged:
            relies = self._relies.get(decision_id, frozenset()).union(event.superseded)
            _keep(self._relies, decision_id, relies, self._limits.flags)
        named = dict.fromkeys(ids.deliberation_of(decision) for decision in (*event.superseded, *event.flagged))
        return tuple(self._deliberations[name] for name in named if name in self._deliberations)

    def _approved(self, event: events.PlanApproved, seen: Seen) -> tuple[Deliberation, ...]:
        before = self._plans.get(event.plan_id)
        at = min(seen.at, before.approved_at) if before else seen.at
        self._plans[event.plan_id] = _Plan(at, {task.task_id: shorten(task.title) for task in event.tasks})
        self._plans.move_to_end(event.plan_id)
        while len(self._plans) > self._limits.plans:
            self._plans.popitem(last=False)
        mine = tuple(one for one in self._deliberations.values() if one.plan_id == event.plan_id)
        for one in mine:
            self._plan_of(one)
        return mine

    def _known(
        self, deliberation_id: str, plan_id: str = "", story_id: str = "", task_id: str = "", role: str = ""
    ) -> Deliberation:
        one = self._deliberations.setdefault(deliberation_id, Deliberation(deliberation_id))
        one.plan_id = one.plan_id or plan_id
        one.story_id = one.story_id or story_id
        one.task_id = one.task_id or task_id
        one.role = one.role or role
        self._plan_of(one)
        return one

    def _plan_of(self, one: Deliberation) -> None:
        plan = self._plans.get(one.plan_id)
        if plan is not None:
            one.reached("approved", plan.approved_at)
            one.title = one.title or plan.titles.get(one.task_id, "")

    def _touch(self, one: Deliberation, seen: Seen) -> None:
        one.version = self._version
        one.touched = max(one.touched, seen.at)
        if one.end is not None:
            one.superseded = one.end.decision_id in self._superseded
            one.relies_on_superseded = tuple(sorted(self._relies.get(one.end.decision_id, ())))
        failed = one.end is not None and one.end.state == "failed"
        if "shown" not in one.steps and (failed or {"decided", "remembered"} <= one.steps.keys()):
            one.reached("shown", seen.now)

    def _evict(self) -> None:
        kept = self._deliberations
        ended = [one for one in kept.values() if one.end is not None]
        running = [one for one in kept.values() if one.end is None]
        for group, limit in ((ended, self._limits.ended), (running, self._limits.running)):
            for one in sorted(group, key=lambda one: one.touched)[: max(0, len(group) - limit)]:
                del kept[one.deliberation_id]

    def _line(self, seen: Seen) -> Line:
        self._numbers += 1
        event = seen.event
        line = Line(
            number=self._numbers,
            at=seen.at,
            stream=seen.stream,
            sequence=seen.sequence,
            subject=shorten(seen.subject),
            type="malformed" if event is None else event.TYPE,
            summary=shorten(seen.reason, 300) if event is None else shorten(describe(event)),
            deliberation_id=getattr(event, "deliberation_id", ""),
            plan_id=getattr(event, "plan_id", ""),
            malformed=shorten(seen.reason, 300) if event is None else "",
        )
        self._lines.append(line)
        return line


def _keep(of: dict[str, T], key: str, value: T, limit: int) -> None:
    """Holds the value; beyond the limit the oldest goes."""
    of.pop(key, None)
    of[key] = value
    while len(of) > limit:
        del of[next(iter(of))]


def _stream(agent: Agent, chunk: events.TokenChunk, at: dt.datetime) -> None:
    """Adds a chunk, unless it is an old one: of a job that has ended, or one that was already added."""
    if chunk.job_id in agent.results:
        return
    stream = agent.streams.get(chunk.job_id)
    if stream is None or stream.attempt < chunk.attempt:
        stream = agent.streams[chunk.job_id] = Stream(chunk.job_id, chunk.attempt, -1, at, "")
    if stream.attempt != chunk.attempt or chunk.seq <= stream.seq:
        return
    lost = chunk.seq > stream.seq + 1
    stream.text = ((stream.text + GAP if lost else stream.text) + chunk.text)[-TEXT_TAIL:]
    stream.seq, stream.at = chunk.seq, at
    while len(agent.streams) > MAX_STREAMS:
        del agent.streams[min(agent.streams, key=lambda job: agent.streams[job].at)]


def _protocol(one: Deliberation, event: events.DeliberationStarted | events.DeliberationCompleted) -> None:
    if isinstance(event, events.DeliberationCompleted) or not one.protocol:
        one.protocol, one.numbers = event.protocol, dict(event.numbers)
    one.chosen_because = one.chosen_because or shorten(event.chosen_because, 300)


def _count(one: Deliberation, result: events.AgentResult, at: dt.datetime) -> None:
    before = one.jobs.get(result.job_id)
    if (before is None and len(one.jobs) < MAX_PHASE_JOBS) or (before is not None and at < before[0]):
        one.jobs[result.job_id] = (at, shorten(result.phase, 20), result.status)


def _answer(agent: Agent, result: events.AgentResult, at: dt.datetime) -> None:
    if result.checks and result.phase in ("propose", "revise") and (agent.checked is None or at >= agent.checked.at):
        agent.checked = Checked(at, checks=tuple(result.checks))
    if result.phase in PROGRAM_PHASES:  # a program's run has no text of its own, which would hide the proposal's
        if agent.ran is None or at >= agent.ran.at:
            agent.ran = Checked(at, runs=tuple(result.runs))
        return
    before = agent.results.get(result.job_id)
    if before is not None and before.at <= at:
        return
    error = f"{result.error.kind}: {shorten(result.error.message, 300)}" if result.error else ""
    agent.results[result.job_id] = Result(
        at, result.status, tail(result.content), error, shorten(result.phase, 20), shorten(result.item, 64)
    )
    while len(agent.results) > MAX_JOBS:
        del agent.results[min(agent.results, key=lambda job: agent.results[job].at)]


def _end(one: Deliberation, event: events.DeliberationCompleted | events.DeliberationFailed, seen: Seen) -> None:
    if one.end is not None and (one.end.at, one.end.sequence) <= (seen.at, seen.sequence):
        return
    for agent in one.agents.values():
        agent.ended_as, agent.reason, agent.rank, agent.score = "missing", "", None, None
        agent.revised, agent.ended_checks = False, ()
    if isinstance(event, events.DeliberationFailed):
        reason = f"{event.reason}: {shorten(event.detail, 300)}" if event.detail else event.reason
        one.end = End(
            seen.at,
            seen.sequence,
            "failed",
            reason=reason,
            duration_seconds=event.duration_seconds,
            calls=event.calls,
            tokens=event.usage.prompt + event.usage.completion,
            cached=event.usage.cached,
        )
        for seat in event.agents:
            if seat.phase not in PROGRAM_PHASES and (found := one.agent(seat.agent_id)) is not None:
                _seat(found, seat)
        return
    score = next((ranked.score for ranked in event.ranking if ranked.agent_id == event.winner), None)
    one.end = End(
        seen.at,
        seen.sequence,
        "completed",
        decision_id=event.decision_id,
        title=shorten(event.decision.title),
        winner=event.winner,
        score=score,
        margin=event.margin,
        duration_seconds=event.duration_seconds,
        flips=event.flips,
        verdicts=event.verdicts,
        skipped=tuple((shorten(it.phase, 20), shorten(it.reason, 300)) for it in event.skipped),
        calls=event.calls,
        tokens=event.usage.prompt + event.usage.completion,
        cached=event.usage.cached,
    )
    for missing in event.missing:
        if (found := one.agent(missing.agent_id)) is not None:
            found.ended_as, found.reason = "missing", shorten(missing.reason, 300)
    for ranked in event.ranking:
        if (found := one.agent(ranked.agent_id)) is not None:
            found.ended_as, found.rank, found.score = "completed", ranked.rank, ranked.score
            found.revised = ranked.revised
            found.ended_checks = tuple(ranked.checks)


def _seat(agent: Agent, seat: events.SeatReport) -> None:
    if agent.ended_as == "failed":
        return  # of several jobs the one that failed says most
    if seat.state == "completed":
        agent.ended_as = "completed"
    elif seat.state == "failed":
        agent.ended_as = "failed"
        agent.reason = f"{seat.error.kind}: {shorten(seat.error.message, 300)}" if seat.error else ""
    else:
        agent.ended_as, agent.reason = "missing", f"{shorten(seat.state, 40)} when the deliberation failed"
