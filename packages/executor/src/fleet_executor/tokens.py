"""Token chunks of one job on their way to `vllm.streaming.…`: gathered, redacted, and sent at most every 100 ms."""

import asyncio
from typing import Optional, Protocol

import nats.errors
import structlog

from fleet_executor.jobs import OpenJob
from fleet_wire import events
from fleet_wire.errors import FleetError
from fleet_wire.redaction import Redactor

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.1
"""Ten times a second is as fast as anybody reads; each chunk costs a message for everyone who follows."""
CHUNKS_PER_SECOND = 30
"""What an actor sends of all its jobs together: nobody reads so many at once, and messages for each ten times a second would
cost more than the answers."""


class Pace:
    """How often the jobs of one actor send: the more there are, the less often each."""

    def __init__(self) -> None:
        self.streams = 0

    @property
    def seconds(self) -> float:
        return max(INTERVAL_SECONDS, self.streams / CHUNKS_PER_SECOND)


class Publish(Protocol):
    """As `Bus.publish_core`."""

    async def __call__(self, event: events.Event, *, redacted: bool = False) -> None: ...


class TokenStream:
    """`add` text as it comes, `close` at the end: the last chunk says `done`. A chunk that cannot be sent is lost; the
    result carries the whole text. What may be the beginning of a secret waits for what follows it."""

    def __init__(self, job: OpenJob, publish: Publish, pace: Pace) -> None:
        self._job = job
        self._publish = publish
        self._pace = pace
        pace.streams += 1
        self._pieces: list[str] = []
        self._redactor = Redactor()
        self._seq = 0
        self._sent_at = float("-inf")
        self._next: Optional[asyncio.TimerHandle] = None
        self._sending: Optional[asyncio.Task[None]] = None

    def add(self, text: str) -> None:
        self._pieces.append(text)
        if self._next is None and self._sending is None:
            self._plan()

    async def close(self) -> None:
        """Sends what is left."""
        if self._sending is not None:
            await self._sending
        if self._next is not None:
            self._next.cancel()
        self._pace.streams -= 1
        await self._send(self._redactor.close("".join(self._pieces)), True)

    def _plan(self) -> None:
        """The next chunk, an interval after the last; the first one at once, unless many are sent."""
        loop, seconds = asyncio.get_running_loop(), self._pace.seconds
        if self._seq == 0 and seconds > INTERVAL_SECONDS:
            self._sent_at = loop.time()
        self._next = loop.call_at(self._sent_at + seconds, self._start)

    def _start(self) -> None:
        self._next = None
        self._sending = asyncio.ensure_future(self._send_on())

    async def _send_on(self) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        text = self._taken()
        if text:
            await self._send(text, False)
        self._sending = None
        if self._pieces:
            self._plan()

    def _taken(self) -> str:
        text = self._redactor.add("".join(self._pieces))
        self._pieces.clear()
        return text

    async def _send(self, text: str, done: bool) -> None:
        chunk = events.TokenChunk(
            deliberation_id=self._job.deliberation_id,
            agent_id=self._job.spec.agent_id,
            job_id=self._job.spec.job_id,
            attempt=self._job.attempt,
            seq=self._seq,
            text=events.cut(text)[0],
            done=done,
        )
        self._seq += 1
        try:
            await self._publish(chunk, redacted=True)
        except (FleetError, nats.errors.Error) as error:
            log.debug("token chunk lost", job_id=chunk.job_id, seq=chunk.seq, reason=str(error) or type(error).__name__)
