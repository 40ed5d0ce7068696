"""The events, typed once. A body is JSON; `decode` validates it, and `TYPES` is the table of all of them.

Numbers carry their unit in the name; times are RFC 3339 in UTC. One proposal's text takes at most MAX_CONTENT_BYTES of
JSON: `cut` shortens a longer one, and whoever cuts says so in `content_cut`.
"""

import datetime as dt
from typing import Annotated, Any, ClassVar, Literal, Optional

import msgspec
from msgspec import Meta, Struct

from fleet_wire.errors import Invalid
from fleet_wire.ids import ID_PATTERN
from fleet_wire.redaction import redact_struct

MAX_MESSAGE_BYTES = 512 * 1024
MAX_CONTENT_BYTES = 64 * 1024

Id = Annotated[str, Meta(pattern=ID_PATTERN)]
OptionalId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,64}$(?!\n)")]
Role = Literal["DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"]
StoryPhase = Literal["design", "build", "test", "operate"]
CheckStatus = Literal["passed", "failed", "not_run"]
FailureReason = Literal["quorum_missed", "deadline", "cancelled", "no_council", "budget", "error"]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]
Time = Annotated[dt.datetime, Meta(tz=True)]


class Part(Struct, frozen=True, kw_only=True):
    """A value inside an event."""


class Event(Struct, frozen=True, kw_only=True):
    """Base of all events. `TYPE` is the CloudEvents type and, where `subject` adds nothing, the NATS subject."""

    TYPE: ClassVar[str]
    schema_version: Literal[1] = 1

    def subject(self) -> str:
        """The NATS subject this event is published on."""
        return self.TYPE

    def key(self) -> str:
        """What makes this event the same as a repeated one: with the type it is the message id."""
        raise AttributeError(f"{type(self).__name__} has no key")

    def message_id(self) -> str:
        """`Nats-Msg-Id`: derived, so that a repeated publish is recognised."""
        return f"{self.TYPE}:{self.key()}"


class StoryCreated(Event, frozen=True, kw_only=True):
    TYPE: ClassVar[str] = "planning.story.created"
    story_id: Id
    title: str
    brief: str

    def key(self) -> str:
        return self.story_id


class StoryTransitioned(Event, frozen=True, kw_only=True):
    """`version` counts the story's transitions from 1; `event` is the name under which this one was asked for."""

    TYPE: ClassVar[str] = "planning.story.transitioned"
    story_id: Id
    from_state: str = msgspec.field(name="from")
    to_state: str = msgspec.field(name="to")
    actor: str
    version: int
    event: str = ""
    reason: str = ""
    transitioned_at: Optional[Time] = None

    def key(self) -> str:
        return f"{self.story_id}:{self.version}"


class StoryText(Part, frozen=True, kw_only=True):
    title: str
    brief: str
    acceptance: list[str] = []
    phase: StoryPhase = "build"


class Budget(Part, frozen=True, kw_only=True):
    """What may be spent at most: tokens (prompt and completion), calls to the model, seconds. 0 sets no limit."""

    tokens: Annotated[int, Meta(ge=0)] = 0
    calls: Annotated[int, Meta(ge=0)] = 0
    seconds: Seconds = 0


class PlanTask(Part, frozen=True, kw_only=True):
    """`numbers` are the protocol's (`testers`, `finalists`, …), by name; `entry_point` names the function that a code task
    asks for."""

    task_id: Id
    title: str
    description: str
    role: Role
    requirements: list[str] = []
    acceptance: list[str] = []
    depends_on: list[Id] = []
    protocol: Optional[str] = None
    numbers: dict[str, float] = {}
    budget: Budget = Budget()
    entry_point: str = ""


class PlanApproved(Event, frozen=True, kw_only=True):
    """With `roles` and no tasks, each role gets one task on the story itself. `supersedes` names the plans that were approved
    before and are to go on no longer."""

    TYPE: ClassVar[str] = "planning.plan.approved"
    story_id: Id
    story: StoryText
    plan_id: Id
    plan_version: Annotated[int, Meta(ge=1)]
    approved_by: str
    approved_at: Time
    roles: list[Role] = []
    tasks: list[PlanTask] = []
    budget: Budget = Budget()
    supersedes: list[Id] = []

    def key(self) -> str:
        return self.plan_id


class DeliberationStarted(Event, frozen=True, kw_only=True):
    """Published once the protocol is chosen; `chosen_because` says why, where `auto` was asked for."""

    TYPE: ClassVar[str] = "orchestration.deliberation.started"
    deliberation_id: Id
    task_id: Id
    plan_id: OptionalId
    story_id: OptionalId
    role: Role
    protocol: str
    numbers: dict[str, float] = {}
    chosen_because: str = ""
    agents: list[Id]
    deadline: Time

    def key(self) -> str:
        return self.deliberation_id


class Usage(Part, frozen=True, kw_only=True):
    """Tokens, as the model server counted them; `cached` is the part of the prompt that its prefix cache served."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt=self.prompt + other.prompt,
            completion=self.completion + other.completion,
            cached=self.cached + other.cached,
        )


class Timing(Part, frozen=True, kw_only=True):
    """Seconds: from acceptance to the call, from the call to its first token, and from acceptance to the end."""

    queued_seconds: Seconds = 0
    first_token_seconds: Optional[Seconds] = None
    total_seconds: Seconds = 0


class JobError(Part, frozen=True, kw_only=True):
    """`kind`: unreachable, timeout, http, empty, malformed, schema, sandbox, deadline, cancelled or internal."""

    kind: str
    message: str
    retryable: bool


class Check(Part, frozen=True, kw_only=True):
    """`score` is set where the check ran; `not_run` is never counted as passed."""

    name: str
    status: CheckStatus
    score: Optional[Share] = None
    detail: str = ""


class TestRun(Part, frozen=True, kw_only=True):
    """One program run against one test in the sandbox."""

    test_id: str
    status: CheckStatus
    detail: str = ""


class AgentResult(Event, frozen=True, kw_only=True):
    """How one job ended. `checks` are what the worker checked of the answer, `runs` what a `dry_run` job found (it has no
    content of its own), `calls` how often the model answered."""

    TYPE: ClassVar[str] = "agent.results"
    job_id: Id
    deliberation_id: Id
    task_id: Id
    agent_id: Id
    role: Role
    phase: str
    item: str = ""
    attempt: Annotated[int, Meta(ge=1)]
    status: Literal["completed", "failed"]
    content: str = ""
    content_cut: bool = False
    model: str = ""
    checks: list[Check] = []
    runs: list[TestRun] = []
    calls: Annotated[int, Meta(ge=0)] = 0
    usage: Usage = Usage()
    timing: Timing = Timing()
    error: Optional[JobError] = None

    def subject(self) -> str:
        return f"{self.TYPE}.{self.task_id}"

    def key(self) -> str:
        return self.job_id


class TokenChunk(Event, frozen=True, kw_only=True):
    """Text as the model writes it. Published without acknowledgement: a lost one costs a flicker, not a decision."""

    TYPE: ClassVar[str] = "vllm.streaming"
    deliberation_id: Id
    agent_id: Id
    job_id: Id
    attempt: int
    seq: int
    text: str
    done: bool = False

    def subject(self) -> str:
        return f"{self.TYPE}.{self.deliberation_id}.{self.agent_id}"

    def key(self) -> str:
        return f"{self.job_id}:{self.attempt}:{self.seq}"


class DecisionText(Part, frozen=True, kw_only=True):
    title: str
    content: str
    rationale: str


class Ranked(Part, frozen=True, kw_only=True):
    """One proposal in its place. `score` is what the protocol ranks by; `revised` says that the revision is what counts."""

    agent_id: Id
    rank: Annotated[int, Meta(ge=1)]
    score: float
    checks: list[Check]
    content: str
    content_cut: bool = False
    revised: bool = False


class Dissent(Part, frozen=True, kw_only=True):
    """The best losing proposal, and the best that a judge said for it, where one did."""

    agent_id: Id
    content: str
    argument: str = ""


class SkippedPhase(Part, frozen=True, kw_only=True):
    """A phase of the protocol that was not run, and why."""

    phase: str
    reason: str


class MissingAgent(Part, frozen=True, kw_only=True):
    """A seat whose answer was not counted, and why."""

    agent_id: Id
    reason: str


class DeliberationCompleted(Event, frozen=True, kw_only=True):
    """`protocol` with its `numbers` is what decided; `chosen_because` says why, where it was `auto`. `flips` counts pairs that
    were judged differently in the two orders, of `verdicts` judgements. `supersedes` names what earlier tries of the task may
    have decided: a try that failed decided nothing."""

    TYPE: ClassVar[str] = "orchestration.deliberation.completed"
    deliberation_id: Id
    task_id: Id
    plan_id: OptionalId
    story_id: OptionalId
    decision_id: Id
    role: Role
    protocol: str
    winner: Id
    decision: DecisionText
    ranking: list[Ranked]
    margin: float
    numbers: dict[str, float] = {}
    chosen_because: str = ""
    flips: Annotated[int, Meta(ge=0)] = 0
    verdicts: Annotated[int, Meta(ge=0)] = 0
    dissent: list[Dissent] = []
    missing: list[MissingAgent] = []
    skipped: list[SkippedPhase] = []
    based_on: list[Id] = []
    supersedes: list[Id] = []
    calls: Annotated[int, Meta(ge=0)] = 0
    usage: Usage = Usage()
    duration_seconds: Seconds
    decided_at: Time

    def key(self) -> str:
        return self.deliberation_id

    def message_id(self) -> str:
        return f"orchestration.deliberation.ended:{self.deliberation_id}"


class SeatReport(Part, frozen=True, kw_only=True):
    """What one job of a failed deliberation did: waiting, running, completed or failed, with its error."""

    agent_id: Id
    phase: str = "propose"
    item: str = ""
    state: str
    error: Optional[JobError] = None


class DeliberationFailed(Event, frozen=True, kw_only=True):
    TYPE: ClassVar[str] = "orchestration.deliberation.failed"
    deliberation_id: Id
    task_id: Id
    plan_id: OptionalId
    story_id: OptionalId
    role: Role
    reason: FailureReason
    detail: str = ""
    agents: list[SeatReport] = []
    protocol: str = ""
    calls: Annotated[int, Meta(ge=0)] = 0
    usage: Usage = Usage()
    duration_seconds: Seconds
    failed_at: Time

    def key(self) -> str:
        return self.deliberation_id

    def message_id(self) -> str:
        return f"orchestration.deliberation.ended:{self.deliberation_id}"


class ResultLate(Event, frozen=True, kw_only=True):
    TYPE: ClassVar[str] = "orchestration.result.late"
    deliberation_id: Id
    task_id: Id
    job_id: Id
    agent_id: Id
    late_seconds: Seconds

    def key(self) -> str:
        return self.job_id


class FailedTask(Part, frozen=True, kw_only=True):
    """A task without a decision, and why."""

    task_id: Id
    reason: str


class PlanCompleted(Event, frozen=True, kw_only=True):
    """`round` counts how often the plan was closed, from 1: a retry of a task opens it again."""

    TYPE: ClassVar[str] = "orchestration.plan.completed"
    plan_id: Id
    story_id: Id
    decided: list[Id]
    failed: list[FailedTask] = []
    skipped: list[FailedTask] = []
    round: Annotated[int, Meta(ge=1)] = 1

    def key(self) -> str:
        return f"{self.plan_id}:{self.round}"


class ContextUpdated(Event, frozen=True, kw_only=True):
    """`version` is the story's in the graph, `hash` is over the changed ids and the version. `superseded` are decisions that
    another now stands for, `flagged` those that rely on one of these, by way of others too."""

    TYPE: ClassVar[str] = "context.updated"
    story_id: OptionalId
    plan_id: OptionalId
    deliberation_id: OptionalId
    changed: list[str]
    version: Annotated[int, Meta(ge=0)]
    hash: str
    superseded: list[Id] = []
    flagged: list[Id] = []

    def key(self) -> str:
        return self.hash


class DeadlineReached(Event, frozen=True, kw_only=True):
    """A scheduled message: the server delivers it at the deliberation's deadline."""

    TYPE: ClassVar[str] = "timers.deadline"
    deliberation_id: Id

    def subject(self) -> str:
        return f"{self.TYPE}.{self.deliberation_id}"

    def key(self) -> str:
        return self.deliberation_id


TYPES: tuple[type[Event], ...] = (
    StoryCreated,
    StoryTransitioned,
    PlanApproved,
    DeliberationStarted,
    AgentResult,
    TokenChunk,
    DeliberationCompleted,
    DeliberationFailed,
    ResultLate,
    PlanCompleted,
    ContextUpdated,
    DeadlineReached,
)

_BY_TYPE = {event.TYPE: event for event in TYPES}
_DECODERS: dict[type[Event], "msgspec.json.Decoder[Any]"] = {event: msgspec.json.Decoder(event) for event in TYPES}
_ENCODER = msgspec.json.Encoder()


def type_of_subject(subject: str) -> type[Event]:
    """The event type that belongs on a subject; raises Invalid where none does."""
    parts = subject.split(".")
    for length in range(len(parts), 0, -1):
        found = _BY_TYPE.get(".".join(parts[:length]))
        if found is not None:
            return found
    raise Invalid(f"no event type belongs on subject {subject[:200]!r}")


def encode(event: Event, *, redacted: bool = False) -> bytes:
    """The event as it leaves: JSON, without the secrets in its texts. The same event gives the same bytes. With `redacted` its
    texts are those that redaction left, and are not searched once more. Raises Invalid above MAX_MESSAGE_BYTES, and for text
    that JSON cannot carry."""
    try:
        body = _ENCODER.encode(event if redacted else redact_struct(event))
    except UnicodeEncodeError as error:
        raise Invalid(f"{event.message_id()} holds an unpaired surrogate: {error}") from error
    if len(body) > MAX_MESSAGE_BYTES:
        raise Invalid(f"{event.message_id()} has {len(body)} bytes, above the limit of {MAX_MESSAGE_BYTES}")
    return body


def decode(subject: str, body: bytes) -> Event:
    """The event on a subject; raises Invalid with the place of the first thing that is wrong."""
    kind = type_of_subject(subject)
    try:
        event: Event = _DECODERS[kind].decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"not a valid {kind.TYPE}: {error}") from error
    if event.subject() != subject:
        raise Invalid(f"the body of subject {subject!r} belongs on {event.subject()!r}")
    return event


def cut(text: str, max_bytes: int = MAX_CONTENT_BYTES) -> tuple[str, bool]:
    """The text, shortened to at most `max_bytes` as a JSON string where it is longer, and whether it was.

    Unpaired surrogates, which JSON cannot carry, become U+FFFD.
    """
    # Nearly all texts are so short that none need be encoded to see it: an escape takes 6 bytes, that of a sign 2.
    if text.isascii() and len(text) * (2 if text.isprintable() else 6) + 2 <= max_bytes:
        return text, False
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if len(_ENCODER.encode(text)) <= max_bytes:
        return text, False
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if len(_ENCODER.encode(text[:middle])) <= max_bytes:
            low = middle
        else:
            high = middle - 1
    return text[:low], True
