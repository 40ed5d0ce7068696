"""What tells the rest of the system that the memory changed."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

from fleet.context import domain
from fleet.context.cache import ContextCache
from fleet_wire import events

Publish = Callable[[events.Event], Awaitable[object]]

MOST_FLAGGED = 1000
"""Decisions in one event: each stands in it twice, with an id of 64 characters at most, and an event has 512 KiB."""


async def tell(
    versions: Mapping[str, int],
    changed: Iterable[str],
    cache: ContextCache,
    publish: Publish,
    plan_id: str = "",
    deliberation_id: str = "",
    superseded: Iterable[str] = (),
    flagged: Iterable[str] = (),
    flagged_in: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Makes what the cache held of the stories stale, and publishes `context.updated` for each with its version, the one that it
    happened in first: the plan and the deliberation are of that one. Its id is empty for what belongs to no story. Each is told
    of the flagged decisions that affect it, by `flagged_in`, and the first one of those that affect none; all are told of all
    where that is not known. Those that are too many for one event are told of in several."""
    changed, superseded, flagged = list(changed), list(superseded), list(flagged)
    elsewhere = {id for ids in (flagged_in or {}).values() for id in ids}
    for number, (story, version) in enumerate(versions.items()):
        if story:
            await cache.forget(story)
        mine = flagged
        if flagged_in is not None:
            here = set(flagged_in.get(story, ()))
            mine = [id for id in flagged if id in here or (not number and id not in elsewhere)]
        for part in _parts(mine):
            await publish(
                domain.update_of(
                    {story, *changed, *part} - {""},
                    version,
                    story,
                    plan_id="" if number else plan_id,
                    deliberation_id="" if number else deliberation_id,
                    superseded=superseded,
                    flagged=part,
                )
            )


def _parts(flagged: Sequence[str]) -> list[Sequence[str]]:
    return [flagged[at : at + MOST_FLAGGED] for at in range(0, len(flagged), MOST_FLAGGED)] or [()]
