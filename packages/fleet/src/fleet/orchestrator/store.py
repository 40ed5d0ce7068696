"""The orchestrator's state: typed records in JetStream key-value buckets, all moved by compare-and-set."""

import dataclasses
import datetime as dt

from msgspec import Struct

from fleet.deliberation.plan import Plan
from fleet.deliberation.prompt import Prompt
from fleet.deliberation.state import Deliberation
from fleet.orchestrator.brieflykept import BrieflyKept
from fleet.orchestrator.councils import Council
from fleet_wire import topology
from fleet_wire.bus import Bus
from fleet_wire.events import AgentResult, DeliberationCompleted, DeliberationFailed, PlanTask
from fleet_wire.kv import Bucket, JetStreamBucket


class Outcome(Struct, frozen=True, kw_only=True):
    """The event a deliberation ended in: exactly one of the two. `task` is the one it had, with its texts: the record keeps
    them no longer, and a replay needs them."""

    completed: DeliberationCompleted | None = None
    failed: DeliberationFailed | None = None
    task: PlanTask | None = None

    @classmethod
    def of(cls, event: DeliberationCompleted | DeliberationFailed, task: PlanTask) -> "Outcome":
        """Wraps the event."""
        if isinstance(event, DeliberationCompleted):
            return cls(completed=event, task=task)
        return cls(failed=event, task=task)

    @property
    def event(self) -> DeliberationCompleted | DeliberationFailed:
        """The event; raises ValueError for a record without one."""
        found = self.completed or self.failed
        if found is None:
            raise ValueError("an outcome without an event")
        return found


BUCKETS = ("councils", "plans", "deliberations", "results")


class DefaultCouncils(Struct, frozen=True, kw_only=True):
    """Stands once the default councils have been made; what is deleted after that stays deleted."""

    made_at: dt.datetime


class Live(Struct, frozen=True, kw_only=True):
    """Marks a plan that runs, or a deliberation that no running plan names and that is not retired
    (`live.Markers`)."""

    created_at: dt.datetime


@dataclasses.dataclass(frozen=True)
class Store:
    """`deliberations`, `prompts`, `outcomes` and `live` share one bucket, under the keys state.{id}, prompt.{id}, outcome.{id},
    and live.{id} and liveplan.{id}; `councils` and `defaults` another, under council.{role} and `defaults`. `kept_councils` are
    the councils as the start of a deliberation reads them."""

    councils: Bucket[Council]
    kept_councils: BrieflyKept[Council]
    defaults: Bucket[DefaultCouncils]
    plans: Bucket[Plan]
    deliberations: Bucket[Deliberation]
    live: Bucket[Live]
    prompts: Bucket[Prompt]
    outcomes: Bucket[Outcome]
    results: Bucket[AgentResult]


def jetstream_store(bus: Bus) -> Store:
    """The real one."""
    councils = JetStreamBucket(bus, "councils", Council)
    return Store(
        councils=councils,
        kept_councils=BrieflyKept(councils),
        defaults=JetStreamBucket(bus, "councils", DefaultCouncils),
        plans=JetStreamBucket(bus, "plans", Plan),
        deliberations=JetStreamBucket(bus, "deliberations", Deliberation),
        live=JetStreamBucket(bus, "deliberations", Live),
        prompts=JetStreamBucket(bus, "deliberations", Prompt),
        outcomes=JetStreamBucket(bus, "deliberations", Outcome),
        results=JetStreamBucket(bus, "results", AgentResult),
    )


def council_key(role: str) -> str:
    return f"council.{role}"


def state_key(deliberation_id: str) -> str:
    return f"state.{deliberation_id}"


def prompt_key(deliberation_id: str) -> str:
    return f"prompt.{deliberation_id}"


def outcome_key(deliberation_id: str) -> str:
    return f"outcome.{deliberation_id}"


def deliberation_ttl(state: Deliberation) -> dt.timedelta | None:
    """What runs never expires; what has ended and is retired stays as a stub."""
    return topology.STUB_TTL if state.retired else None


def plan_ttl(plan: Plan) -> dt.timedelta | None:
    """What runs never expires; a completed plan stays as a stub."""
    return topology.STUB_TTL if plan.status == "completed" else None
