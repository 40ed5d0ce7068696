"""Sees that every open job has an owner or an end: what an actor lost is handed on, what is late is ended, and what ended
without its publication is published."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from fleet_executor.ending import finish
from fleet_executor.jobs import ActorView, OpenJob, deadline_error, due, failed, handed_on
from fleet_executor.registry import Registry
from fleet_wire.bus import Bus
from fleet_wire.errors import Conflict, Unavailable

log = structlog.get_logger(__name__)


class Placement(Protocol):
    """Where jobs go."""

    def pick(self) -> str:
        """The actor that takes the next jobs; raises Unavailable while there is none."""

    async def accept(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        """Gives it the jobs; answers with why it does not take them, or with nothing. Raises Unavailable."""


async def reconcile(
    registry: Registry, bus: Bus, views: Mapping[str, ActorView], placement: Placement, now: dt.datetime
) -> None:
    """One round. Raises Unavailable while the registry is away; the next round begins anew."""
    entries = {entry.value.key: entry for entry in await registry.open_jobs()}
    todo = due([entry.value for entry in entries.values()], views, now)
    given: dict[str, list[OpenJob]] = {}
    for key in (*todo.expire, *todo.hand_on):
        job = entries[key].value
        ended = await registry.ended(key)
        if ended is None and key in todo.expire:
            ended = failed(job, deadline_error(job.deadline), now)
        if ended is not None:
            result = (await finish(registry, bus, ended)).result
            log.warning("job ended for its actor", job_id=result.job_id, status=result.status, actor=job.actor)
            continue
        try:
            actor = placement.pick()
            moved = handed_on(job, actor, now)
            await registry.hand_on(entries[key], moved)
        except Conflict:
            continue  # another executor was first, or the job has just ended
        except Unavailable as error:
            log.warning("job waits for an actor", job_id=job.spec.job_id, reason=str(error))
            continue
        given.setdefault(actor, []).append(moved)
        log.warning("job handed on", job_id=job.spec.job_id, attempt=moved.attempt, lost_by=job.actor, actor=actor)
    for actor, jobs in given.items():
        await give(placement, actor, jobs)


async def give(placement: Placement, actor: str, jobs: Sequence[OpenJob]) -> None:
    """Gives recorded jobs to an actor. Where that fails they stay open, and a later round hands them on."""
    try:
        refusal = await placement.accept(actor, jobs)
    except Unavailable as error:
        refusal = str(error)
    if refusal:
        log.warning("jobs wait for another actor", actor=actor, jobs=len(jobs), reason=refusal)
