"""Hydrated contexts in Valkey. It saves time and nothing else: away, empty or corrupt, the answers stay the same.

All that is held of a story is one Valkey hash, so that one command forgets it. A field is named by the request with its scope and
by the tokenizer. Held is the answer's message as it is sent: to build it anew from its parts would take ten times as long. Before
it stand the story's birth and version, and a seal that tells what is cut off, changed by accident or of another field. The
version is read from the graph with every request, at the same time: what is held of an older one is never used, also where
forgetting it failed.
"""

import dataclasses
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
LAYOUT = 7
"""Goes up with every change by which the same graph gives another answer: of what is held, and in `reading`, `blocks`, `packing`,
the lenses, the fence or redaction."""


@dataclasses.dataclass(frozen=True)
class Held:
    """What stands in a field, without its seal."""

    version: bytes
    body: bytes

    def at(self, story: domain.StoryHead) -> context_pb2.GetContextResponse | None:
        """The answer, if it is of this version of the story."""
        return context_pb2.GetContextResponse.FromString(self.body) if self.version == _version(story) else None


NOTHING = Held(b"", b"")


class ContextCache:
    """Never raises for a server that is away."""

    def __init__(self, url: str) -> None:
        self._server = ValkeyServer(url)
        self._fields = Batches(self._read, MOST_AT_ONCE)
        self._stale = Batches(self._forget, MOST_AT_ONCE)

    async def get(self, request: domain.ContextRequest, tokenizer: str) -> Held:
        """What is held for this request at any one version of its story, counted by this tokenizer; nothing where it is
        corrupt."""
        field = _field(request, tokenizer)
        data = await self._fields.ask((_key(request.story_id), field))
        if data is None:
            return NOTHING
        seal, content = data[:SEAL_BYTES], data[SEAL_BYTES:]
        if seal != _seal(field, content):
            log.warning("cache: corrupt context ignored", story_id=request.story_id)
            return NOTHING
        version, _, body = content.partition(b"\n")
        return Held(version, body)

    async def put(
        self, story: domain.StoryHead, request: domain.ContextRequest, answer: context_pb2.GetContextResponse
    ) -> None:
        """Holds an answer until the story changes, at most TTL."""
        key, field = _key(story.story_id), _field(request, answer.tokenizer)
        content = _version(story) + b"\n" + answer.SerializeToString()

        async def store() -> list[Any]:
            async with self._server.client.pipeline(transaction=True) as pipeline:
                pipeline.hset(key, mapping={field: _seal(field, content) + content})
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


def _field(request: domain.ContextRequest, tokenizer: str) -> str:
    return whole([request, tokenizer])


def _version(story: domain.StoryHead) -> bytes:
    return f"{story.born}:{story.version}".encode()


def _seal(field: str, content: bytes) -> bytes:
    return hashlib.sha256(field.encode() + content).digest()
