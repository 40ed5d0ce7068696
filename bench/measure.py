"""The phases of a run: every subject takes its turn in every round, so that what else the machine does hits all alike."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

from bench import load, usage
from bench.budget import MANY, Budget

Say = Callable[[str], None]
AGENT_CALLS = 3


@dataclasses.dataclass
class Subject:
    """What is measured. `over` names the bare subject that it is compared with. `slow` subjects get counted loads, since
    nothing of theirs ends within a short timed one."""

    name: str
    title: str
    over: str
    run: Callable[[load.Load], Awaitable[load.Outcome]]
    processes: usage.Processes
    durable: str = ""
    slow: bool = False


@dataclasses.dataclass
class Figures:
    """What was found of one subject: seconds, calls a second, CPU milliseconds, MiB."""

    one: list[float] = dataclasses.field(default_factory=list)
    rates: list[float] = dataclasses.field(default_factory=list)
    many: list[float] = dataclasses.field(default_factory=list)
    cpu_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    done: int = 0
    idle_share: float = 0
    memory: dict[str, float] = dataclasses.field(default_factory=dict)
    peak_rss_mib: float = 0
    in_flight: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    kept: list[dict[str, float]] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    failed: int = 0


class Bench:
    """Runs the phases and gathers the figures."""

    def __init__(self, subjects: list[Subject], budget: Budget, say: Say) -> None:
        self.subjects = subjects
        self.budget = budget
        self.figures = {subject.name: Figures() for subject in subjects}
        self.skipped: list[str] = []
        self._say = say
        self._begun = time.monotonic()

    def left(self) -> float:
        """Seconds of the budget, which begins with the first phase."""
        return self.budget.total_seconds - (time.monotonic() - self._begun)

    async def idle(self) -> None:
        """What each spends while nothing is asked of it: it is there while the others are measured."""
        for subject in self.subjects:
            async with usage.measured(subject.processes) as spent:
                await asyncio.sleep(self.budget.idle_seconds / len(self.subjects))
            share = spent.cpu_seconds / (self.budget.idle_seconds / len(self.subjects))
            self.figures[subject.name].idle_share = share
        self._say("idle: " + ", ".join(f"{s.name} {self.figures[s.name].idle_share:.1%}" for s in self.subjects))

    async def warm_up(self) -> None:
        """So that nobody's first connections, imports and compiled queries are measured."""
        for subject in self.subjects:
            count = self.budget.warm_up if not subject.slow else 4
            await self._run(subject, load.Load(min(MANY, count), count))

    async def rounds(self) -> None:
        """One at a time, then many at a time, all subjects in turn."""
        for number in range(1, self.budget.rounds + 1):
            if self.left() < 20:
                self._skip(f"round {number} and later")
                return
            for subject in self.subjects:
                await self._one(subject)
            self._say_round(number, "one at a time, p50 ms", self._p50)
            for subject in self.subjects:
                await self._many(subject, number)
            self._say_round(number, f"{MANY} at a time, per second", lambda name: f"{self.figures[name].rates[-1]:.1f}")

    async def in_flight(self) -> None:
        """So many at once, each load as long as it takes for that many to end, and for a hundred at least."""
        for at_once in self.budget.in_flight:
            for subject in self.subjects:
                if subject.slow and at_once > MANY:
                    self._skip(f"{subject.name} with {at_once} in flight: it would take minutes")
                    continue
                expected = max(at_once, 100) / max([0.1, *self.figures[subject.name].rates[-1:]])
                if self.left() < expected + 10:
                    self._skip(f"{subject.name} with {at_once} in flight: no time left")
                    continue
                count = max(at_once, 100) if not subject.slow else at_once
                async with usage.measured(subject.processes) as spent:
                    outcome = await self._run(subject, load.Load(at_once, count))
                self.figures[subject.name].in_flight[at_once] = {
                    "rate": outcome.rate,
                    "p50": load.percentile(outcome.latencies, 0.5),
                    "p99": load.percentile(outcome.latencies, 0.99),
                    "cpu_ms_per_call": spent.cpu_seconds * 1000 / max(1, len(outcome.latencies) * AGENT_CALLS),
                    "peak_rss_mib": spent.peak_rss_mib,
                    "failed": len(outcome.failures),
                }
            names = [s.name for s in self.subjects if at_once in self.figures[s.name].in_flight]
            rates = (f"{name} {self.figures[name].in_flight[at_once]['rate']:.1f}" for name in names)
            self._say(f"{at_once} in flight, per second: {', '.join(rates)}")

    async def kept(self, subject: Subject, kept: Callable[[], int]) -> None:
        """Fills the subject's store by running deliberations at full speed, and looks at its figures on the way."""
        figures = self.figures[subject.name]
        goal = self.budget.kept
        until = time.monotonic() + min(self.budget.fill_seconds, self.left() - 15)
        await self._look(subject, kept())
        step = max(100, goal // 5)
        while kept() < goal and time.monotonic() < until:
            want = min(step - kept() % step, goal - kept())
            outcome = await self._run(subject, load.Load(MANY, want, max(1.0, until - time.monotonic())))
            figures.kept.append({"kept": kept(), "rate": len(outcome.latencies) / outcome.seconds})
            self._say(f"{kept()} kept: {figures.kept[-1]['rate']:.1f} a second")
            if len(outcome.failures) > want / 2:
                break
        if kept() < goal:
            self._skip(f"{goal} kept: {kept()} were reached in the time there is")
        await self._look(subject, kept())

    async def _look(self, subject: Subject, kept: int) -> None:
        """One at a time, and the memory, with so many kept."""
        async with usage.measured(subject.processes) as spent:
            outcome = await self._run(subject, load.Load(1, 0, min(3.0, self.budget.one_seconds)))
        figures = self.figures[subject.name]
        figures.kept.append({
            "kept": kept,
            "p50": load.percentile(outcome.latencies, 0.5),
            "p99": load.percentile(outcome.latencies, 0.99),
            "rss": spent.memory["rss"],
        })  # fmt: skip
        self._say(
            f"{kept} kept: one at a time p50 {figures.kept[-1]['p50'] * 1000:.1f} ms, {spent.memory['rss']:.0f} MiB"
        )

    async def _one(self, subject: Subject) -> None:
        outcome = await self._run(subject, load.Load(1, 0, self.budget.one_seconds))
        self.figures[subject.name].one += outcome.latencies

    async def _many(self, subject: Subject, number: int) -> None:
        figures = self.figures[subject.name]
        if subject.slow and number > 1:
            figures.rates.append(figures.rates[-1])
            return
        wanted = load.Load(MANY, MANY) if subject.slow else load.Load(MANY, 0, self.budget.many_seconds)
        async with usage.measured(subject.processes) as spent:
            outcome = await self._run(subject, wanted)
        figures.rates.append(outcome.rate)
        figures.many += outcome.latencies
        figures.done += len(outcome.latencies)
        for part, seconds in spent.cpu.items():
            figures.cpu_seconds[part] = figures.cpu_seconds.get(part, 0.0) + seconds
        figures.memory = spent.memory
        figures.peak_rss_mib = max(figures.peak_rss_mib, spent.peak_rss_mib)

    async def _run(self, subject: Subject, wanted: load.Load) -> load.Outcome:
        outcome = await subject.run(wanted)
        figures = self.figures[subject.name]
        figures.failed += len(outcome.failures)
        if outcome.failures and len(figures.failures) < 5:
            figures.failures += outcome.failures[:2]
            self._say(f"{subject.name}: {len(outcome.failures)} failed: {outcome.failures[0]}")
        return outcome

    def _p50(self, name: str) -> str:
        return f"{load.percentile(self.figures[name].one, 0.5) * 1000:.1f}"

    def _say_round(self, number: int, what: str, figure: Callable[[str], str]) -> None:
        each = ", ".join(f"{subject.name} {figure(subject.name)}" for subject in self.subjects)
        self._say(f"round {number} of {self.budget.rounds}, {what}: {each}")

    def _skip(self, what: str) -> None:
        self.skipped.append(what)
        self._say(f"SKIPPED {what}")
