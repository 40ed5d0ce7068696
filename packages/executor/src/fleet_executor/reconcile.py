"""Sees that every open job has an owner or an end: what an actor lost is handed on, what is late is ended, and what ended
without its publication is published."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Optional, Protocol

import structlog

from fleet_executor.ending import finish
from fleet_executor.jobs import ActorView, OpenJob, cancelled_error, deadline_error, due, failed, handed_on
from fleet_executor.registry import Registry
from fleet_wire import events
from fleet_wire.bus import Bus
from fleet_wire.errors import Conflict, Invalid, Unavailable
from fleet_wire.kv import Entry

log = structlog.get_logger(__name__)


class Placement(Protocol):
    """Where jobs go."""

    def pick(self, jobs: int) -> str:
        """The actor that takes the next so many jobs; raises Unavailable while there is none."""

    async def accept(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        """Gives it the jobs; answers with why it does not take them, or with nothing. Raises Unavailable."""


async def reconcile(
    registry: Registry, bus: Bus, views: Mapping[str, ActorView], placement: Placement, now: dt.datetime
) -> list[OpenJob]:
    """One round; `now` is a moment before the actors were asked. Answers with the jobs that were open when it began.

    Raises Unavailable while the registry or the bus is away, when what was handed on till then is given to its actors; the
    next round begins anew. A job whose record cannot be read is logged and left as it is.
    """
    entries = {entry.value.key: entry for entry in await registry.open_jobs()}
    todo = due([entry.value for entry in entries.values()], views, now)
    given: dict[str, list[OpenJob]] = {}
    away: Optional[Unavailable] = None
    errors = {key: deadline_error(entries[key].value.deadline) for key in todo.expire}
    errors.update((key, cancelled_error()) for key in todo.cancel)
    for key in (*errors, *todo.hand_on):
        try:
            moved = await _settle(registry, bus, entries[key], placement, now, errors.get(key))
        except Invalid as error:
            log.error("job left as it is", job=key, reason=str(error))
        except Unavailable as error:
            away = error
            break
        else:
            if moved is not None:
                given.setdefault(moved.actor, []).append(moved)
    for actor, jobs in given.items():
        await give(placement, actor, jobs)
    if away is not None:
        raise away
    return [entry.value for entry in entries.values()]


async def _settle(
    registry: Registry,
    bus: Bus,
    entry: Entry[OpenJob],
    placement: Placement,
    now: dt.datetime,
    reason: Optional[events.JobError],
) -> Optional[OpenJob]:
    """Ends one job with the reason, or hands it on where there is none; answers with it where an actor has to get it. Raises
    Unavailable and Invalid."""
    job = entry.value
    ended = await registry.ended(job.key)
    if ended is None and reason is not None:
        ended = failed(job, reason, now)
    if ended is not None:
        result = (await finish(registry, bus, ended)).result
        log.warning("job ended for its actor", job_id=result.job_id, status=result.status, actor=job.actor)
        return None
    try:
        actor = placement.pick(1)
    except Unavailable as error:
        log.warning("job waits for an actor", job_id=job.spec.job_id, reason=str(error))
        return None
    moved = handed_on(job, actor, now)
    try:
        await registry.hand_on(entry, moved)
    except Conflict:
        return None  # another executor was first, or the job has just ended
    log.warning("job handed on", job_id=job.spec.job_id, attempt=moved.attempt, lost_by=job.actor, actor=actor)
    return moved


async def give(placement: Placement, actor: str, jobs: Sequence[OpenJob]) -> None:
    """Gives recorded jobs to an actor. Where that fails they stay open, and a later round hands them on."""
    try:
        refusal = await placement.accept(actor, jobs)
    except Unavailable as error:
        refusal = str(error)
    if refusal:
        log.warning("jobs wait for another actor", actor=actor, jobs=len(jobs), reason=refusal)
