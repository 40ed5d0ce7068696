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
from collections.abc import Awaitable, Callable
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


class _Delta(msgspec.Struct):
    content: Optional[str] = None


class _Choice(msgspec.Struct):
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


KEPT_SECONDS = 3.0
"""How long a connection is kept for the next call: less than the five seconds after which vLLM ends an idle one."""
END_SECONDS = 0.05
"""How long the end of a response is waited for when the answer is whole; without it the connection is not used again."""

FEW = 3
"""Answers that are read at once, each token as it comes."""
GATHER_SECONDS = 0.05
"""How often each answer is read where they are more: a token by itself costs a wake-up, a hundred at once little more."""


def model_session() -> aiohttp.ClientSession:
    """What a ModelClient asks with. Connections are used again, without a limit of their number."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS))


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
        self._reading = 0
        self.model = config.vllm_model
        """Empty until the server was asked."""

    async def complete(self, spec: JobSpec, on_text: Callable[[str], None], spent: Optional[Spent] = None) -> Answer:
        """The model's answer; `on_text` gets it piece by piece. Raises ModelError. What it uses is added to `spent`."""
        started = _now()
        spent = spent or Spent()
        attempt = 0
        while True:
            attempt += 1
            stream = _Stream(on_text)
            try:
                await self._run(spec, stream, spent)
                text = _whole(stream.text)
                if not text.strip():
                    raise ModelError("empty", "the model answered with no text", retryable=False)
                return Answer(text, stream.model or self.model, stream.usage, (stream.first_at or _now()) - started)
            except ModelError as error:
                if not error.retryable or stream.first_at is not None or attempt >= self._config.attempts:
                    raise
                pause = max(error.pause_seconds, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
                log.info("model is asked again", job_id=spec.job_id, kind=error.kind, reason=error.message)
                await self._sleep(min(pause, LONGEST_PAUSE_SECONDS))

    async def named(self) -> str:
        """The model's name, asked of the server where the settings do not say. Raises ModelError."""
        return await self._model()

    async def _run(self, spec: JobSpec, stream: "_Stream", spent: Spent) -> None:
        try:
            await asyncio.wait_for(self._stream(spec, stream, spent), self._config.total_seconds)
        except asyncio.TimeoutError as error:
            raise self._late(f"an answer within {self._config.total_seconds:g} s") from error
        finally:
            spent.calls += stream.answered
            spent.usage = spent.usage + stream.usage

    async def _stream(self, spec: JobSpec, stream: "_Stream", spent: Spent) -> None:
        body: dict[str, Any] = {
            "model": await self._model(),
            "messages": msgspec.to_builtins(spec.messages),
            "max_tokens": spec.max_tokens,
            "temperature": spec.temperature,
            "seed": spec.seed % SEED_SPACE,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if spec.response_schema:
            form = {"name": "answer", "schema": json.loads(spec.response_schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        begun = _now()
        response = await self._call("POST", "/v1/chat/completions", self._config.first_token_seconds, json=body)
        try:
            await self._check(response)
            parser = SseParser()
            watch = _Watch(response, self._config.first_token_seconds - (_now() - begun))
            self._reading += 1
            try:
                while not stream.done and (chunk := await response.content.readany()):
                    for data in _fed(parser, chunk):
                        stream.take(data)
                    if stream.events:
                        watch.wait(self._config.idle_seconds)
                    if self._reading > FEW:
                        await _gathered(response)
            except (aiohttp.ClientError, OSError) as error:
                if not watch.late:
                    raise self._broken(stream, error) from error
                if not stream.finished:  # else the answer is whole, and only the good-bye is missing
                    raise self._late(f"{'another' if stream.events else 'a first'} token in time") from error
                return
            finally:
                self._reading -= 1
                watch.end()
            if not stream.done and not stream.finished:
                if stream.events == 0:
                    raise ModelError("malformed", "the model's answer is no stream of events", retryable=False)
                raise self._broken(stream, None)
            await _read_out(response)
        finally:
            response.close()  # and its connection, unless it was read to its end

    async def _model(self) -> str:
        if not self.model:
            response = await self._call("GET", "/v1/models", self._config.connect_seconds * 2)
            try:
                await self._check(response)
                listed = await asyncio.wait_for(response.read(), self._config.connect_seconds * 2)
            except asyncio.TimeoutError as error:
                raise self._late("its list of models in time") from error
            except (aiohttp.ClientError, OSError) as error:
                raise self._unreachable(error) from error
            finally:
                response.close()
            try:
                self.model = str(json.loads(listed)["data"][0]["id"])
            except (ValueError, LookupError, TypeError) as error:
                raise ModelError("malformed", "the model server lists no model: set VLLM_MODEL", False) from error
        return self.model

    async def _call(self, method: str, path: str, seconds: float, **options: Any) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._config.connect_seconds)
        url = self._config.vllm_url + path
        # No redirect is followed: the setting is the only address that is asked.
        ask = partial(self._session.request, method, url, timeout=timeout, allow_redirects=False, **options)
        try:
            try:
                return await asyncio.wait_for(ask(), seconds)
            except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
                raise
            except aiohttp.ClientConnectionError:
                # The server ended a kept connection as it was used again, before any byte of an answer: asked anew at once.
                return await asyncio.wait_for(ask(), seconds)
        except aiohttp.ServerTimeoutError as error:  # of the connection: no other is set in `timeout`
            raise self._unreachable(error) from error
        except asyncio.TimeoutError as error:
            raise self._late(f"an answer within {seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
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
    """Ends a response that has fallen silent. One timer for the whole answer: a time-out of its own for each read costs more
    than the read."""

    def __init__(self, response: aiohttp.ClientResponse, seconds: float) -> None:
        self.late = False
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._until, self._look)

    def wait(self, seconds: float) -> None:
        """From now on for so long."""
        self._until = self._loop.time() + seconds

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        if self._loop.time() < self._until:
            self._timer = self._loop.call_at(self._until, self._look)
        else:
            self.late = True
            self._response.close()  # whoever reads gets an error


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

    def take(self, data: str) -> None:
        """One event's data."""
        self.events += 1
        if data.strip() == "[DONE]":
            self.done = True
            return
        try:
            chunk = _read(data)
        except (ValueError, msgspec.ValidationError, RecursionError) as error:
            raise ModelError("malformed", f"an event of the answer cannot be read: {error}", False) from error
        if chunk.error is not None:
            raise ModelError("http", f"the model server reports: {json.dumps(chunk.error)[:300]}", False)
        self.model = chunk.model or self.model
        if chunk.usage is not None:
            details = chunk.usage.prompt_tokens_details or _Details()
            self.usage = Usage(
                prompt=chunk.usage.prompt_tokens or 0,
                completion=chunk.usage.completion_tokens or 0,
                cached=details.cached_tokens or 0,
            )
        for choice in chunk.choices[:1]:
            self.finished = self.finished or choice.finish_reason is not None
            text = choice.delta.content
            if text:
                self.first_at = self.first_at or _now()
                self.size += len(text)
                if self.size > MAX_ANSWER_CHARS:
                    raise ModelError("malformed", f"the answer is above {MAX_ANSWER_CHARS} characters", False)
                self._pieces.append(text)
                self._on_text(text)


async def _gathered(response: aiohttp.ClientResponse) -> None:
    """Leaves what comes to the kernel for a while. All answers wait for the same moment, so that what follows on their texts
    is sent together."""
    connection = response.connection
    if connection is None or connection.protocol is None:
        return  # all of it has come
    protocol = connection.protocol
    protocol.pause_reading()
    try:
        await asyncio.sleep(GATHER_SECONDS - _now() % GATHER_SECONDS)
    finally:
        protocol.resume_reading()


async def _read_out(response: aiohttp.ClientResponse) -> None:
    """Reads what follows on a whole answer, which is nothing but its end, so that the connection can be used again."""
    with contextlib.suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError):
        if not response.content.at_eof():
            await asyncio.wait_for(response.content.readany(), END_SECONDS)


def _read(data: str) -> _Chunk:
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


def _now() -> float:
    return asyncio.get_running_loop().time()
