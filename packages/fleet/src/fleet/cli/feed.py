"""Events as they happen, read from the streams by ephemeral consumers that keep their order over a server's restart.

Each stream has one reader. It remembers the sequence it has read and, when its consumer is gone, makes another that goes on
after it. (The client's own ordered consumer begins at the first message again after a restart, so it is not used.)
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterable

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from fleet_wire import events, topology
from fleet_wire.bus import Bus
from fleet_wire.errors import Invalid

STREAMS = tuple(stream.name for stream in topology.EVENT_STREAMS)
WAITING = 256
"""How many events may wait for who reads them; the readers then pause, so that memory stays bounded."""
IDLE_SECONDS = 60.0
"""After so long without its reader the server removes a consumer that was left behind."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """An event, when the server got it, and where it stands."""

    event: events.Event
    at: dt.datetime
    stream: str
    sequence: int


class Feed:
    """Events of the streams from `since` on (None: from now on). Use as an async context, then `async for` or `next`.

    `report` gets a sentence when something is amiss (a stream is gone, an event cannot be read); reading goes on.
    """

    def __init__(
        self,
        bus: Bus,
        since: dt.datetime | None = None,
        streams: Iterable[str] = STREAMS,
        report: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._bus = bus
        self._since = since
        self._readers = [_Reader(bus, stream, since, report) for stream in streams]
        self._queue: asyncio.Queue[Seen] = asyncio.Queue(WAITING)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Feed":
        """Returns when every stream that can be reached has its consumer: what happens after is seen."""
        self._tasks = [asyncio.create_task(reader.run(self._queue)) for reader in self._readers]
        for reader in self._readers:
            await reader.begun.wait()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(reader.close() for reader in self._readers))

    async def next(self, timeout: float | None = None) -> Seen | None:
        """The next event, or None after `timeout` seconds without one. Raises what ended a reader."""
        waiting = asyncio.ensure_future(self._queue.get())
        try:
            await asyncio.wait({waiting, *self._tasks}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            for task in self._tasks:
                if task.done():
                    task.result()
            return None
        finally:
            waiting.cancel()

    async def __aiter__(self) -> AsyncIterator[Seen]:
        while True:
            seen = await self.next()
            if seen is not None:
                yield seen

    @property
    def caught_up(self) -> bool:
        """Whether everything that the streams held so far has been handed out."""
        return self._queue.empty() and all(reader.caught_up for reader in self._readers)


class _Reader:
    def __init__(self, bus: Bus, stream: str, since: dt.datetime | None, report: Callable[[str], None]) -> None:
        self.begun = asyncio.Event()
        self.caught_up = False
        self._bus = bus
        self._stream = stream
        self._since = since
        self._report = report
        self._last = 0
        self._name = ""
        self._complaint = ""

    async def run(self, queue: asyncio.Queue[Seen]) -> None:
        subscription: JetStreamContext.PullSubscription | None = None
        while True:
            message = None
            try:
                if subscription is None:
                    subscription = await self._subscribe()
                    self.begun.set()
                    self._complain("")
                # One second: a fetch that a server restart leaves without an answer ends by itself.
                [message] = await subscription.fetch(1, timeout=1)
            except nats.errors.TimeoutError:
                if subscription is not None and not (self._bus.connected and await self._exists()):
                    subscription = None
            except (nats.errors.Error, nats.js.errors.APIError) as error:
                self._complain(f"{self._stream} cannot be read now: {str(error) or type(error).__name__}")
                subscription = None
            if message is not None:
                await self._take(message, queue)
            elif subscription is None:
                self.begun.set()
                await asyncio.sleep(0.5)

    async def close(self) -> None:
        if self._name and self._bus.connected:
            with contextlib.suppress(nats.errors.Error, nats.js.errors.APIError):
                await self._bus.js.delete_consumer(self._stream, self._name)

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        state = (await self._bus.js.stream_info(self._stream)).state
        if self._last > state.last_seq:
            self._last = 0  # the stream was made anew: memory storage does not outlive its server
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE, mem_storage=True, num_replicas=1, inactive_threshold=IDLE_SECONDS
        )
        if self._last:
            config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, self._last + 1
        elif self._since is not None:
            config.deliver_policy, config.opt_start_time = DeliverPolicy.BY_START_TIME, self._since
        else:
            config.deliver_policy = DeliverPolicy.NEW
            # What a first consumer of new messages would miss while it is away, the next one must not.
            self._since = dt.datetime.now(dt.timezone.utc)
        info = await self._bus.js.add_consumer(self._stream, config)
        self._name = info.name
        self.caught_up = not info.num_pending
        return await self._bus.js.pull_subscribe_bind(consumer=info.name, stream=self._stream)

    async def _exists(self) -> bool:
        """Asked after an empty second: a consumer that is gone is silent like one with nothing to do."""
        try:
            info = await self._bus.js.consumer_info(self._stream, self._name)
        except (nats.errors.Error, nats.js.errors.APIError):  # gone, or not to be asked: made anew either way
            return False
        self.caught_up = not info.num_pending
        return True

    async def _take(self, message: Msg, queue: asyncio.Queue[Seen]) -> None:
        metadata = message.metadata
        self._last = metadata.sequence.stream
        try:
            event = events.decode(message.subject, message.data)
        except Invalid as error:
            self._report(f"{self._stream} {self._last} on {message.subject[:100]} cannot be read: {error}")
        else:
            await queue.put(Seen(event, metadata.timestamp, self._stream, self._last))
        self.caught_up = not metadata.num_pending

    def _complain(self, sentence: str) -> None:
        if sentence and sentence != self._complaint:
            self._report(sentence)
        self._complaint = sentence
