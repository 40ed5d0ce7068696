"""Any order, repetition and loss of results, with deadlines, cancelling and crashes anywhere, for every protocol."""

import dataclasses
import datetime as dt
import random

import msgspec
import pytest
from delibkit import (
    ADD,
    CODE_TASK,
    DEADLINE,
    ERROR,
    START,
    TASK,
    TESTS,
    checked,
    fresh,
    numbers_of,
    prompt_for,
    ran,
    result,
    verdict,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.deliberation import state as machine
from fleet.deliberation.outcome import outcome
from fleet.deliberation.prompt import Prompt
from fleet.deliberation.protocols import PROTOCOLS
from fleet.deliberation.requests import JobRequest, requests
from fleet.deliberation.state import Command, Deliberation, DeliberationEvent, advance, due, spent, waiting
from fleet.deliberation.turn import turn
from fleet_wire.events import (
    AgentResult,
    Budget,
    DeliberationCompleted,
    DeliberationFailed,
    SeatReport,
    Usage,
    encode,
)

CODEC = msgspec.json.Decoder(Deliberation)
PROPOSALS = (
    ADD,
    "```python\ndef add(a, b):\n    return b + a\n```",
    "    return sum((a, b))",
    "we parse the file from its start to its end",
    "we parse the file from its start to its middle",
    "42",
    "",
)
VERDICTS = (verdict("first"), verdict("second"), verdict("tie"), "no JSON")


@dataclasses.dataclass(repr=False)
class World:
    """A store, an executor and a clock round one record, any of which may fail to be told."""

    state: Deliberation
    prompt: Prompt
    chance: random.Random
    now: dt.datetime = START
    results: dict[str, AgentResult] = dataclasses.field(default_factory=dict)
    accepted: dict[str, JobRequest] = dataclasses.field(default_factory=dict)
    counted: list[DeliberationEvent] = dataclasses.field(default_factory=list)
    outcomes: list[DeliberationCompleted | DeliberationFailed] = dataclasses.field(default_factory=list)

    def fold(self, event: DeliberationEvent) -> None:
        """Saves, and reads back what was saved: nothing but the record outlives a step."""
        self.counted.append(event)
        before = due(self.state)
        assert due(CODEC.decode(msgspec.json.encode(self.state))) == before
        self.state = CODEC.decode(msgspec.json.encode(advance(self.state, event)))
        within_budget(self.state)

    def carry_out(self, command: Command) -> DeliberationEvent:
        """The effect of a command outside, and the event that confirms it."""
        match command:
            case "schedule":
                return machine.Scheduled()
            case "prepare":
                return machine.Prepared(
                    prompt_hash="hash",
                    protocol=self.state.protocol,
                    numbers=numbers_of(self.state.protocol),
                    chosen_because="",
                )
            case "announce":
                return machine.Announced()
            case "turn":
                return turn(self.state, self.prompt, self.results, self.now)
            case "submit":
                return self.submit(self.state)
            case "stop":
                return machine.Stopped()
            case "decide":
                self.outcomes.append(outcome(self.state, self.results))
                found = self.outcomes[-1]
                if isinstance(found, DeliberationCompleted):
                    return machine.OutcomePublished(found.decision_id, None)
                return machine.OutcomePublished("", found.reason)
            case "report":
                return machine.Reported()
            case "retire":
                return machine.Retired()

    def submit(self, state: Deliberation) -> DeliberationEvent:
        for request in requests(state, self.prompt, self.results):
            known = self.accepted.setdefault(request.job_id, request)
            assert known == request  # another content under a known id would be refused
        return machine.Submitted(state.phase)

    def submit_ahead(self) -> None:
        """Submits the first jobs while they are being saved, and crashes before they are."""
        prepared = advance(self.state, self.carry_out("prepare"))
        opened = advance(prepared, turn(prepared, self.prompt, self.results, self.now))
        if "submit" in due(opened):
            self.submit(opened)

    def answer(self, job_id: str) -> AgentResult:
        """What the executor answers for a job: always the same."""
        request = self.accepted[job_id]
        own = random.Random(f"{self.chance.random()}")
        if own.random() < 0.15:
            return result(request, error=ERROR, usage=Usage(prompt=5))
        if request.dry_run:
            return ran(request, *(test for test, _ in request.dry_run.tests if own.random() < 0.5))
        match request.phase:
            case "judge":
                return result(request, own.choice(VERDICTS))
            case "tests":
                return result(request, own.choice((TESTS, "no tests")))
            case _:
                return result(
                    request, own.choice(PROPOSALS), checks=checked(own.choice(("passed", "failed", "not_run")))
                )

    def deliver(self, job_id: str) -> None:
        """Saves the result first, as the collector does."""
        if job_id not in self.results:
            self.results[job_id] = self.answer(job_id)
        saved = self.results[job_id]
        self.fold(
            machine.JobEnded(
                job_id=job_id,
                error=saved.error,
                at=self.now,
                tokens=saved.usage.prompt + saved.usage.completion,
                calls=saved.calls,
            )
        )

    def step(self, what: str) -> None:
        self.now += dt.timedelta(seconds=self.chance.random())
        commands = due(self.state)
        match what:
            case "do" if commands:
                self.fold(self.carry_out(self.chance.choice(commands)))
            case "ahead" if "prepare" in commands:
                self.submit_ahead()
            case "crash" if commands:  # after the effect, before it is saved
                self.carry_out(self.chance.choice(commands))
            case "twice" if commands:
                command = self.chance.choice(commands)
                for event in [self.carry_out(command), self.carry_out(command)]:
                    self.fold(event)
            case "deliver" if waiting(self.state) and self.accepted:
                known = [job.job_id for job in waiting(self.state) if job.job_id in self.accepted]
                if known:
                    self.deliver(self.chance.choice(known))
            case "again" if self.results:
                self.deliver(self.chance.choice(sorted(self.results)))
            case "lost":
                self.fold(machine.SubmissionLost())
            case "stale" if self.counted:
                self.fold(self.chance.choice(self.counted))
            case "clock":
                self.fold(machine.DeadlinePassed(self.now))
            case "late":
                self.now = max(self.now, DEADLINE)
            case "cancel":
                self.fold(machine.Cancelled("not wanted", self.now))

    def finish(self) -> None:
        """The chaos is over: what is due is done, jobs answer or do not, and the deadline passes."""
        for _ in range(400):
            commands = due(self.state)
            if not commands and self.state.status in machine.ENDED:
                return
            for command in commands:
                self.fold(self.carry_out(command))
            for job in waiting(self.state):
                if job.job_id in self.accepted and self.chance.random() < 0.9:
                    self.deliver(job.job_id)
            if not commands:
                self.now = max(self.now + dt.timedelta(seconds=5), DEADLINE if self.chance.random() < 0.3 else START)
                self.fold(machine.DeadlinePassed(self.now))
        raise AssertionError(f"it does not end: {self.state}")


STEPS = (
    "do",
    "do",
    "do",
    "ahead",
    "crash",
    "twice",
    "deliver",
    "deliver",
    "deliver",
    "again",
    "lost",
    "stale",
    "clock",
)
RARE = (*STEPS, "late", "cancel")


@st.composite
def worlds(draw: st.DrawFn, protocol: str) -> World:
    state = fresh(
        seats=draw(st.integers(1, 4)),
        testers=draw(st.integers(0, 2)),
        task=draw(st.sampled_from((TASK, CODE_TASK))),
        budget=draw(
            st.sampled_from((Budget(), Budget(), Budget(calls=9), Budget(tokens=12_000), Budget(tokens=2_000)))
        ),
    )
    state = msgspec.structs.replace(state, protocol=protocol, quorum=machine.default_quorum(len(state.seats)))
    prompt = prompt_for(state, sandbox=draw(st.sampled_from(("", "", "", "none here"))))
    return World(state, prompt, random.Random(draw(st.integers(0, 2**32))))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=120)
@given(st.data())
def test_it_ends_once_whatever_happens(protocol: str, data: st.DataObject) -> None:
    world = data.draw(worlds(protocol))
    steps = STEPS if data.draw(st.booleans()) else RARE
    for what in data.draw(st.lists(st.sampled_from(steps), max_size=50)):
        world.step(what)
    world.finish()
    check_end(world)


def within_budget(state: Deliberation) -> None:
    used, limit = spent(state), state.budget
    assert not limit.tokens or used.tokens <= limit.tokens
    assert not limit.calls or used.calls <= limit.calls


def check_end(world: World) -> None:
    state, found = world.state, world.outcomes[-1]
    assert state.status == ("completed" if isinstance(found, DeliberationCompleted) else "failed")
    assert all(one == found for one in world.outcomes)
    assert state.stopped or state.closed_by != "cancelled" or (state.jobs and not waiting(state))
    assert len({job.job_id for job in state.jobs}) == len(state.jobs)
    assert len({(job.agent_id, job.phase, job.item) for job in state.jobs}) == len(state.jobs)
    encode(found)
    if isinstance(found, DeliberationCompleted):
        agents = [one.agent_id for one in found.ranking]
        assert len(agents) == len(set(agents)) >= machine.needed(state)
        scores = [one.score for one in found.ranking]
        assert scores == sorted(scores, reverse=True)
        assert found.margin >= 0
        assert found.winner == agents[0]
        told = {job.phase for job in state.jobs} | {one.phase for one in found.skipped}
        assert told == {phase for group in PROTOCOLS[state.protocol].phases for phase in group}
    else:
        assert all(isinstance(one, SeatReport) for one in found.agents)
    for event in world.counted:
        assert advance(state, event).status == state.status


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=50)
@given(st.data())
def test_the_same_accepted_results_decide_the_same_in_any_order(protocol: str, data: st.DataObject) -> None:
    """Its history is told again, with the results of each phase in another order, some of them twice, and late ones between."""
    world = data.draw(worlds(protocol))
    start = world.state
    world.finish()
    found = world.outcomes[-1]
    state = start
    phase: list[DeliberationEvent] = []
    late = machine.JobEnded(job_id="job-unknown", error=None, at=START)
    for event in [*world.counted, machine.Scheduled()]:
        if isinstance(event, machine.JobEnded):
            phase.append(event)
            continue
        for ended in [*data.draw(st.permutations(phase)), late, *phase[:1]]:
            state = advance(state, ended)
        phase = []
        if state.status == "deciding":
            shuffled = dict(data.draw(st.permutations(list(world.results.items()))))
            assert outcome(state, shuffled) == found
        state = advance(state, event)
    assert state == world.state
