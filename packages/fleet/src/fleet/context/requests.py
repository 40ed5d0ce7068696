"""What a request to change the memory was answered, kept under its id: whoever asks it again gets the same answer."""

from collections.abc import Sequence

import msgspec
import neo4j

from fleet.bolt import Graph, rows
from fleet.context import domain
from fleet.context.changes import Result
from fleet_wire.errors import AlreadyExists

# The write comes before anything is looked at: it makes others with the same request wait for, or fail after, this one.
_BEGIN = """
MERGE (e:Event {event_id: $event_id})
  ON CREATE SET e.kind = 'context.update', e.story_id = '', e.plan_id = '', e.version = 0, e.fingerprint = $fingerprint
SET e.lock = true
RETURN e.fingerprint AS fingerprint, e.answer AS answer"""
_FINISH = """
MERGE (e:Event {event_id: $event_id}) SET e.answer = coalesce(e.answer, $answer)
RETURN e.answer AS answer"""

Answer = tuple[Result, ...]


async def begin(graph: Graph, request_id: str, fingerprint: str) -> Answer | None:
    """What the request was answered; None where it was not yet. Raises AlreadyExists for another content under its id."""
    found = await _one(graph, _BEGIN, request_id, fingerprint=fingerprint)
    if found["fingerprint"] != fingerprint:
        raise AlreadyExists(f"request_id {request_id} belongs to a request with another content")
    return msgspec.json.decode(found["answer"], type=Answer) if found["answer"] else None


async def finish(graph: Graph, request_id: str, results: Sequence[Result]) -> Answer:
    """Keeps the answer; that of whoever was first, where several worked on the same request."""
    found = await _one(graph, _FINISH, request_id, answer=domain.as_json(results))
    return msgspec.json.decode(found["answer"], type=Answer)


async def _one(graph: Graph, statement: str, request_id: str, **values: str) -> dict[str, str]:
    async def work(tx: neo4j.AsyncManagedTransaction) -> dict[str, str]:
        [found] = await rows(tx, statement, event_id=f"context.update:{request_id}", **values)
        return found

    return await graph.write(work)
