"""What is said of a story beside its decisions: summaries of where it stands, and milestones that it has reached. Each is an
(Event) of the story's timeline with its `text`, written in one transaction, once."""

import dataclasses
import datetime as dt
from typing import Literal

import neo4j

from fleet.bolt import Graph, rows
from fleet.context import reliance
from fleet.context.projection import line, stamp
from fleet.context.rulings import check_story
from fleet_wire.errors import AlreadyExists
from fleet_wire.fingerprint import whole

# The write comes before anything is looked at: it makes others who say the same wait for, or fail after, this one.
_OPEN = """
MERGE (e:Event {event_id: $event_id}) SET e.lock = true
RETURN e.fingerprint AS fingerprint, e.version AS version"""
_CLOSE = "MERGE (e:Event {event_id: $event_id}) SET e += $values"


@dataclasses.dataclass(frozen=True)
class Note:
    """Its text is without secrets. `note_id` is of the request: the same again changes nothing, and `at` is then the first's."""

    note_id: str
    kind: Literal["summary", "milestone"]
    story_id: str
    text: str
    by: str
    at: dt.datetime

    @property
    def event_id(self) -> str:
        """What its event is known by."""
        return f"context.{self.kind}:{self.note_id}"


async def note(graph: Graph, said: Note) -> int:
    """Writes a note; the version that it gave its story. Raises NotFound for a story that the graph does not have,
    AlreadyExists for another note under the same id, Unavailable while the database is away."""
    fields = [said.kind, said.story_id, said.text, said.by]
    fingerprint = whole(fields)

    async def work(tx: neo4j.AsyncManagedTransaction) -> int:
        [found] = await rows(tx, _OPEN, event_id=said.event_id)
        if found["fingerprint"] is not None:
            if found["fingerprint"] != fingerprint:
                raise AlreadyExists(f"{said.kind} {said.note_id} is there already, with another content")
            return int(found["version"])
        await check_story(tx, said.story_id)
        versions = await reliance.raise_stories(tx, [said.story_id])
        values = {
            "fingerprint": fingerprint,
            "version": versions[said.story_id],
            "kind": f"context.{said.kind}",
            "story_id": said.story_id,
            "plan_id": "",
            "at": stamp(said.at),
            "summary": line(f"{said.kind} by {said.by}: {said.text}"),
            "text": said.text,
        }
        await rows(tx, _CLOSE, event_id=said.event_id, values=values)
        return versions[said.story_id]

    return await graph.write(work)
