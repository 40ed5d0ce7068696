"""Streaming chat completions from vLLM, or any server of the same API, with time-outs and retries.

What goes wrong is a ModelError of one of these kinds:
    unreachable  no connection, or it broke off          retryable
    timeout      no first event, or a pause, too long    retryable
    http         another status than 200                 retryable for 408, 425, 429 and 5xx
    empty        an answer without text                  not retryable: the same seed gives the same
    malformed    not what the API says                   not retryable
A retryable one is tried again here until the first token has come; text that was shown is never begun anew.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Optional

import aiohttp
import msgspec
import structlog

from fleet_executor.config import WorkerConfig
from fleet_executor.jobs import JobSpec
from fleet_executor.sse import SseError, SseParser
from fleet_wire.events import JobError, Usage

log = structlog.get_logger(__name__)

RETRY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0
MAX_ANSWER_CHARS = 1024 * 1024
"""Sixteen thousand tokens, the most a job may ask for, stay far below: more is a server that does not end."""
SEED_SPACE = 2**31
"""A job's 64-bit seed is folded into what every server takes."""


class ModelError(Exception):
    """A call that brought no answer."""

    def __init__(self, kind: str, message: str, retryable: bool, pause_seconds: float = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retryable = retryable
        self.pause_seconds = pause_seconds
        """How long the server asked to wait before the next call."""

    def job_error(self) -> JobError:
        return JobError(kind=self.kind, message=self.message[:1000], retryable=self.retryable)


class Answer(msgspec.Struct, frozen=True):
    """`first_token_seconds` counts from the call, retries included."""

    text: str
    model: str
    usage: Usage
    first_token_seconds: float


@dataclasses.dataclass
class Spent:
    """What was used so far, also where no answer comes of it: calls that the model answered, and the tokens it reported. A
    call that fails before its first event, and is repeated for that, is not counted: so a job uses no more than was reserved."""

    calls: int = 0
    usage: Usage = dataclasses.field(default_factory=Usage)


class _Delta(msgspec.Struct, gc=False):
    content: Optional[str] = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: Optional[str] = None


class _Details(msgspec.Struct):
    cached_tokens: Optional[int] = None


class _Usage(msgspec.Struct):
    prompt_tokens: Optional[int] = None
    completion_tokens: Optional[int] = None
    prompt_tokens_details: Optional[_Details] = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    model: Optional[str] = None
    usage: Optional[_Usage] = None
    error: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)
DONE = "[DONE]"
JSON = {"Content-Type": "application/json"}
AGAIN_SECONDS = 1.0
"""How long after a time-out a call that goes on all the same is cancelled again."""

KEPT_SECONDS = 3.0
"""How long a connection is kept for the next call: less than the five seconds after which vLLM ends an idle one."""
END_SECONDS = 0.05
"""How long the end of a response is waited for when the answer is whole; without it the connection is not used again."""

FEW = 3
"""Answers that are read at once, each token as it comes."""
READS_PER_SECOND = 1200
"""What an actor reads of all its answers together where they are more: a token by itself costs a wake-up, a hundred at once
little more."""
GATHER_SECONDS = (0.0125, 0.025, 0.05, 0.1)
"""How long an answer may be left unread: the first that keeps within the reads. The last is as often as what is read is sent."""


def model_session() -> aiohttp.ClientSession:
    """What a ModelClient asks with. Connections are used again, without a limit of their number."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class ModelClient:
    """Asks one server."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        config: WorkerConfig,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._config = config
        self._sleep = sleep
        self._completions = f"{config.vllm_url}/v1/chat/completions"
        self._models = f"{config.vllm_url}/v1/models"
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_seconds)
        self._reading = 0
        self.model = config.vllm_model
        """Empty until the server was asked."""

    async def complete(
        self,
        spec: JobSpec,
        on_text: Callable[[str], None],
        spent: Optional[Spent] = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """The model's answer; `on_text` gets it piece by piece. Raises ModelError. What it uses is added to `spent`. Once
        `stopped` says so, the model is not asked (again): a cancel that comes together with a time-out is lost otherwise."""
        started = _now()
        spent = spent or Spent()
        attempt = 0
        while True:
            attempt += 1
            stream = _Stream(on_text)
            try:
                await self._run(spec, stream, spent, stopped)
                text = _whole(stream.text)
                if not text.strip():
                    raise ModelError("empty", "the model answered with no text", retryable=False)
                return Answer(text, stream.model or self.model, stream.usage, (stream.first_at or _now()) - started)
            except ModelError as error:
                _raise_if(stopped)
                if not error.retryable or stream.first_at is not None or attempt >= self._config.attempts:
                    raise
                pause = max(error.pause_seconds, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
                log.info("model is asked again", job_id=spec.job_id, kind=error.kind, reason=error.message)
                await self._sleep(min(pause, LONGEST_PAUSE_SECONDS))

    async def named(self) -> str:
        """The model's name, asked of the server where the settings do not say. Raises ModelError."""
        return await self._model()

    async def _run(self, spec: JobSpec, stream: "_Stream", spent: Spent, stopped: Callable[[], bool]) -> None:
        watch = _Watch(self._config.first_token_seconds, self._config.total_seconds)
        try:
            await self._stream(spec, stream, watch, stopped)
        except asyncio.CancelledError as error:
            if not watch.alone():
                raise
            if not stream.finished:  # else the answer is whole, and only the good-bye is missing
                raise self._late(watch.missing) from error
        finally:
            watch.end()
            spent.calls += stream.answered
            spent.usage = spent.usage + stream.usage

    async def _stream(self, spec: JobSpec, stream: "_Stream", watch: "_Watch", stopped: Callable[[], bool]) -> None:
        model = await self._model()
        _raise_if(stopped)
        body: dict[str, Any] = {
            "model": model,
            "messages": spec.messages,
            "max_tokens": spec.max_tokens,
            "temperature": spec.temperature,
            "seed": spec.seed % SEED_SPACE,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if spec.response_schema:
            form = {"name": "answer", "schema": msgspec.Raw(spec.response_schema.encode()), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        watch.wait(self._config.first_token_seconds)
        response = await self._call("POST", self._completions, data=msgspec.json.encode(body), headers=JSON)
        try:
            await self._check(response)
            parser = SseParser()
            watch.missing = "a first token in time"
            self._reading += 1
            try:
                while not stream.done and (chunk := await response.content.readany()):
                    events = _fed(parser, chunk)
                    if events:
                        stream.take(events)
                    if stream.events:
                        watch.wait(self._config.idle_seconds)
                        watch.missing = "another token in time"
                    if self._reading > FEW:
                        await _gathered(response, gather_seconds(self._reading))
            except (aiohttp.ClientError, OSError) as error:
                raise self._broken(stream, error) from error
            finally:
                self._reading -= 1
            if not stream.done and not stream.finished:
                if stream.events == 0:
                    raise ModelError("malformed", "the model's answer is no stream of events", retryable=False)
                raise self._broken(stream, None)
            await _read_out(response)
        finally:
            response.close()  # and its connection, unless it was read to its end

    async def _model(self) -> str:
        if not self.model:
            try:
                listed = await asyncio.wait_for(self._listed(), self._config.connect_seconds * 2)
            except asyncio.TimeoutError as error:
                raise self._late("its list of models in time") from error
            try:
                self.model = str(json.loads(listed)["data"][0]["id"])
            except (ValueError, LookupError, TypeError) as error:
                raise ModelError("malformed", "the model server lists no model: set VLLM_MODEL", False) from error
        return self.model

    async def _listed(self) -> bytes:
        response = await self._call("GET", self._models)
        try:
            await self._check(response)
            return await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    async def _call(self, method: str, url: str, **options: Any) -> aiohttp.ClientResponse:
        # No redirect is followed: the setting is the only address that is asked.
        ask = partial(self._session.request, method, url, timeout=self._timeout, allow_redirects=False, **options)
        try:
            try:
                return await ask()
            except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
                raise
            except aiohttp.ClientConnectionError:
                # The server ended a kept connection as it was used again, before any byte of an answer: asked anew at once.
                return await ask()
        except (aiohttp.ClientError, OSError) as error:  # a time-out is the connection's: no other is set
            raise self._unreachable(error) from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 200:
            return
        try:
            text = (await asyncio.wait_for(response.content.read(500), 2)).decode("utf-8", "replace")
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
            text = ""
        if response.status == 404:
            self.model = self._config.vllm_model  # another model may be served by now
        message = f"the model server answered {response.status} {response.reason or ''}: {' '.join(text.split())[:300]}"
        wait = response.headers.get("Retry-After", "")
        raise ModelError(
            "http", message.rstrip(": "), response.status in RETRY_STATUS, float(wait) if wait.isdecimal() else 0
        )

    def _late(self, missing: str) -> ModelError:
        return ModelError("timeout", f"the model server at {self._config.vllm_url} did not send {missing}", True)

    def _unreachable(self, error: Exception) -> ModelError:
        reason = str(error) or type(error).__name__
        return ModelError("unreachable", f"no model server answers at {self._config.vllm_url}: {reason}", True)

    def _broken(self, stream: "_Stream", error: Optional[Exception]) -> ModelError:
        reason = f": {str(error) or type(error).__name__}" if error else ""
        return ModelError("unreachable", f"the answer broke off after {stream.size} characters{reason}", True)


class _Watch:
    """Cancels the task of a call that has fallen silent, or takes too long altogether. One timer for the whole call: a time-out
    of its own for each wait costs more than the wait.

    It cancels again where that had no effect: `asyncio.wait_for` of Python 3.9 keeps a cancel for itself that comes together
    with what it waits for."""

    def __init__(self, seconds: float, total_seconds: float) -> None:
        self.late = False
        self.missing = f"an answer within {seconds:g} s"
        """What is waited for."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancels = 0
        self._before = self._cancelling()
        self._loop = asyncio.get_running_loop()
        self._total = total_seconds
        self._end = self._loop.time() + total_seconds
        self._until = min(self._loop.time() + seconds, self._end)
        self._timer = self._loop.call_at(self._until, self._look)

    def wait(self, seconds: float) -> None:
        """From now on for so long."""
        self.late = False
        self._until = min(self._loop.time() + seconds, self._end)
        if self._until < self._timer.when():  # a later end is seen when the timer comes
            self._timer.cancel()
            self._timer = self._loop.call_at(self._until, self._look)

    def alone(self) -> bool:
        """Whether a cancel is this one's and nobody else's. Before Python 3.11 a task does not tell who else cancelled it."""
        return self.late and (sys.version_info < (3, 11) or self._cancelling() == self._before + self._cancels)

    def end(self) -> None:
        """Takes its own cancels back."""
        self._timer.cancel()
        if sys.version_info >= (3, 11):
            for _ in range(self._cancels):
                self._task.uncancel()

    def _look(self) -> None:
        now = self._loop.time()
        if now < self._until:
            self._timer = self._loop.call_at(self._until, self._look)
            return
        self.late = True
        if self._until == self._end:
            self.missing = f"an answer within {self._total:g} s"
        self._cancels += 1
        self._task.cancel()
        self._timer = self._loop.call_at(now + AGAIN_SECONDS, self._look)

    def _cancelling(self) -> int:
        return self._task.cancelling() if sys.version_info >= (3, 11) else 0


class _Stream:
    """What has come of an answer so far."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._pieces: list[str] = []
        self.size = 0
        self.events = 0
        self.model = ""
        self.usage = Usage()
        self.first_at: Optional[float] = None
        self.finished = False
        self.done = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def answered(self) -> bool:
        return self.events > 0

    def take(self, events: list[str]) -> None:
        """The data of events that came together: read as one text, and shown as one."""
        self.events += len(events)
        for number, data in enumerate(events):
            if not data.startswith("{") and data.strip() == DONE:
                self.done, events = True, events[:number]
                break
        before = len(self._pieces)
        try:
            for chunk in _read(events):
                self._add(chunk)
        finally:
            if len(self._pieces) > before:
                self.first_at = self.first_at or _now()
                self._on_text("".join(self._pieces[before:]))

    def _add(self, chunk: _Chunk) -> None:
        if chunk.error is not None:
            raise ModelError("http", f"the model server reports: {json.dumps(chunk.error)[:300]}", False)
        if chunk.model:
            self.model = chunk.model
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details or _Details()
            self.usage = Usage(
                prompt=chunk.usage.prompt_tokens or 0,
                completion=chunk.usage.completion_tokens or 0,
                cached=details.cached_tokens or 0,
            )
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        if choice.finish_reason is not None:
            self.finished = True
        text = choice.delta.content
        if text:
            self.size += len(text)
            if self.size > MAX_ANSWER_CHARS:
                raise ModelError("malformed", f"the answer is above {MAX_ANSWER_CHARS} characters", False)
            self._pieces.append(text)


def gather_seconds(answers: int) -> float:
    """How long each of so many answers at once is left unread. One of a few lengths, whose moments all answers share."""
    return next((seconds for seconds in GATHER_SECONDS if answers <= seconds * READS_PER_SECOND), GATHER_SECONDS[-1])


async def _gathered(response: aiohttp.ClientResponse, seconds: float) -> None:
    """Leaves what comes to the kernel until the next such moment. All answers wait for the same one, so that what follows on
    their texts is sent together."""
    connection = response.connection
    if connection is None or connection.protocol is None:
        return  # all of it has come
    protocol = connection.protocol
    protocol.pause_reading()
    try:
        await asyncio.sleep(seconds - _now() % seconds)
    finally:
        protocol.resume_reading()


async def _read_out(response: aiohttp.ClientResponse) -> None:
    """Reads what follows on a whole answer, which is nothing but its end, so that the connection can be used again."""
    with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError):
        if not response.content.at_eof():
            await asyncio.wait_for(response.content.readany(), END_SECONDS)


def _read(events: list[str]) -> Iterable[_Chunk]:
    """What the events say. Where they cannot be read as one text, one is read after another, so that what stands before a bad
    one counts."""
    try:
        chunks = _CHUNK.decode_lines("\n".join(events))
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return _one_by_one(events)
    return chunks if len(chunks) == len(events) else _one_by_one(events)


def _one_by_one(events: list[str]) -> Iterator[_Chunk]:
    for data in events:
        try:
            yield _read_one(data)
        except (ValueError, msgspec.ValidationError, RecursionError) as error:
            raise ModelError("malformed", f"an event of the answer cannot be read: {error}", False) from error


def _read_one(data: str) -> _Chunk:
    try:
        return _CHUNK.decode(data)
    except (msgspec.DecodeError, UnicodeEncodeError):
        # The standard library reads what msgspec refuses: a model may write half of a surrogate pair.
        return msgspec.convert(json.loads(data), _Chunk)


def _fed(parser: SseParser, chunk: bytes) -> list[str]:
    try:
        return parser.feed(chunk)
    except SseError as error:
        raise ModelError("malformed", f"the answer is no stream of events: it holds {error}", False) from error


def _whole(text: str) -> str:
    """Surrogate pairs that came in two pieces are joined; what stays single becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _raise_if(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise asyncio.CancelledError


def _now() -> float:
    return asyncio.get_running_loop().time()
