"""UpdateContext: each change of a request by itself, whole or not at all, and each request answered once."""

import dataclasses
import datetime as dt
import functools
from collections.abc import Sequence

import structlog

from fleet.bolt import Graph
from fleet.context import changes, requests
from fleet.context.cache import ContextCache
from fleet.context.changes import Affects, Change, Constraint, Milestone, Nothing, Override, Result, Summary, Version
from fleet.context.notes import Note, note
from fleet.context.rulings import Ruling, rule
from fleet.context.telling import Publish, tell
from fleet_wire import ids
from fleet_wire.errors import FleetError, Invalid
from fleet_wire.redaction import redact

log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Asking:
    """Who asks, when, and under which id: derived from the request's and the change's place in it."""

    change_id: str
    actor: str
    at: dt.datetime


async def update(
    request_id: str,
    actor: str,
    asked: Sequence[Change],
    memory: Graph,
    cache: ContextCache,
    publish: Publish,
    now: dt.datetime,
) -> requests.Answer:
    """Applies the changes of a request that `changes.check_request` lets through in their order, makes what the cache held of
    their stories stale, and publishes `context.updated` for each.

    A request that was answered is answered the same, writes nothing and publishes the same, so that what a crash between a write
    and its publication left out is made good. Raises AlreadyExists for another content under its id, and Unavailable while the
    graph or NATS is away: what is applied stays, and the same request goes on from there.
    """
    found = await requests.begin(memory, request_id, changes.fingerprint(actor, asked))
    if found is not None:
        for result in found:
            await _tell(result, cache, publish)
        return found
    results: list[Result] = []
    for place, change in enumerate(asked):
        asking = Asking(ids.derived("change", request_id, place), redact(actor.strip()), now)
        results.append(await _one(change, asking, memory))
        await _tell(results[-1], cache, publish)
    log.info("context changed", request_id=request_id, results=[one.code or "applied" for one in results])
    return await requests.finish(memory, request_id, results)


async def _one(change: Change, asking: Asking, memory: Graph) -> Result:
    try:
        return await _applied(changes.checked(change, asking.actor), asking, memory)
    except FleetError as error:
        return changes.refused(error)


async def _applied(change: Change, asking: Asking, memory: Graph) -> Result:
    match change:
        case Override() | Constraint() | Affects():
            ruled = await rule(memory, _ruling(change, asking))
            return Result(
                id=ruled.decision_id,
                plan_id=ruled.plan_id,
                superseded=ruled.superseded,
                flagged=ruled.flagged,
                flagged_in=ruled.flagged_in,
                stories=tuple(Version(story, version) for story, version in ruled.versions.items()),
            )
        case Summary() | Milestone():
            said = Note(
                note_id=asking.change_id,
                kind="summary" if isinstance(change, Summary) else "milestone",
                story_id=change.story_id,
                text=change.text,
                by=asking.actor,
                at=asking.at,
            )
            return Result(id=said.note_id, stories=(Version(said.story_id, await note(memory, said)),))
        case Nothing():
            raise Invalid("change must be an override, a constraint, affects, a summary or a milestone")


def _ruling(change: Override | Constraint | Affects, asking: Asking) -> Ruling:
    ruling = functools.partial(Ruling, ruling_id=asking.change_id, by=asking.actor, at=asking.at, reason=change.reason)
    match change:
        case Override():
            return ruling(kind="override", decision_id=change.decision_id, title=change.title, content=change.content)
        case Constraint():
            return ruling(
                kind="constraint",
                story_id=change.story_id,
                plan_id=change.plan_id,
                task_id=change.task_id,
                title=change.title,
                content=change.text,
            )
        case Affects():
            return ruling(kind="affects", decision_id=change.decision_id, story_id=change.story_id)


async def _tell(result: Result, cache: ContextCache, publish: Publish) -> None:
    """Forgets what is held of the stories, and tells of the change in each of them: also of one that no story is affected by."""
    if not result.applied:
        return
    await tell(
        {one.story_id: one.version for one in result.stories} or {"": 0},
        [result.id, *result.superseded],
        cache,
        publish,
        plan_id=result.plan_id,
        superseded=result.superseded,
        flagged=result.flagged,
        flagged_in=result.flagged_in,
    )
