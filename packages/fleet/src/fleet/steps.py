"""The eight steps of the flow, by the name they have everywhere, and how each one is observed.

Five show themselves as events. `submitted` and `running` are what the executor answers of the deliberation's jobs: accepted,
and owned by a named actor. `shown` is observed by asking the dashboard for the deliberation.
"""

import dataclasses
import datetime as dt
from collections.abc import Collection, Iterable
from typing import Literal

from fleet_wire import events

StepName = Literal["approved", "started", "submitted", "running", "answered", "decided", "remembered", "shown"]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step; `service` is whose log tells of it."""

    number: int
    name: StepName
    service: str
    what: str


STEPS = (
    Step(1, "approved", "planning", "a person approves the plan; planning.plan.approved is published"),
    Step(2, "started", "orchestrator", "the orchestrator starts a deliberation with the role's council"),
    Step(3, "submitted", "orchestrator", "the executor accepts the jobs of the deliberation"),
    Step(4, "running", "ray-executor", "an actor VLLMAgentJob on Ray owns each job"),
    Step(5, "answered", "ray-executor", "an agent has answered; its worker publishes agent.results"),
    Step(6, "decided", "orchestrator", "the collector has the answers; deliberation.completed is published"),
    Step(7, "remembered", "context", "the decision is in the graph; context.updated is published"),
    Step(8, "shown", "monitoring", "the dashboard shows the deliberation"),
)

_STEP_OF_EVENT: dict[type[events.Event], StepName] = {
    events.PlanApproved: "approved",
    events.DeliberationStarted: "started",
    events.AgentResult: "answered",
    events.DeliberationCompleted: "decided",
    events.ContextUpdated: "remembered",
}


def step_of(event: events.Event) -> StepName | None:
    """The step that this event shows, if it shows one.

    `context.updated` shows `remembered` only for the deliberation it names; one without names a plan's arrival.
    """
    if isinstance(event, events.ContextUpdated) and not event.deliberation_id:
        return None
    if isinstance(event, events.AgentResult) and event.status == "failed":
        return None
    return _STEP_OF_EVENT.get(type(event))


def proposers(event: events.DeliberationStarted) -> tuple[str, ...]:
    """The seats of the council that propose, where the protocol's numbers ask fewer than all."""
    return tuple(event.agents[: int(event.numbers.get("agents", 0)) or None])


@dataclasses.dataclass(frozen=True)
class JobSeen:
    """What the executor says of one job: None and empty where it says nothing."""

    agent_id: str
    accepted_at: dt.datetime | None
    actor: str


def steps_of_jobs(jobs: Iterable[JobSeen], seats: Collection[str]) -> dict[StepName, dt.datetime]:
    """When `submitted` and `running` were reached, as far as the jobs of a deliberation with these proposers show it.

    `submitted` is when the last of the seats had its first job accepted. `running` is the same moment, once a named actor
    owns a job of each seat: the executor tells no moment of its own for the hand-over, which follows at once.
    """
    accepted: dict[str, dt.datetime] = {}
    owned: set[str] = set()
    for job in jobs:
        if job.accepted_at is None:
            continue
        accepted[job.agent_id] = min(job.accepted_at, accepted.get(job.agent_id, job.accepted_at))
        if job.actor:
            owned.add(job.agent_id)
    if not seats or not accepted.keys() >= set(seats):
        return {}
    at = max(accepted[seat] for seat in seats)
    return {"submitted": at, "running": at} if owned >= set(seats) else {"submitted": at}
