"""The actor. A plain async class: Ray makes an actor of it, a test makes an object of it.

A job is taken by a short call and then owned here, as a task: it asks the model, streams the tokens, records the end in the
registry and publishes it. The executor need not be there for that. What is held here is lost with the process; the registry
is not, and the executor hands on what nobody holds.
"""

import asyncio
import datetime as dt
import os
import secrets
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Optional, TypeVar

import msgspec
import structlog

from fleet_executor.checks import checked
from fleet_executor.config import WorkerConfig, code_hash
from fleet_executor.dryrun import dry_run
from fleet_executor.ending import finish
from fleet_executor.jobs import (
    GRACE,
    EndedJob,
    OpenJob,
    cancelled_error,
    completed,
    deadline_error,
    failed,
    seconds_since,
)
from fleet_executor.measuring import measure
from fleet_executor.registry import Registry
from fleet_executor.structured import BadAnswer, ask
from fleet_executor.tokens import Pace, TokenStream
from fleet_executor.vllm import ModelClient, ModelError, Spent, model_session
from fleet_wire import clock, events, logs, tracing
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
        self._answering: dict[str, asyncio.Future[EndedJob]] = {}
        self._cancelled: set[str] = set()
        self._looking: Optional[asyncio.Task[None]] = None
        self._measured: tuple[Optional[bool], float] = (None, 0)
        self._draining = False
        self._pace = Pace()
        self._starting: Optional[asyncio.Task[None]] = None
        self._bus: Optional[Bus] = None
        self._log.info("VLLMAgentJob started", incarnation=self._incarnation, pid=os.getpid())

    async def accept(self, jobs: bytes, incarnation: str = "") -> str:
        """Takes the jobs (a list of OpenJob as JSON) and answers with why not, or with nothing. Those it holds already go
        on as they are. `incarnation` is whom the caller meant: to another one this may be a repeated call, whose jobs may
        have ended."""
        if self._draining:
            return f"{self._name} is draining"
        try:
            await self._started()
        except FleetError as error:
            return f"{self._name} cannot work: {error}"
        is_first = incarnation == self._incarnation
        for job in _JOBS.decode(jobs):
            if job.key not in self._tasks:
                task = asyncio.ensure_future(self._run(job, is_new=is_first and job.attempt == 1))
                self._tasks[job.key] = task
                task.add_done_callback(self._done(job.key))
        return ""

    async def cancel(self, keys: bytes) -> None:
        """Stops what it does for these jobs (a list of keys as JSON), the call to the model included. They end as cancelled,
        unless they have ended; what it does not hold is no error, and may still be on its way."""
        for key in msgspec.json.decode(keys, type=list[str]):
            self._cancelled.add(key)
            if key in self._answering:
                self._answering[key].cancel()
            if key not in self._tasks:
                asyncio.get_running_loop().call_later(GRACE.total_seconds(), self._forget, key)

    async def survey(self, drain: Optional[bool], measure: bool = False) -> bytes:
        """What it holds, as JSON. `drain` says whether it takes no more jobs from now on; None leaves that as it is.

        After it has answered it connects, asks for the model's name and, with `measure`, for the requests that wait there,
        which the next survey says, once."""
        if drain is not None and drain != self._draining:
            self._draining = drain
            self._log.info("VLLMAgentJob drains" if drain else "VLLMAgentJob takes jobs", held=len(self._tasks))
        (metrics, waiting), self._measured = self._measured, (None, 0)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look(measure))
        return msgspec.json.encode(
            {
                "held": sorted(self._tasks),
                "draining": self._draining,
                "incarnation": self._incarnation,
                "model": self._client.model if self._bus is not None else self._config.vllm_model,
                "node": node_id(),
                "metrics": metrics,
                "waiting": waiting,
                "connected": self._bus is not None,
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
        looking = [task for task in (self._looking, self._starting) if task is not None]
        for task in looking:
            task.cancel()
        await asyncio.gather(*self._tasks.values(), *looking, return_exceptions=True)
        if self._bus is not None:
            self._watch.cancel()
            await self._session.close()
            await self._bus.close()

    async def _look(self, measure_too: bool) -> None:
        """What a survey starts. Nobody waits for it; what fails is tried again after the next one."""
        try:
            await self._started()
            if measure_too:
                self._measured = await measure(self._session, self._config.vllm_url)
            await self._client.named()
        except (FleetError, ModelError) as error:
            self._log.debug("VLLMAgentJob does not know the model yet", reason=str(error))

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
        self._session = model_session()
        self._client = ModelClient(self._session, self._config)
        self._registry = Registry.on(bus)
        self._slots = asyncio.Semaphore(self._config.concurrency)
        self._cores = asyncio.Semaphore(len(os.sched_getaffinity(0)))
        self._watch = asyncio.ensure_future(self._exit_when_closed(bus))
        self._bus = bus

    async def _exit_when_closed(self, bus: Bus) -> None:
        """Ray starts the process anew, which connects anew; the executor hands on what was held."""
        await bus.closed.wait()
        self._log.error("connection to NATS ended for good")
        os._exit(1)

    def _forget(self, key: str) -> None:
        if key not in self._tasks:
            self._cancelled.discard(key)

    def _done(self, key: str) -> "Callable[[asyncio.Task[None]], None]":
        def done(task: "asyncio.Task[None]") -> None:
            self._tasks.pop(key, None)
            self._cancelled.discard(key)
            if not task.cancelled() and task.exception() is not None:
                self._log.error("VLLMAgentJob left a job to its next owner", job=key, exc_info=task.exception())

        return done

    async def _run(self, job: OpenJob, is_new: bool) -> None:
        with tracing.continued({"traceparent": job.traceparent}):
            assert self._bus is not None
            if not is_new and await self._persist(lambda: self._registry.ended(job.key)) is not None:
                return
            tokens = TokenStream(job, self._bus.publish_core, self._pace)
            try:
                ended = await self._ended(job, tokens)
            finally:
                await tokens.close()
            bus, registry = self._bus, self._registry
            await self._persist(lambda: finish(registry, bus, ended))
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
        left = (job.deadline - clock.now()).total_seconds()
        timer, spent = _Timer(job), Spent()
        if job.key in self._cancelled:
            return failed(job, cancelled_error(), clock.now())
        if left <= 0:
            return failed(job, deadline_error(job.deadline), clock.now())

        def stopped() -> bool:
            return late.passed or job.key in self._cancelled

        answering = asyncio.ensure_future(self._answer(job, tokens, timer, spent, stopped))
        self._answering[job.key] = answering
        late = _Late(answering, left)
        try:
            return await answering
        except asyncio.CancelledError:
            if job.key in self._cancelled:
                self._log.info("VLLMAgentJob stopped a cancelled job", job_id=job.spec.job_id)
                return failed(job, cancelled_error(), clock.now(), timer.timing(), **_used(spent))
            if late.passed:
                return failed(job, deadline_error(job.deadline), clock.now(), timer.timing(), **_used(spent))
            raise  # the actor ends, and the job with it, without an end
        except ModelError as error:
            self._log.warning("VLLMAgentJob got no answer", job_id=job.spec.job_id, kind=error.kind, reason=str(error))
            return failed(job, error.job_error(), clock.now(), timer.timing(), **_used(spent))
        except BadAnswer as error:
            self._log.warning(
                "VLLMAgentJob got no answer of the form asked for", job_id=job.spec.job_id, reason=str(error)
            )
            kept, timing = error.answer, timer.timing(error.answer.first_token_seconds)
            return failed(
                job, error.job_error(), clock.now(), timing, content=kept.text, model=kept.model, **_used(spent)
            )
        except Exception as error:  # noqa: BLE001 (a job that meets a defect must end as failed, not hang for ever)
            self._log.exception("VLLMAgentJob failed", job_id=job.spec.job_id)
            reason = events.JobError(kind="internal", message=f"{type(error).__name__}: {error}"[:1000], retryable=True)
            return failed(job, reason, clock.now(), timer.timing(), **_used(spent))
        finally:
            late.end()
            self._answering.pop(job.key, None)

    async def _answer(
        self, job: OpenJob, tokens: TokenStream, timer: "_Timer", spent: Spent, stopped: Callable[[], bool]
    ) -> EndedJob:
        """The end of a job that comes to its own: by the model's answer, or by what a dry run found."""
        spec = job.spec
        if spec.dry_run is not None:
            timer.called()
            runs = await dry_run(spec.dry_run, self._config.sandbox(), self._cores)
            return completed(job, "", "", events.Usage(), timer.timing(), clock.now(), runs=runs)
        async with self._slots:
            timer.called()
            answer = await ask(self._client, spec, tokens.add, spent, stopped)
        checks = await checked(answer.text, spec.checks, self._cores)
        timing = timer.timing(answer.first_token_seconds)
        return completed(
            job, answer.text, answer.model, spent.usage, timing, clock.now(), checks=checks, calls=spent.calls
        )

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


def _used(spent: Spent) -> dict[str, Any]:
    return {"usage": spent.usage, "calls": spent.calls}


class _Late:
    """Cancels a task after so many seconds, unless it is ended first: a wait with a time-out costs a task more."""

    def __init__(self, task: "asyncio.Future[EndedJob]", seconds: float) -> None:
        self.passed = False
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(seconds, self._pass)

    def end(self) -> None:
        self._timer.cancel()

    def _pass(self) -> None:
        self.passed = True
        self._task.cancel()


class _Timer:
    """Where the seconds of a job went."""

    def __init__(self, job: OpenJob) -> None:
        self._accepted_at = job.accepted_at
        self._called_at: Optional[dt.datetime] = None

    def called(self) -> None:
        self._called_at = clock.now()

    def timing(self, first_token_seconds: Optional[float] = None) -> events.Timing:
        total = seconds_since(self._accepted_at, clock.now())
        queued = total if self._called_at is None else seconds_since(self._accepted_at, self._called_at)
        return events.Timing(
            queued_seconds=queued, first_token_seconds=first_token_seconds, total_seconds=max(total, queued)
        )


def node_id() -> str:
    """Ray's id of the node, from the command line of the process that Ray starts for an actor; empty elsewhere."""
    prefix = "--node-id="
    return next((word[len(prefix) :] for word in sys.argv if word.startswith(prefix)), "")
