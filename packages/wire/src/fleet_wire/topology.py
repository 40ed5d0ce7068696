"""Streams, key-value buckets and consumers as data. `fleet_wire.apply` creates them; docs and tests read them here.

What stands here is the minimum: an operator may raise replicas, ages or sizes, and nothing here lowers them again.
"""

import dataclasses
import datetime as dt
from typing import Literal, Optional

DAY = dt.timedelta(days=1)
STUB_TTL = 45 * DAY
"""How long the record of something ended is kept: longer than any event that could start it again."""
RESULT_TTL = DAY
"""How long jobs and results are kept after the end."""
NEEDED_SERVER = (2, 12)
"""The first nats-server with message schedules."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """A JetStream stream. `max_age` None keeps without limit of time; `max_bytes` None without limit of size."""

    name: str
    subjects: tuple[str, ...]
    max_age: Optional[dt.timedelta]
    storage: Literal["file", "memory"] = "file"
    max_bytes: Optional[int] = None
    schedules: bool = False


EVENT_STREAMS = (
    Stream("PLANNING_EVENTS", ("planning.>",), 30 * DAY),
    Stream("ORCHESTRATOR_EVENTS", ("orchestration.>",), 7 * DAY),
    Stream("CONTEXT_EVENTS", ("context.>",), 7 * DAY),
    Stream("AGENT_RESULTS", ("agent.results.>",), dt.timedelta(hours=1)),
    Stream("VLLM_STREAMING", ("vllm.streaming.>",), dt.timedelta(minutes=10), "memory", 64 * 1024 * 1024),
)

STREAMS = (
    *EVENT_STREAMS,
    Stream("FLEET_TIMERS", ("timers.>",), None, schedules=True),
    Stream(
        "DEAD_LETTERS",
        (
            "dead.>",
            *(
                f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.{stream.name}.>"
                for stream in EVENT_STREAMS
                for kind in ("MAX_DELIVERIES", "MSG_TERMINATED")
            ),
        ),
        30 * DAY,
    ),
)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A JetStream key-value bucket, history 1; its entries may carry a time to live of their own."""

    name: str
    holds: str


BUCKETS = (
    Bucket("councils", "one record a role"),
    Bucket("plans", "progress of each approved plan"),
    Bucket(
        "deliberations",
        "state.{id}, its frozen prompt.{id} and outcome.{id}; live.{id} and liveplan.{id} mark what runs",
    ),
    Bucket("results", "one create-only key a job"),
    Bucket("jobs", "the executor's registry, one record a job"),
)


@dataclasses.dataclass(frozen=True)
class Consumer:
    """A durable pull consumer, shared by all replicas of its service.

    `concurrency` is how many messages one replica works on at once; it fetches no more than it has room for.
    """

    durable: str
    stream: str
    filter: str
    ack_wait: dt.timedelta
    concurrency: int
    deliver: Literal["all", "new"] = "all"

    @property
    def service(self) -> str:
        """The service that runs it: the part of the name before the dash."""
        return self.durable.split("-")[0]


HALF_MINUTE = dt.timedelta(seconds=30)

CONSUMERS = {
    consumer.durable: consumer
    for consumer in (
        Consumer("planning-completions", "ORCHESTRATOR_EVENTS", "orchestration.plan.completed", HALF_MINUTE, 8),
        Consumer("orchestrator-plans", "PLANNING_EVENTS", "planning.plan.approved", HALF_MINUTE, 16),
        Consumer("orchestrator-results", "AGENT_RESULTS", "agent.results.>", HALF_MINUTE, 64),
        Consumer("orchestrator-updates", "CONTEXT_EVENTS", "context.updated", HALF_MINUTE, 16),
        Consumer("orchestrator-deadlines", "FLEET_TIMERS", "timers.deadline.>", HALF_MINUTE, 16),
        Consumer("context-planning", "PLANNING_EVENTS", "planning.>", HALF_MINUTE, 32),
        Consumer("context-decisions", "ORCHESTRATOR_EVENTS", "orchestration.deliberation.completed", HALF_MINUTE, 32),
        Consumer("context-failures", "ORCHESTRATOR_EVENTS", "orchestration.deliberation.failed", HALF_MINUTE, 8),
        Consumer("context-completions", "ORCHESTRATOR_EVENTS", "orchestration.plan.completed", HALF_MINUTE, 32),
    )
}
