"""What each session has seen, in Valkey, with a time-out. Losing it loses nothing but what an answer says is new."""

import datetime as dt

import msgspec
import structlog
from msgspec import Struct

from fleet.context import domain
from fleet.context.domain import Scope
from fleet.context.valkeyserver import ValkeyServer

log = structlog.get_logger(__name__)


class Seen(Struct, frozen=True):
    """A role's last rehydration of a story in a session: when, at which version of it, and in which scope. `born` is as in
    `StoryHead`."""

    born: str
    version: int
    scope: Scope
    at: dt.datetime


class Sessions:
    """A session is forgotten when it was not used for `seconds`. Never raises for a server that is away."""

    def __init__(self, url: str, seconds: int) -> None:
        self._server = ValkeyServer(url)
        self._seconds = seconds
        self._decoder = msgspec.json.Decoder(Seen)

    async def last(self, session_id: str, story_id: str, role: str) -> Seen | None:
        """The role's last rehydration of the story in this session; None where nothing is known of it any more, or was never."""
        key = _key(session_id)
        data = await self._server.answer(key, lambda: self._server.client.hget(key, _field(story_id, role)))
        if data is None:
            return None
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("session: corrupt state ignored", session_id=session_id, error=str(error))
            return None

    async def saw(self, session_id: str, story_id: str, role: str, seen: Seen) -> None:
        """Keeps what the role has now seen of a story, and the session for as long again."""
        key = _key(session_id)

        async def store() -> list[object]:
            async with self._server.client.pipeline(transaction=True) as pipeline:
                pipeline.hset(key, _field(story_id, role), domain.as_json(seen))
                pipeline.expire(key, self._seconds)
                return list(await pipeline.execute())

        await self._server.answer(key, store)

    async def close(self) -> None:
        await self._server.close()


def _key(session_id: str) -> str:
    return f"fleet:session:{session_id}"


def _field(story_id: str, role: str) -> str:
    return f"{story_id}:{role}"
