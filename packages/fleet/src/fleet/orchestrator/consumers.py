"""NATS in: which durable consumer feeds which handler. This table is the map of what the orchestrator reacts to."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fleet.orchestrator.handlers import Handlers
from fleet_wire import topology
from fleet_wire.bus import Bus
from fleet_wire.consumer import DurableConsumer, Handler
from fleet_wire.errors import Invalid
from fleet_wire.events import AgentResult, ContextUpdated, DeadlineReached, Event, PlanApproved
from fleet_wire.rpc import Readiness

E = TypeVar("E", bound=Event)


def make_consumers(bus: Bus, handlers: Handlers, readiness: Readiness) -> dict[str, DurableConsumer]:
    """The service's consumers by the names of their durables."""
    table: dict[str, Handler] = {
        "orchestrator-plans": only(PlanApproved, handlers.on_plan_approved),
        "orchestrator-results": only(AgentResult, handlers.on_result),
        "orchestrator-updates": only(ContextUpdated, handlers.on_context_updated),
        "orchestrator-deadlines": only(DeadlineReached, handlers.on_deadline),
    }
    return {
        name: DurableConsumer(bus, topology.CONSUMERS[name], handler, readiness.reporter(name))
        for name, handler in table.items()
    }


def only(kind: type[E], handle: Callable[[E], Awaitable[None]]) -> Handler:
    """A handler that takes any event and refuses, as Invalid, what is not of its kind."""

    async def checked(event: Event) -> None:
        if not isinstance(event, kind):
            raise Invalid(f"expected {kind.TYPE}, got {event.TYPE}")
        await handle(event)

    return checked
