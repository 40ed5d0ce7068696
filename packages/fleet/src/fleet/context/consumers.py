"""Events in. What cannot be read or is not expected here goes to DEAD_LETTERS, and the consumer goes on."""

from fleet.context import handlers, telling
from fleet.context.cache import ContextCache
from fleet_wire import events
from fleet_wire.consumer import Handler

EXPECTED: dict[str, tuple[type[handlers.Remembered], ...]] = {
    "context-planning": (events.StoryCreated, events.StoryTransitioned, events.PlanApproved),
    "context-decisions": (events.DeliberationCompleted,),
    "context-failures": (events.DeliberationFailed,),
    "context-completions": (events.PlanCompleted,),
}
"""By consumer, as named in `fleet_wire.topology.CONSUMERS`: the events it takes."""


def handler(durable: str, recorder: handlers.Recorder, cache: ContextCache, publish: telling.Publish) -> Handler:
    """What the consumer does with an event."""

    async def handle(event: events.Event) -> None:
        await handlers.remember(handlers.remembered(event, *EXPECTED[durable]), recorder, cache, publish)

    return handle
