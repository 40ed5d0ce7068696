"""The connection to NATS: publish events with derived ids and retries, end with the connection."""

import asyncio
import datetime as dt
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Optional, TypeVar

import msgspec
import nats
import nats.errors
import nats.js.errors
import stamina
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext

from fleet_wire import clock, events, logs, tracing
from fleet_wire.acks import Acks, as_one
from fleet_wire.errors import Conflict, Invalid, Unavailable

log = structlog.get_logger(__name__)

TRANSIENT = (
    nats.errors.TimeoutError,
    nats.errors.NoServersError,
    nats.errors.NoRespondersError,
    nats.errors.ConnectionClosedError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.OutboundBufferLimitError,
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServiceUnavailableError,
)
"""What a NATS call raises while the server, its JetStream or a stream is away for the moment."""

SCHEDULE_SUBJECT = "timers.schedule"

WRONG_LAST_SEQUENCE = (10071, 10164)
NO_MESSAGE = 10037
"""What JetStream's API says by number: another message than the expected one was the last; there is no such message."""


T = TypeVar("T")


async def patiently(call: Callable[[], Awaitable[T]], attempts: Optional[int], seconds: float, longest: float) -> T:
    """Calls once, and again with back-off (50 ms, doubled up to `longest` seconds) while NATS is away, for at most so many
    attempts more and so many seconds; then raises what the last one did.

    The first call goes without the machinery of retries, which costs more than a call that succeeds.
    """
    try:
        return await call()
    except TRANSIENT:
        return await stamina.AsyncRetryingCaller(
            attempts=attempts, timeout=seconds, wait_initial=0.05, wait_max=longest
        )(TRANSIENT, call)


def reason_of(error: BaseException) -> str:
    """What an error says, or its name where it says nothing."""
    return str(error) or type(error).__name__


class Bus:
    """A connection that never gives up reconnecting. `closed` is set when it ended all the same: end the process then."""

    def __init__(self, client: Client, source: str, closed: asyncio.Event) -> None:
        self.client = client
        self.js: JetStreamContext = client.jetstream(timeout=5)
        self.ack_seconds = 5.0
        """How long `append` waits, unless told otherwise."""
        self._acks = Acks(client)
        self.source = source
        self.closed = closed

    @property
    def connected(self) -> bool:
        """Whether the server can be reached right now."""
        return bool(self.client.is_connected)

    async def publish(
        self,
        event: events.Event,
        timeout: dt.timedelta = dt.timedelta(seconds=30),
        after: Optional[int] = None,
        *,
        redacted: bool = False,
    ) -> int:
        """Publishes with acknowledgement and answers with the stream's sequence.

        Tries again under the same message id until `timeout`; then raises Unavailable. The server drops repetitions within
        its two minutes, consumers recognise later ones by the ids in the body. With `after` the event is only taken as the
        one that follows on that sequence; raises Conflict where another is there already. `redacted` is as in `events.encode`.
        """
        headers = self.headers(event)
        if after is not None:
            headers["Nats-Expected-Last-Sequence"] = str(after)
        try:
            return await self._publish(
                event.subject(), event, events.encode(event, redacted=redacted), headers, timeout
            )
        except nats.js.errors.APIError as error:
            if error.err_code in WRONG_LAST_SEQUENCE:
                raise Conflict(f"{event.message_id()} does not follow on {after}: another event does") from error
            raise

    async def append(
        self, subject: str, body: bytes, headers: Mapping[str, str], seconds: Optional[float] = None
    ) -> int:
        """Publishes once, with acknowledgement, and answers with the stream's sequence. Raises one of TRANSIENT, or APIError."""
        return await self._acks.publish(subject, body, headers, seconds or self.ack_seconds)

    async def last(self, stream: str) -> tuple[int, str]:
        """The sequence of a stream's last message, 0 where there never was one, and its message id, empty where it is gone.
        Raises Unavailable."""
        try:
            sequence = (await self.js.stream_info(stream)).state.last_seq
            headers = (await self.js.get_msg(stream, sequence)).headers if sequence else None
        except nats.js.errors.NotFoundError as error:
            if error.err_code == NO_MESSAGE:
                return sequence, ""
            raise Unavailable(f"stream {stream} does not exist: run `fleet streams apply`") from error
        except TRANSIENT as error:
            raise Unavailable(f"stream {stream} cannot be reached: {reason_of(error)}") from error
        return sequence, (headers or {}).get("Nats-Msg-Id", "")

    async def schedule(
        self, event: events.Event, at: dt.datetime, timeout: dt.timedelta = dt.timedelta(seconds=30)
    ) -> int:
        """Has the server publish the event at a moment; a later call with the same key replaces the earlier one."""
        headers = self.headers(event)
        del headers["Nats-Msg-Id"]  # a replacement within the two minutes must not be dropped as a repetition
        moment = at.astimezone(dt.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        headers["Nats-Schedule"] = f"@at {moment}"
        headers["Nats-Schedule-Target"] = event.subject()
        headers["Nats-Schedule-TTL"] = "24h"  # what was delivered need not stay
        return await self._publish(f"{SCHEDULE_SUBJECT}.{event.key()}", event, events.encode(event), headers, timeout)

    async def unschedule(self, key: str) -> None:
        """Takes a scheduled event back, if it has not been published; sent as `discard` is."""
        await self.discard("FLEET_TIMERS", f"{SCHEDULE_SUBJECT}.{key}")

    async def discard(self, stream: str, subject: str, upto: int = 0) -> None:
        """Has the server remove what a stream holds of a subject, up to that sequence where one is given; sent as `send` does.
        Nobody is told, and nothing stays in its place. To wait for the answer costs both ends three times as much."""
        request = {"filter": subject, **({"seq": upto + 1} if upto else {})}
        await self.send(f"$JS.API.STREAM.PURGE.{stream}", msgspec.json.encode(request))

    async def publish_core(self, event: events.Event, *, redacted: bool = False) -> None:
        """Publishes without acknowledgement, as `send` does. `redacted` is as in `events.encode`."""
        await self.send(event.subject(), events.encode(event, redacted=redacted), self.headers(event))

    async def send(self, subject: str, body: bytes, headers: Optional[Mapping[str, str]] = None) -> None:
        """Sends without acknowledgement, after all that was sent before; what the server does not get is lost. Raises
        Unavailable where the connection has ended or its buffer is full."""
        try:
            await self.client.publish(subject, body, headers=as_one(headers) if headers else None)
        except TRANSIENT as error:
            raise Unavailable(f"{subject} could not be sent to: {reason_of(error)}") from error

    def headers(self, event: events.Event) -> dict[str, str]:
        """Message id, CloudEvents attributes and trace context of an event."""
        message_id = event.message_id()
        return {
            "Nats-Msg-Id": message_id,
            "ce-specversion": "1.0",
            "ce-id": message_id,
            "ce-type": event.TYPE,
            "ce-source": self.source,
            "ce-time": clock.now().isoformat(),
            "ce-subject": event.key(),
            "traceparent": tracing.traceparent(message_id),
        }

    async def close(self) -> None:
        """Flushes and closes; safe to call twice."""
        if not self.client.is_closed:
            try:
                await self.client.flush(timeout=2)
            except (nats.errors.Error, OSError, asyncio.TimeoutError) as error:
                log.warning("closing without flush", error=reason_of(error))
            try:
                await self.client.close()
            except (OSError, TypeError) as error:  # the server went first; TypeError is how asyncio of 3.13 says it
                log.warning("closed without its last words", error=reason_of(error))

    async def _publish(
        self, subject: str, event: events.Event, body: bytes, headers: dict[str, str], timeout: dt.timedelta
    ) -> int:
        seconds = timeout.total_seconds()
        try:
            return await patiently(
                lambda: self.append(subject, body, headers, min(seconds, 2)),
                attempts=None,
                seconds=seconds,
                longest=2.0,
            )
        except TRANSIENT as error:
            raise Unavailable(f"{event.message_id()} could not be published: {reason_of(error)}") from error


async def connect(url: str, service: str, creds: Optional[str] = None, wait: Optional[dt.timedelta] = None) -> Bus:
    """Connects, waiting for a server that is not up yet: for ever, or for `wait` (then raises Unavailable).

    Raises Invalid where the file of credentials cannot be read: waiting would not mend it.
    """
    if creds and not os.access(creds, os.R_OK):
        raise Invalid(f"NATS_CREDS names {creds}, which cannot be read")
    closed = asyncio.Event()
    shown = logs.hide_passwords(url)

    async def on_closed() -> None:
        closed.set()

    async def on_disconnected() -> None:
        if not client.is_closed:
            log.warning("nats disconnected", url=shown)

    async def on_reconnected() -> None:
        log.info("nats reconnected", url=shown)

    async def on_error(error: Exception) -> None:
        log.warning("nats error", error=reason_of(error))

    # A fraction works, though the client's annotation says int.
    options: dict[str, Any] = {"reconnect_time_wait": 0.25, **({"user_credentials": creds} if creds else {})}
    try:
        async for attempt in stamina.retry_context(
            on=(nats.errors.Error, OSError),
            attempts=None,
            timeout=wait.total_seconds() if wait else None,
            wait_initial=0.1,
            wait_max=2.0,
        ):
            with attempt:
                client = Client()
                await client.connect(
                    servers=url.split(","),
                    name=service,
                    connect_timeout=2,
                    allow_reconnect=True,
                    max_reconnect_attempts=1 if wait else -1,
                    closed_cb=on_closed,
                    disconnected_cb=on_disconnected,
                    reconnected_cb=on_reconnected,
                    error_cb=on_error,
                    **options,
                )
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(f"no NATS server answers at {shown}: {reason_of(error)}") from error
    closed.clear()
    client.options["max_reconnect_attempts"] = -1
    return Bus(client, f"fleet/{service}", closed)
