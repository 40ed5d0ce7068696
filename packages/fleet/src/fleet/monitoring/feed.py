"""The events, live: one ephemeral ordered consumer a stream, first some history, then what comes.

Each follows its stream for ever. It makes its consumer anew, and goes on where it was, when a message is missing in the
consumer's count, when the consumer is gone (a server restart loses it), and when the stream was removed; a stream that was
made again is read from its beginning. The client's own ordered consumer notices none of the last three for ten seconds, and
never that a stream was made again; so the order is kept here.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
from collections.abc import Callable

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from fleet.monitoring.domain import Seen
from fleet_wire import clock, events
from fleet_wire.bus import Bus
from fleet_wire.errors import Invalid

log = structlog.get_logger(__name__)

DAY = dt.timedelta(hours=24)
HISTORY_MESSAGES = 2000
"""Messages of each stream read at start, at most; the board keeps fewer."""
PENDING_MESSAGES = 20_000
PENDING_BYTES = 64 * 1024 * 1024
"""What may wait here of one stream; the client drops what is beyond, and it is read again."""
QUIET_SECONDS = 1.0
"""After that long without a message the consumer is asked whether it is still there."""
LONGEST_PAUSE_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Followed:
    """A stream and how far back its history is read; None reads only what is new."""

    stream: str
    subject: str
    history: dt.timedelta | None


FOLLOWED = (
    Followed("PLANNING_EVENTS", "planning.>", DAY),
    Followed("ORCHESTRATOR_EVENTS", "orchestration.>", DAY),
    Followed("CONTEXT_EVENTS", "context.>", DAY),
    Followed("AGENT_RESULTS", "agent.results.>", DAY),
    Followed("VLLM_STREAMING", "vllm.streaming.>", None),
)

Take = Callable[[Seen], None]
Report = Callable[[str | None], None]
Clock = Callable[[], dt.datetime]


@dataclasses.dataclass
class _Place:
    """Where a follower is: the stream's own identity (when it was made) and the last sequence it has read."""

    made: dt.datetime | None = None
    sequence: int = 0


class _Gone(Exception):
    """The consumer can no longer be read from; the text says why."""


class Follower:
    """Reads one stream. `report` gets None while it is live, else a sentence on what is missing."""

    def __init__(self, bus: Bus, followed: Followed, take: Take, report: Report, now: Clock = clock.now) -> None:
        self._bus = bus
        self._followed = followed
        self._take = take
        self._report = report
        self._now = now
        self._place = _Place()
        self._since = dt.datetime.min.replace(tzinfo=dt.timezone.utc)

    async def run(self, stop: asyncio.Event) -> None:
        """Follows until `stop` is set or it is cancelled."""
        pause = 0.1
        while not stop.is_set():
            subscription: JetStreamContext.PushSubscription | None = None
            try:
                subscription = await self._subscribe()
                pause = 0.1
                await self._read(subscription, stop)
            except _Gone as gone:
                self._report(str(gone))
            except nats.js.errors.NotFoundError:
                self._report(f"{self._followed.stream} does not exist (run `fleet streams apply`)")
            except (nats.errors.Error, nats.js.errors.Error, TimeoutError) as error:
                self._report(f"{self._followed.stream} cannot be read: {error or type(error).__name__}")
            finally:
                if subscription is not None:
                    with contextlib.suppress(nats.errors.Error):
                        await subscription.unsubscribe()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _subscribe(self) -> JetStreamContext.PushSubscription:
        followed, place = self._followed, self._place
        info = await self._bus.js.stream_info(followed.stream)
        last = info.state.last_seq
        if place.made != info.created or place.sequence > last:
            new_only = followed.history is None and place.made is None
            self._since = self._now() - (followed.history or DAY)
            place.made = info.created
            place.sequence = last if new_only else max(info.state.first_seq - 1, last - HISTORY_MESSAGES, 0)
        config = ConsumerConfig(
            description="the dashboard's",
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=place.sequence + 1,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=30,
        )
        subscription = await self._bus.js.subscribe(
            followed.subject,
            stream=followed.stream,
            config=config,
            pending_msgs_limit=PENDING_MESSAGES,
            pending_bytes_limit=PENDING_BYTES,
        )
        if place.sequence >= last:
            self._report(None)
        return subscription

    async def _read(self, subscription: JetStreamContext.PushSubscription, stop: asyncio.Event) -> None:
        expected, missed = 1, 0
        while not stop.is_set():
            try:
                message = await subscription.next_msg(timeout=QUIET_SECONDS)
            except nats.errors.TimeoutError:
                # Twice in a row: the first time it may still be on its way.
                missed = missed + 1 if await self._misses(subscription, expected) else 0
                if missed > 1:
                    raise _Gone(
                        f"{self._followed.stream}: messages from {expected} on were missed, reading again"
                    ) from None
                continue
            count = message.metadata.sequence.consumer
            if count != expected:
                raise _Gone(f"{self._followed.stream}: messages {expected} to {count - 1} were missed, reading again")
            expected += 1
            self._took(message)
            if not message.metadata.num_pending:
                self._report(None)
            if expected % 50 == 0:
                await asyncio.sleep(0)  # a long history must not hold up the pages

    async def _misses(self, subscription: JetStreamContext.PushSubscription, expected: int) -> bool:
        """Asked after silence, since a consumer that is gone is silent like one with nothing to say. Answers whether the
        server has sent more than came here."""
        if not self._bus.connected:
            self._report("NATS is not connected")
            return False
        try:
            info = await subscription.consumer_info()
        except nats.js.errors.NotFoundError as error:
            raise _Gone(f"{self._followed.stream} or the consumer on it is gone, reading again") from error
        if info.delivered and info.delivered.consumer_seq >= expected:
            return True
        if not info.num_pending:
            self._report(None)
        return False

    def _took(self, message: Msg) -> None:
        sequence, at = message.metadata.sequence.stream, message.metadata.timestamp
        self._place.sequence = sequence
        if at < self._since:
            return
        event, reason = None, ""
        try:
            event = events.decode(message.subject, message.data)
        except Invalid as error:
            reason = str(error)
        self._take(Seen(self._followed.stream, sequence, message.subject, at, self._now(), event, reason))


async def follow_all(bus: Bus, take: Take, report: Callable[[str, str | None], None], stop: asyncio.Event) -> None:
    """Follows every stream of FOLLOWED until `stop`; `report(stream, reason)` tells of each."""

    def reporter(stream: str) -> Report:
        return lambda reason: report(stream, reason)

    async with asyncio.TaskGroup() as group:
        for followed in FOLLOWED:
            group.create_task(Follower(bus, followed, take, reporter(followed.stream)).run(stop))
