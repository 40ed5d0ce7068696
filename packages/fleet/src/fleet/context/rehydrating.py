"""RehydrateSession: a role's pack built anew from the graph alone, the story's timeline, and what of it is new to the session."""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

from fleet.bolt import Graph
from fleet.context import domain, handlers, packing, reading
from fleet.context.blocks import told_in
from fleet.context.sessions import Seen, Sessions
from fleet.context.tokenizer import ESTIMATE, Tokenizer, estimate
from fleet_wire.errors import Unavailable

# What was written since the story was read stands in no pack of that version, and so not in its timeline.
_TIMELINE = """
MATCH (e:Event {story_id: $story_id}) WHERE e.version <= $version
RETURN e
ORDER BY e.at DESC, e.event_id SKIP $skip LIMIT $most"""
MOST_ENTRIES = 100
"""Of a timeline, the newest in scope; and as many are read at once."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What happened, of a summary or a milestone that somebody wrote all of its text. `version` is what it gave the story."""

    told: domain.Milestone
    text: str
    version: int


@dataclasses.dataclass(frozen=True)
class Rehydrated:
    """The pack, and of the timeline what is in scope and fits what the pack leaves of the budget: oldest first, the newest kept.
    `tokens` are of both. `since` is the role's last look in this session, None where nothing is known of one; `new` is what came
    after it, or was hidden by the scope of then, also what did not fit."""

    context: packing.Context
    timeline: tuple[Entry, ...]
    tokens: int
    since: Seen | None
    new: tuple[Entry, ...]


async def rehydrate(
    session_id: str,
    request: domain.ContextRequest,
    memory: Graph,
    reader: reading.Reader,
    tokenizer: Tokenizer,
    sessions: Sessions,
    now: dt.datetime,
) -> Rehydrated:
    """Raises as `Reader.facts` and `packing.packed` say. The cache of contexts is not asked; what the session has seen is all
    that Valkey is asked for, and without it nothing is known to be new."""
    facts = await reader.facts(request)
    context = await handlers.counted(request, facts, tokenizer)
    found = await timeline_of(memory, facts.head, request.scope)
    counts = await _counts([entry.text for entry in found], context.tokenizer, tokenizer)
    timeline, tokens = newest_within(found, counts, request.token_budget - context.tokens)
    since = await sessions.last(session_id, request.story_id, request.role)
    if since is not None and since.born != facts.head.born:
        since = None
    seen = Seen(facts.head.born, facts.head.version, request.scope, now)
    await sessions.saw(session_id, request.story_id, request.role, seen)
    new = tuple(entry for entry in reversed(found) if since is not None and _is_new(entry, since))
    return Rehydrated(context, timeline, context.tokens + tokens, since, new)


def _is_new(entry: Entry, since: Seen) -> bool:
    return entry.version > since.version or not told_in(since.scope, entry.told)


def newest_within(found: Iterable[Entry], counts: Iterable[int], room: int) -> tuple[tuple[Entry, ...], int]:
    """The entries, given newest first, that fit, without a gap between them: oldest first, with their tokens together."""
    kept: list[Entry] = []
    tokens = 0
    for entry, count in zip(found, counts, strict=True):
        if tokens + count > room:
            break
        kept.append(entry)
        tokens += count
    return tuple(reversed(kept)), tokens


async def timeline_of(memory: Graph, head: domain.StoryHead, scope: domain.Scope) -> list[Entry]:
    """The newest entries that the scope allows, newest first."""
    found: list[Entry] = []
    skip = 0
    while len(found) < MOST_ENTRIES:
        page = await memory.ask(_TIMELINE, story_id=head.story_id, version=head.version, skip=skip, most=MOST_ENTRIES)
        entries = [_entry(row["e"]) for row in page]
        found += [entry for entry in entries if told_in(scope, entry.told)]
        skip += len(page)
        if len(page) < MOST_ENTRIES:
            break
    return found[:MOST_ENTRIES]


def _entry(node: dict[str, Any]) -> Entry:
    told = reading.milestone_of(node)
    return Entry(told, told.text or told.summary, node["version"])


async def _counts(texts: Sequence[str], counted_by: str, tokenizer: Tokenizer) -> list[int]:
    """As the pack was counted, or estimated, which is more than they are."""
    if counted_by != ESTIMATE:
        try:
            return await tokenizer.count(texts)
        except Unavailable:
            pass
    return [estimate(text) for text in texts]
