"""The eight steps of the flow, by the name they have everywhere, and how each one is observed.

Six show themselves as events. `submitted` and `running` are what the executor answers of the deliberation's jobs: accepted,
and owned by a named actor. `shown` is observed by asking the dashboard for the deliberation.
"""

import dataclasses
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
    Step(5, "answered", "ray-executor", "the worker streams tokens and publishes agent.results"),
    Step(6, "decided", "orchestrator", "the collector has the answers; deliberation.completed is published"),
    Step(7, "remembered", "context", "the decision is in the graph; context.updated is published"),
    Step(8, "shown", "monitoring", "the dashboard shows the deliberation"),
)

_STEP_OF_EVENT: dict[type[events.Event], StepName] = {
    events.PlanApproved: "approved",
    events.DeliberationStarted: "started",
    events.TokenChunk: "answered",
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
