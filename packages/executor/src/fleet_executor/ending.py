"""How a job ends: once in the registry, and then on the bus. Done by the worker, and by the executor for one that is lost."""

from fleet_executor.jobs import EndedJob
from fleet_executor.registry import Registry
from fleet_wire.bus import Bus


async def finish(registry: Registry, bus: Bus, ended: EndedJob) -> EndedJob:
    """Records the end and publishes the one that stands. Safe to run again after any failure; raises Unavailable.

    Where another end stands and is published already, nothing is published: the server would not recognise a repetition
    after its two minutes. Its result is without secrets already, as that of every end.
    """
    standing = await registry.end(ended)
    if standing == ended or await registry.is_open(ended.key):
        await bus.publish(standing.result, redacted=True)
        await registry.close(ended.key)
    return standing
