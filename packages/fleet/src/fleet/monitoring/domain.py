"""What the dashboard knows, as plain values: messages seen, lines of the event list, deliberations and their agents.

Times of events are the moments at which the NATS server stored them, one clock for all; times of the executor are its own.
"""

import dataclasses
import datetime as dt
from typing import Literal

from fleet.steps import StepName
from fleet_wire import events

TEXT_TAIL = 2000
"""Characters kept of what an agent wrote: the last ones."""
MAX_AGENTS = 32
"""Agents kept of one deliberation; a council has at most 15 seats."""
MAX_JOBS = 16
"""Results kept of one agent in one deliberation."""
MAX_STREAMS = 4
"""Jobs of one agent whose text is kept while it is written."""
MAX_PHASE_JOBS = 512
"""Jobs of one deliberation that are counted by phase."""
PHASES = ("propose", "tests", "dry_run", "critique", "revise", "rerun", "judge")
"""In the order in which a protocol goes through those that it has."""
NEVER = dt.datetime.min.replace(tzinfo=dt.timezone.utc)
GAP = " … "
"""Stands where streamed text was lost or came before the dashboard listened."""

State = Literal["unknown", "running", "completed", "failed"]
"""`unknown`: only its trace in the graph was seen so far. The others are what the events say."""
AgentState = Literal["waiting", "running", "completed", "failed", "missing"]
"""`missing`: the deliberation ended without an answer of this agent that was counted."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """One message of a stream: its event, or why it could not be read. `at` is when the server stored it, `now` is now."""

    stream: str
    sequence: int
    subject: str
    at: dt.datetime
    now: dt.datetime
    event: events.Event | None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Line:
    """One entry of the event list. `number` counts up as the dashboard saw them; `malformed` says what is wrong, if so."""

    number: int
    at: dt.datetime
    stream: str
    sequence: int
    subject: str
    type: str
    summary: str
    deliberation_id: str
    plan_id: str
    malformed: str


@dataclasses.dataclass(frozen=True)
class Result:
    """The first result of one job."""

    at: dt.datetime
    status: Literal["completed", "failed"]
    text: str
    error: str
    phase: str
    item: str


@dataclasses.dataclass
class Stream:
    """Text of the job that an agent is writing."""

    job_id: str
    attempt: int
    seq: int
    at: dt.datetime
    text: str


@dataclasses.dataclass(frozen=True)
class Checked:
    """What was checked of something, at its moment."""

    at: dt.datetime
    checks: tuple[events.Check, ...] = ()
    runs: tuple[events.TestRun, ...] = ()


@dataclasses.dataclass
class Agent:
    """One agent of a deliberation: a seat, or a tester. `ended_as`, `reason`, `revised` and `ended_checks` are what the
    deliberation's end says of it; `checked` are the checks of its proposal as it came, `ran` its proposal's tests."""

    agent_id: str
    results: dict[str, Result] = dataclasses.field(default_factory=dict)
    streams: dict[str, Stream] = dataclasses.field(default_factory=dict)
    accepted: bool = False
    ended_as: Literal["", "completed", "missing", "failed"] = ""
    reason: str = ""
    rank: int | None = None
    score: float | None = None
    revised: bool = False
    ended_checks: tuple[events.Check, ...] = ()
    checked: Checked | None = None
    ran: Checked | None = None

    @property
    def last(self) -> Result | None:
        """The result of its newest job."""
        return max(self.results.values(), key=lambda result: result.at, default=None)

    @property
    def stream(self) -> Stream | None:
        """What it wrote last, of the jobs that it may have at once."""
        return max(self.streams.values(), key=lambda stream: stream.at, default=None)

    @property
    def writing(self) -> bool:
        """Whether text came that belongs to a job without a result yet."""
        stream, last = self.stream, self.last
        return stream is not None and stream.job_id not in self.results and (last is None or stream.at >= last.at)

    @property
    def helped(self) -> bool:
        """Whether it answered without ever proposing, as a tester does: then no ranking need name it."""
        return bool(self.results) and all(result.phase != "propose" for result in self.results.values())

    @property
    def state(self) -> AgentState:
        if self.ended_as == "missing" and not self.reason and self.helped and self.last is not None:
            return self.last.status
        if self.ended_as and (self.last is None or self.last.status == "completed"):
            return self.ended_as
        if self.writing:
            return "running"
        if self.last is not None:
            return self.last.status
        return "running" if self.accepted else "waiting"

    @property
    def text(self) -> str:
        """The end of what it wrote: the result's content, else what was streamed."""
        last = self.last
        if last is not None and last.status == "completed" and not self.writing:
            return last.text
        return self.stream.text if self.stream else ""

    @property
    def error(self) -> str:
        return self.reason or (self.last.error if self.last and not self.writing else "")


@dataclasses.dataclass(frozen=True)
class End:
    """How a deliberation ended: by its completed or its failed event."""

    at: dt.datetime
    sequence: int
    state: Literal["completed", "failed"]
    decision_id: str = ""
    title: str = ""
    winner: str = ""
    score: float | None = None
    margin: float | None = None
    duration_seconds: float | None = None
    reason: str = ""
    flips: int = 0
    verdicts: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    calls: int | None = None
    tokens: int | None = None
    cached: int | None = None


@dataclasses.dataclass
class Deliberation:
    """One deliberation, as far as its events have been seen. `seats` are the agents that propose, `agents` all that were
    heard of, testers and judges included. `jobs` has phase and end of each job that has ended. Of its decision, `superseded` says
    whether another stands for it, `relies_on_superseded` which ones below it were superseded. `version` grows with every
    change of the board."""

    deliberation_id: str
    plan_id: str = ""
    story_id: str = ""
    task_id: str = ""
    role: str = ""
    protocol: str = ""
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)
    chosen_because: str = ""
    title: str = ""
    deadline: dt.datetime | None = None
    seats: tuple[str, ...] = ()
    active: bool = False
    end: End | None = None
    steps: dict[StepName, dt.datetime] = dataclasses.field(default_factory=dict)
    agents: dict[str, Agent] = dataclasses.field(default_factory=dict)
    jobs: dict[str, tuple[dt.datetime, str, Literal["completed", "failed"]]] = dataclasses.field(default_factory=dict)
    superseded: bool = False
    relies_on_superseded: tuple[str, ...] = ()
    touched: dt.datetime = NEVER
    version: int = 0

    @property
    def state(self) -> State:
        if self.end is not None:
            return self.end.state
        return "running" if self.active else "unknown"

    def reached(self, step: StepName, at: dt.datetime) -> None:
        """Notes the moment of a step; of several the earliest counts."""
        self.steps[step] = min(self.steps.get(step, at), at)

    def agent(self, agent_id: str) -> Agent | None:
        """The agent, new where it is not known; None beyond MAX_AGENTS."""
        if agent_id not in self.agents and len(self.agents) < MAX_AGENTS:
            self.agents[agent_id] = Agent(agent_id, ended_as="missing" if self.end else "")
        return self.agents.get(agent_id)


def tail(text: str) -> str:
    """The last TEXT_TAIL characters, marked where there was more."""
    return text if len(text) <= TEXT_TAIL else GAP.lstrip() + text[-TEXT_TAIL:]


def shorten(text: str, limit: int = 200) -> str:
    """The text on one line, at most `limit` characters."""
    line = " ".join(text[: limit * 4].split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
