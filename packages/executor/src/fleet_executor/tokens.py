"""Token chunks of one job on their way to `vllm.streaming.…`: gathered, redacted, and sent at most every 100 ms."""

import asyncio
from collections.abc import Awaitable, Callable

import nats.errors
import structlog

from fleet_executor.jobs import OpenJob
from fleet_wire import events
from fleet_wire.errors import FleetError
from fleet_wire.redaction import Redactor

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.1
"""Ten times a second is as fast as anybody reads; each chunk costs a message for everyone who follows."""


class TokenStream:
    """`add` text as it comes, `close` at the end: the last chunk says `done`. A chunk that cannot be sent is lost; the
    result carries the whole text. What may be the beginning of a secret waits for what follows it."""

    def __init__(self, job: OpenJob, publish: Callable[[events.Event], Awaitable[None]]) -> None:
        self._job = job
        self._publish = publish
        self._pieces: list[str] = []
        self._redactor = Redactor()
        self._seq = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.ensure_future(self._run())

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._wake.set()

    async def close(self) -> None:
        """Sends what is left."""
        self._closing = True
        self._wake.set()
        await self._task

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            done, text = self._closing, self._redactor.add("".join(self._pieces))
            self._pieces.clear()
            if done:
                await self._send(text + self._redactor.close(), done)
                return
            if not text:
                continue
            await self._send(text, done)
            await asyncio.sleep(INTERVAL_SECONDS)

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
            await self._publish(chunk)
        except (FleetError, nats.errors.Error) as error:
            log.debug("token chunk lost", job_id=chunk.job_id, seq=chunk.seq, reason=str(error) or type(error).__name__)
