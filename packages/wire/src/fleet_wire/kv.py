"""Typed records in JetStream key-value buckets, with compare-and-set and a time to live per record.

`Bucket` is the port; `JetStreamBucket` the real thing, `MemoryBucket` its twin for unit tests. The same contract tests run
on both.
"""

import asyncio
import contextlib
import datetime as dt
import random
from collections.abc import AsyncIterator, Callable
from typing import Generic, Optional, Protocol, TypeVar

import msgspec
import nats.errors
import nats.js.errors
import structlog
from nats.js.api import DeliverPolicy, RawStreamMsg

from fleet_wire import clock
from fleet_wire.bus import NO_MESSAGE, TRANSIENT, WRONG_LAST_SEQUENCE, Bus, patiently, reason_of
from fleet_wire.errors import Conflict, Invalid, Unavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")

DELETION_TTL = "1s"
"""How long the message that deletes a key stays, the shortest that the server knows: all who list the bucket read it too."""


class Entry(Generic[T]):
    """A record with the revision that a compare-and-set names."""

    __slots__ = ("key", "revision", "value")

    def __init__(self, key: str, value: T, revision: int) -> None:
        self.key = key
        self.value = value
        self.revision = revision


class Bucket(Protocol[T]):
    """Records of one type under keys. Every call raises Unavailable while the store is away."""

    async def get(self, key: str) -> Optional[Entry[T]]:
        """The record, or None."""

    async def create(self, key: str, value: T, ttl: Optional[dt.timedelta] = None) -> int:
        """Writes a new record and answers with its revision; raises Conflict where there is one.

        After Unavailable it may have been written all the same: read before another try.
        """

    async def update(self, key: str, value: T, revision: int, ttl: Optional[dt.timedelta] = None) -> int:
        """Writes over exactly that revision; raises Conflict where another was written since."""

    async def expire(self, entry: Entry[T], ttl: dt.timedelta) -> None:
        """Gives a record a time to live, where it is still as in this entry. Nothing is waited for: should the server not get
        it, the record keeps the time it has."""

    async def delete(self, key: str) -> None:
        """Removes the record, if there is one."""

    async def discard(self, key: str, revision: int = 0) -> None:
        """Removes the record, if there is one; with a revision only that one or an older one. Nothing is waited for, and nothing
        stays in its place: should the server not get it, the record stays."""

    def entries(self, prefix: str = "") -> AsyncIterator[Entry[T]]:
        """All records whose key begins with the prefix, which ends at a dot or is empty. One that cannot be read is logged
        and left out, so that it hides no other; one that is written meanwhile may come twice, the newer one last."""


class JetStreamBucket(Generic[T]):
    """A bucket in JetStream. `kind` is a msgspec Struct; its JSON is what operators see with `nats kv get`."""

    def __init__(self, bus: Bus, name: str, kind: type[T]) -> None:
        self._bus = bus
        self._name = name
        self._decoder = msgspec.json.Decoder(kind)
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."

    async def get(self, key: str) -> Optional[Entry[T]]:
        try:
            last = await patiently(lambda: self._last(key), attempts=5, seconds=10, longest=1.0)
        except TRANSIENT as error:
            raise self._away(error) from error
        if last is None or _is_deletion(last):
            return None
        return Entry(key, self._decode(key, last.data or b""), int(last.seq or 0))

    async def create(self, key: str, value: T, ttl: Optional[dt.timedelta] = None) -> int:
        try:
            return await self._put(key, value, 0, ttl)
        except Conflict:
            # The last message of the key may be a deletion: then the key is free, at that revision.
            try:
                last = await self._last(key)
            except TRANSIENT as error:
                raise self._away(error) from error
            if last is not None and not _is_deletion(last):
                raise
            return await self._put(key, value, int(last.seq or 0) if last else 0, ttl)

    async def update(self, key: str, value: T, revision: int, ttl: Optional[dt.timedelta] = None) -> int:
        return await self._put(key, value, revision, ttl)

    async def expire(self, entry: Entry[T], ttl: dt.timedelta) -> None:
        await self._bus.send(self._prefix + entry.key, msgspec.json.encode(entry.value), _headers(entry.revision, ttl))

    async def delete(self, key: str) -> None:
        headers = {"KV-Operation": "PURGE", "Nats-Rollup": "sub", "Nats-TTL": DELETION_TTL}
        try:
            await self._bus.append(self._prefix + key, b"", headers)
        except TRANSIENT as error:
            raise self._away(error) from error

    async def discard(self, key: str, revision: int = 0) -> None:
        await self._bus.discard(self._stream, self._prefix + key, revision)

    async def entries(self, prefix: str = "") -> AsyncIterator[Entry[T]]:
        try:
            subscription = await self._bus.js.subscribe(
                f"{self._prefix}{prefix}>",
                stream=self._stream,
                ordered_consumer=True,
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT,
            )
            try:
                info = await subscription.consumer_info()
                delivered = info.delivered.consumer_seq if info.delivered else 0
                remaining = (info.num_pending or 0) + delivered
                seen: set[str] = set()
                while remaining > 0:
                    try:
                        message = await subscription.next_msg(timeout=1)
                    except nats.errors.TimeoutError:
                        # What was the last may have expired meanwhile; a server that is away says so here.
                        remaining = (await subscription.consumer_info()).num_pending or 0
                        continue
                    remaining = int(message.metadata.num_pending or 0)
                    seen.add(message.subject)
                    if not (message.headers and "KV-Operation" in message.headers):
                        key = message.subject[len(self._prefix) :]
                        try:
                            value = self._decode(key, message.data)
                        except Invalid as error:
                            log.error("record skipped", bucket=self._name, key=key, reason=str(error))
                            continue
                        yield Entry(key, value, message.metadata.sequence.stream)
            finally:
                await subscription.unsubscribe()
            # A record that is written while the old ones are read has left its place among them, and its new one may lie
            # behind the last that was announced.
            last = (await self._bus.js.stream_info(self._stream, subjects_filter=f"{self._prefix}{prefix}>")).state
            for subject in (last.subjects or {}).keys() - seen:
                key = subject[len(self._prefix) :]
                try:
                    entry = await self.get(key)
                except Invalid as error:
                    log.error("record skipped", bucket=self._name, key=key, reason=str(error))
                    continue
                if entry is not None:
                    yield entry
        except nats.js.errors.NotFoundError as error:
            raise Unavailable(f"bucket {self._name} does not exist: run `fleet streams apply`") from error
        except TRANSIENT as error:
            raise self._away(error) from error

    async def _put(self, key: str, value: T, revision: int, ttl: Optional[dt.timedelta]) -> int:
        try:
            return await self._bus.append(self._prefix + key, msgspec.json.encode(value), _headers(revision, ttl))
        except TRANSIENT as error:
            raise self._away(error) from error
        except nats.js.errors.APIError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise Conflict(f"{self._name}/{key} was written by somebody else") from error
            raise

    async def _last(self, key: str) -> Optional[RawStreamMsg]:
        """The key's last message, asked of the stream's leader: any replica may answer a direct get, and one that lags
        would deny what was just written."""
        try:
            return await self._bus.js.get_last_msg(self._stream, self._prefix + key)
        except nats.js.errors.NotFoundError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise Unavailable(f"bucket {self._name} does not exist: run `fleet streams apply`") from error

    def _decode(self, key: str, data: bytes) -> T:
        try:
            return self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise Invalid(f"record {self._name}/{key} cannot be read: {error}") from error

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(f"bucket {self._name} cannot be reached: {reason_of(error)}")


def _headers(revision: int, ttl: Optional[dt.timedelta]) -> dict[str, str]:
    headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
    if ttl is not None:
        headers["Nats-TTL"] = f"{max(1, int(ttl.total_seconds()))}s"
    return headers


def _is_deletion(message: RawStreamMsg) -> bool:
    return bool(message.headers and "KV-Operation" in message.headers)


class MemoryBucket(Generic[T]):
    """The twin: the same contract in a dict, its clock an argument. For unit tests."""

    def __init__(self, now: Callable[[], dt.datetime] = clock.now) -> None:
        self._now = now
        self._revision = 0
        self._records: dict[str, tuple[Entry[T], Optional[dt.datetime]]] = {}

    async def get(self, key: str) -> Optional[Entry[T]]:
        entry, expires = self._records.get(key, (None, None))
        return None if expires is not None and expires <= self._now() else entry

    async def create(self, key: str, value: T, ttl: Optional[dt.timedelta] = None) -> int:
        if await self.get(key) is not None:
            raise Conflict(f"{key} exists")
        return self._put(key, value, ttl)

    async def update(self, key: str, value: T, revision: int, ttl: Optional[dt.timedelta] = None) -> int:
        entry = await self.get(key)
        if (entry.revision if entry else 0) != revision:
            raise Conflict(f"{key} was written by somebody else")
        return self._put(key, value, ttl)

    async def expire(self, entry: Entry[T], ttl: dt.timedelta) -> None:
        with contextlib.suppress(Conflict):
            await self.update(entry.key, entry.value, entry.revision, ttl)

    async def delete(self, key: str) -> None:
        self._records.pop(key, None)

    async def discard(self, key: str, revision: int = 0) -> None:
        entry = await self.get(key)
        if entry is not None and (not revision or entry.revision <= revision):
            await self.delete(key)

    async def entries(self, prefix: str = "") -> AsyncIterator[Entry[T]]:
        for key in list(self._records):
            entry = await self.get(key)
            if entry is not None and key.startswith(prefix):
                yield entry

    def _put(self, key: str, value: T, ttl: Optional[dt.timedelta]) -> int:
        self._revision += 1
        self._records[key] = (Entry(key, value, self._revision), None if ttl is None else self._now() + ttl)
        return self._revision


async def change(
    bucket: Bucket[T],
    key: str,
    step: Callable[[Optional[T]], Optional[T]],
    ttl: Callable[[T], Optional[dt.timedelta]] = lambda value: None,
) -> Optional[T]:
    """Moves a record by a pure function of it, again on the newest one for as long as others write first.

    `step` gets None where there is no record, and answers None to leave things as they are. Answers with what stands at the
    end. Between losses it waits 0 to 20 ms at random, which cut retries to a fifth with twenty writers on one key.
    """
    while True:
        entry = await bucket.get(key)
        current = entry.value if entry else None
        new = step(current)
        if new is None or new == current:
            return current
        try:
            if entry is None:
                await bucket.create(key, new, ttl(new))
            else:
                await bucket.update(key, new, entry.revision, ttl(new))
            return new
        except Conflict:
            await asyncio.sleep(random.uniform(0, 0.02))
