"""The actor. A plain async class: Ray makes an actor of it, a test makes an object of it.

A job is taken by a short call and then owned here, as a task: it asks the model, streams the tokens, records the end in the
registry and publishes it. The executor need not be there for that. What is held here is lost with the process; the registry
is not, and the executor hands on what nobody holds.
"""

import asyncio
import datetime as dt
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Optional, TypeVar

import aiohttp
import msgspec
import structlog

from fleet_executor.config import WorkerConfig, code_hash
from fleet_executor.ending import finish
from fleet_executor.jobs import (
    EndedJob,
    OpenJob,
    completed,
    deadline_error,
    failed,
    seconds_since,
)
from fleet_executor.registry import Registry
from fleet_executor.tokens import TokenStream
from fleet_executor.vllm import Answer, ModelClient, ModelError
from fleet_wire import events, logs, tracing
from fleet_wire.bus import Bus, connect
from fleet_wire.errors import FleetError, Unavailable

CONNECT_WAIT = dt.timedelta(seconds=10)
LONGEST_PAUSE_SECONDS = 5.0

T = TypeVar("T")

_JOBS = msgspec.json.Decoder(list[OpenJob])


class VLLMAgentJob:
    """Runs agents' jobs. Its calls are short and may be repeated: Ray repeats them after a restart.

    `config` is a WorkerConfig as JSON: what crosses between processes is bytes of our own, not pickles.
    """

    def __init__(self, name: str, config: bytes) -> None:
        self._name = name
        self._config = msgspec.json.decode(config, type=WorkerConfig)
        logs.configure("ray-worker", self._config.log_level, self._config.log_format)
        self._log = structlog.get_logger("VLLMAgentJob").bind(actor=name)
        self._incarnation = secrets.token_hex(4)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._draining = False
        self._starting: Optional[asyncio.Task[None]] = None
        self._bus: Optional[Bus] = None
        self._log.info("VLLMAgentJob started", incarnation=self._incarnation, pid=os.getpid())

    async def accept(self, jobs: bytes) -> str:
        """Takes the jobs (a list of OpenJob as JSON) and answers with why not, or with nothing. Those it holds already go
        on as they are."""
        if self._draining:
            return f"{self._name} is draining"
        try:
            await self._started()
        except FleetError as error:
            return f"{self._name} cannot work: {error}"
        for job in _JOBS.decode(jobs):
            if job.key not in self._tasks:
                task = asyncio.ensure_future(self._run(job))
                self._tasks[job.key] = task
                task.add_done_callback(self._done(job.key))
        return ""

    async def survey(self, drain: Optional[bool]) -> bytes:
        """What it holds, as JSON. `drain` says whether it takes no more jobs from now on; None leaves that as it is."""
        if drain is not None and drain != self._draining:
            self._draining = drain
            self._log.info("VLLMAgentJob drains" if drain else "VLLMAgentJob takes jobs", held=len(self._tasks))
        return msgspec.json.encode(
            {
                "held": sorted(self._tasks),
                "draining": self._draining,
                "incarnation": self._incarnation,
                "model": self._client.model if self._bus is not None else self._config.vllm_model,
                "pid": os.getpid(),
            }
        )

    async def code(self) -> str:
        """The hash of the code it runs."""
        return code_hash()

    async def close(self) -> None:
        """Ends its connections, and what it holds without an end. For tests: on Ray the process ends."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._bus is not None:
            self._watch.cancel()
            await self._session.close()
            await self._bus.close()

    async def _started(self) -> None:
        """Connects at the first job, and again at the next one where that failed."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        starting = self._starting
        try:
            await asyncio.shield(starting)
        finally:
            failed = starting.done() and (starting.cancelled() or starting.exception() is not None)
            if failed and self._starting is starting:
                self._starting = None

    async def _start(self) -> None:
        bus = await connect(self._config.nats_url, self._name, self._config.nats_creds, wait=CONNECT_WAIT)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        self._client = ModelClient(self._session, self._config)
        self._registry = Registry.on(bus)
        self._slots = asyncio.Semaphore(self._config.concurrency)
        self._watch = asyncio.ensure_future(self._exit_when_closed(bus))
        self._bus = bus

    async def _exit_when_closed(self, bus: Bus) -> None:
        """Ray starts the process anew, which connects anew; the executor hands on what was held."""
        await bus.closed.wait()
        self._log.error("connection to NATS ended for good")
        os._exit(1)

    def _done(self, key: str) -> "Callable[[asyncio.Task[None]], None]":
        def done(task: "asyncio.Task[None]") -> None:
            self._tasks.pop(key, None)
            if not task.cancelled() and task.exception() is not None:
                self._log.error("VLLMAgentJob left a job to its next owner", job=key, exc_info=task.exception())

        return done

    async def _run(self, job: OpenJob) -> None:
        with tracing.continued({"traceparent": job.traceparent}):
            assert self._bus is not None
            if await self._persist(lambda: self._registry.ended(job.key)) is not None:
                return
            tokens = TokenStream(job, self._bus.publish_core)
            try:
                ended = await self._ended(job, tokens)
            finally:
                closing = asyncio.ensure_future(tokens.close())
            bus, registry = self._bus, self._registry
            await self._persist(lambda: finish(registry, bus, ended))
            await closing
            result = ended.result
            self._log.info(
                f"{result.subject()} published",
                job_id=result.job_id,
                deliberation=result.deliberation_id,
                agent_id=result.agent_id,
                status=result.status,
                attempt=result.attempt,
                error=result.error.kind if result.error else None,
                seconds=round(result.timing.total_seconds, 3),
            )

    async def _ended(self, job: OpenJob, tokens: TokenStream) -> EndedJob:
        """The end of the job, whatever happens to it."""
        left = (job.deadline - _now()).total_seconds()
        timer = _Timer(job)
        try:
            if left <= 0:
                return failed(job, deadline_error(job.deadline), _now())
            answer = await asyncio.wait_for(self._answer(job, tokens, timer), left)
        except asyncio.TimeoutError:
            return failed(job, deadline_error(job.deadline), _now(), timer.timing())
        except ModelError as error:
            self._log.warning("VLLMAgentJob got no answer", job_id=job.spec.job_id, kind=error.kind, reason=str(error))
            return failed(job, error.job_error(), _now(), timer.timing())
        except Exception as error:  # noqa: BLE001 (a job that meets a defect must end as failed, not hang for ever)
            self._log.exception("VLLMAgentJob failed", job_id=job.spec.job_id)
            reason = events.JobError(kind="internal", message=f"{type(error).__name__}: {error}"[:1000], retryable=True)
            return failed(job, reason, _now(), timer.timing())
        timing = timer.timing(answer.first_token_seconds)
        return completed(job, answer.text, answer.model, answer.usage, timing, _now())

    async def _answer(self, job: OpenJob, tokens: TokenStream, timer: "_Timer") -> Answer:
        async with self._slots:
            timer.called()
            return await self._client.complete(job.spec, tokens.add)

    async def _persist(self, step: "Callable[[], Awaitable[T]]") -> T:
        """Repeats a step for as long as NATS is away: the end of a job is not lost to an outage."""
        pause = 0.1
        while True:
            try:
                return await step()
            except Unavailable as error:
                self._log.warning("VLLMAgentJob waits for NATS", reason=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


class _Timer:
    """Where the seconds of a job went."""

    def __init__(self, job: OpenJob) -> None:
        self._accepted_at = job.accepted_at
        self._called_at: Optional[dt.datetime] = None

    def called(self) -> None:
        self._called_at = _now()

    def timing(self, first_token_seconds: Optional[float] = None) -> events.Timing:
        total = seconds_since(self._accepted_at, _now())
        queued = total if self._called_at is None else seconds_since(self._accepted_at, self._called_at)
        return events.Timing(
            queued_seconds=queued, first_token_seconds=first_token_seconds, total_seconds=max(total, queued)
        )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)
