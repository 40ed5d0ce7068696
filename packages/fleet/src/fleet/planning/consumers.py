"""What planning takes from NATS: the orchestrator's word that a plan is done."""

from collections.abc import Callable

import structlog

from fleet.planning import handlers
from fleet.planning.handlers import Ports
from fleet_wire import events, topology
from fleet_wire.bus import Bus
from fleet_wire.consumer import DurableConsumer
from fleet_wire.errors import Invalid

log = structlog.get_logger(__name__)

COMPLETIONS = topology.CONSUMERS["planning-completions"]


def completions(bus: Bus, ports: Ports, report: Callable[[str | None], None]) -> DurableConsumer:
    """Marks plans as completed on `orchestration.plan.completed`."""

    async def handle(event: events.Event) -> None:
        if not isinstance(event, events.PlanCompleted):
            raise Invalid(f"{COMPLETIONS.durable} cannot use a {event.TYPE}")
        await handlers.complete_plan(ports, event)
        log.info(
            "plan.completed",
            plan_id=event.plan_id,
            decided=len(event.decided),
            failed=len(event.failed),
            skipped=len(event.skipped),
        )

    return DurableConsumer(bus, COMPLETIONS, handle, report)
