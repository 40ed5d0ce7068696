"""Hydrated contexts in Valkey. It saves time and nothing else: away, empty or corrupt, the answers stay the same.

All that is held of a story is one Valkey hash, so that one command forgets it. A field is named by the story's birth and version,
by the request with its scope, and by the tokenizer; the version is read from the graph with every request: what was held of an
older version is never found again, also where forgetting it failed. Held is the answer's message as it is sent, behind a seal
that tells what is cut off, changed by accident or of another field: to build it anew from its parts would take ten times as long.
"""

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Any

import structlog
from valkey.exceptions import ResponseError

from fleet.batching import Batches
from fleet.context import domain
from fleet.context.valkeyserver import ValkeyServer
from fleet_wire.fingerprint import whole
from fleet_wire.gen.context.v1 import context_pb2

log = structlog.get_logger(__name__)

TTL = dt.timedelta(hours=1)
SEAL_BYTES = hashlib.sha256().digest_size
MOST_AT_ONCE = 64
"""Reads, or stories, in one round trip."""
LAYOUT = 6
"""Goes up with every change by which the same graph gives another answer: of what is held, and in `reading`, `blocks`, `packing`,
the lenses, the fence or redaction."""


class ContextCache:
    """Never raises for a server that is away."""

    def __init__(self, url: str) -> None:
        self._server = ValkeyServer(url)
        self._fields = Batches(self._read, MOST_AT_ONCE)
        self._stale = Batches(self._forget, MOST_AT_ONCE)

    async def get(
        self, story: domain.StoryHead, request: domain.ContextRequest, tokenizer: str
    ) -> context_pb2.GetContextResponse | None:
        """What is held for this request at this version of the story, counted by this tokenizer; None for nothing, or for
        something corrupt."""
        field = _field(story, request, tokenizer)
        data = await self._fields.ask((_key(story.story_id), field))
        if data is None:
            return None
        seal, body = data[:SEAL_BYTES], data[SEAL_BYTES:]
        if seal != _seal(field, body):
            log.warning("cache: corrupt context ignored", story_id=story.story_id)
            return None
        return context_pb2.GetContextResponse.FromString(body)

    async def put(
        self, story: domain.StoryHead, request: domain.ContextRequest, answer: context_pb2.GetContextResponse
    ) -> None:
        """Holds an answer until the story changes, at most TTL."""
        key, field, body = _key(story.story_id), _field(story, request, answer.tokenizer), answer.SerializeToString()

        async def store() -> list[Any]:
            async with self._server.client.pipeline(transaction=True) as pipeline:
                pipeline.hset(key, mapping={field: _seal(field, body) + body})
                pipeline.expire(key, TTL, nx=True)
                return list(await pipeline.execute())

        await self._server.answer(key, store)

    async def forget(self, story_id: str) -> None:
        """Drops all that is held of a story."""
        await self._stale.ask(story_id)

    async def check(self) -> bool:
        """Whether the server answers now; logs it where it does not."""
        return await self._server.check()

    async def close(self) -> None:
        await self._server.close()

    async def _forget(self, story_ids: Sequence[str]) -> list[None]:
        keys = [_key(story_id) for story_id in story_ids]
        await self._server.answer(keys[0], lambda: self._server.client.unlink(*keys))
        return [None] * len(keys)

    async def _read(self, places: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """What stands in these fields of these keys, in one round trip."""

        async def read() -> list[Any]:
            async with self._server.client.pipeline(transaction=False) as pipeline:
                for key, field in places:
                    pipeline.hget(key, field)
                return list(await pipeline.execute(raise_on_error=False))

        found = await self._server.answer("", read) or [None] * len(places)
        for (key, _), value in zip(places, found, strict=True):
            if isinstance(value, ResponseError):
                await self._server.refused(key, value)
        return [value if isinstance(value, bytes) else None for value in found]


def _key(story_id: str) -> str:
    return f"fleet:context:{LAYOUT}:{story_id}"


def _field(story: domain.StoryHead, request: domain.ContextRequest, tokenizer: str) -> str:
    return f"{story.born}:{story.version}:{whole([request, tokenizer])}"


def _seal(field: str, body: bytes) -> bytes:
    return hashlib.sha256(field.encode() + body).digest()
