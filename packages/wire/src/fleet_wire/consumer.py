"""A durable pull consumer: takes only what it can work on, acknowledges last, and never loses or loops on a bad message."""

import asyncio
import base64
import contextlib
import dataclasses
import datetime as dt
import json
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Optional

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from fleet_wire import events, topology, tracing
from fleet_wire.bus import TRANSIENT, Bus, reason_of
from fleet_wire.errors import AlreadyExists, Conflict, Invalid, NotFound, Precondition, Unavailable
from fleet_wire.pull import Pull
from fleet_wire.redaction import redact

log = structlog.get_logger(__name__)

HOPELESS = (Invalid, NotFound, AlreadyExists, Precondition)
"""Errors that no repetition mends: the message goes to DEAD_LETTERS at once."""
PASSING = (Unavailable, Conflict)
"""Errors that say nothing about the message: it comes again, and they are not counted."""
FIRST_DELAY = dt.timedelta(milliseconds=200)
LONGEST_DELAY = dt.timedelta(seconds=15)
MAX_FAILURES = 5
"""Unforeseen errors on one message before it goes to DEAD_LETTERS. Counted per process; a restart begins anew."""
FETCH_SECONDS = 5.0
"""How long one request for messages stands."""
LOOK_SECONDS = 1.0
"""How often it is looked whether the request still stands: a server may forget it without a word."""
MAX_RECORDS = 10_000
"""Messages whose tries are remembered."""

Handler = Callable[[events.Event], Awaitable[None]]


@dataclasses.dataclass
class _Record:
    tries: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)


def delay(tries: int) -> dt.timedelta:
    """How long a message waits after its `tries`-th try without success: doubling from FIRST_DELAY to LONGEST_DELAY."""
    return min(FIRST_DELAY * float(2 ** min(tries - 1, 10)), LONGEST_DELAY)


class DurableConsumer:
    """Runs a handler on every event of one durable. `report` gets a sentence while it cannot fetch, None when it can."""

    def __init__(
        self,
        bus: Bus,
        spec: topology.Consumer,
        handler: Handler,
        report: Callable[[Optional[str]], None] = lambda reason: None,
    ) -> None:
        self._bus = bus
        self._spec = spec
        self._handler = handler
        self._report = report
        self._pull: Optional[Pull] = None
        self._news = asyncio.Event()
        self._stopping = False
        self._working: dict[asyncio.Task[None], Msg] = {}
        self._records: dict[int, _Record] = {}
        self._log = log.bind(consumer=spec.durable)

    async def run(self, stop: asyncio.Event, grace: dt.timedelta = dt.timedelta(seconds=10)) -> None:
        """Works until `stop` is set, then finishes what it has begun within `grace`. Whatever is cut off comes again."""
        helpers = [asyncio.create_task(self._send_progress()), asyncio.create_task(self._look_again())]
        stopped = asyncio.create_task(stop.wait())
        stopped.add_done_callback(lambda _: self._news.set())
        try:
            while not stop.is_set():
                try:
                    await self._fetch()
                except nats.errors.Error as error:
                    self._report(f"{self._spec.durable} cannot fetch: {reason_of(error)}")
                    await self._drop()
                    await asyncio.sleep(0.5)
            self._stopping = True
            if self._pull is not None:
                with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                    await asyncio.wait_for(self._pull.drain(), 2)
            if self._working:
                await asyncio.wait(list(self._working), timeout=grace.total_seconds())
        finally:
            for helper in (*helpers, stopped):
                helper.cancel()
            try:
                await self._drop()  # first: what is handed back must not come to this one again
            finally:
                await self._cut_off()

    async def _fetch(self) -> None:
        """Asks for as much as there is room for, and waits until that has come, or is to be looked after. Raises
        nats.errors.Error where the consumer cannot be had."""
        self._news.clear()
        if self._pull is None:
            self._pull = await self._subscribe()
        room = self._spec.concurrency - len(self._working)
        if room and not self._pull.left and not self._pull.refusal:
            await self._pull.ask(room, FETCH_SECONDS)
        await self._news.wait()
        if not self._bus.connected:
            self._report("NATS is not connected")
        elif self._pull.lost or self._pull.refusal:
            if not await self._exists():
                self._records.clear()  # a stream made anew counts its sequence from 1
            if self._pull.refusal:
                raise nats.errors.Error(self._pull.refusal)
            await self._drop()
        elif not self._pull.left:
            self._report(None)

    def _take(self, message: Msg) -> None:
        task = asyncio.create_task(self._hand_back(message) if self._stopping else self._work(message))
        self._working[task] = message
        task.add_done_callback(self._done)

    async def _hand_back(self, message: Msg) -> None:
        """For another replica, which need not wait for it."""
        with contextlib.suppress(nats.errors.Error):
            await message.nak()

    async def _cut_off(self) -> None:
        """Ends what has not finished, and hands its messages back so that another replica need not wait for them."""
        cut = dict(self._working)
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        for task, message in cut.items():
            if task.cancelled():
                await self._hand_back(message)

    async def _drop(self) -> None:
        if self._pull is not None:
            await self._pull.close()
            self._pull = None

    async def _subscribe(self) -> Pull:
        spec = self._spec
        config = ConsumerConfig(
            durable_name=spec.durable,
            filter_subject=spec.filter,
            deliver_policy=DeliverPolicy.ALL if spec.deliver == "all" else DeliverPolicy.NEW,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=spec.ack_wait.total_seconds(),
            max_deliver=-1,
            max_ack_pending=1000,
        )
        await self._bus.js.add_consumer(spec.stream, config)
        self._report(None)
        return Pull(self._bus, spec.stream, spec.durable, self._take, self._news.set)

    async def _exists(self) -> bool:
        """Asked where a request was lost: a consumer that was removed is silent."""
        try:
            await self._bus.js.consumer_info(self._spec.stream, self._spec.durable)
        except nats.js.errors.NotFoundError:
            self._report(f"{self._spec.stream} or its consumer {self._spec.durable} is gone")
            return False
        except nats.errors.Error as error:
            self._log.info("cannot ask for the consumer", error=reason_of(error))
            return True
        self._report(None)
        return True

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._working.pop(task, None)
        if self._pull is not None and not self._pull.left:
            self._news.set()
        if not task.cancelled() and task.exception() is not None:
            self._log.error("message left for its redelivery", exc_info=task.exception())

    async def _work(self, message: Msg) -> None:
        sequence = sequence_of(message)
        record = self._records.pop(sequence, None) or _Record()
        self._records[sequence] = record  # the newest stands last
        while len(self._records) > MAX_RECORDS:  # another replica may have finished what this one failed at
            del self._records[next(iter(self._records))]
        record.tries += 1
        try:
            with tracing.continued(message.headers):
                await self._handler(events.decode(message.subject, message.data))
        except HOPELESS as error:
            await self._bury(message, record, f"{type(error).__name__}: {error}")
        except PASSING as error:
            self._log.info("again later", sequence=sequence, tries=record.tries, reason=str(error))
            await message.nak(delay=delay(record.tries).total_seconds())
        except Exception as error:  # noqa: BLE001 (what no handler foresaw is counted, and in the end buried)
            record.failures.append(f"{type(error).__name__}: {error}")
            self._log.exception("handler failed", sequence=sequence, failures=len(record.failures))
            if len(record.failures) >= MAX_FAILURES:
                await self._bury(message, record, record.failures[-1])
            else:
                await message.nak(delay=delay(record.tries).total_seconds())
        else:
            await message.ack()
            self._records.pop(sequence, None)

    async def _bury(self, message: Msg, record: _Record, reason: str) -> None:
        """Copies the message to DEAD_LETTERS, then terminates it. Where the copy fails it stays, and comes again."""
        sequence = sequence_of(message)
        subject = f"dead.{self._spec.stream}.{self._spec.durable}"
        body = json.dumps(
            {
                "stream": self._spec.stream,
                "consumer": self._spec.durable,
                "sequence": sequence,
                "subject": message.subject,
                "reason": redact(reason[:4000]),
                "failures": [redact(failure[:1000]) for failure in record.failures],
                "deliveries": message.metadata.num_delivered,
                "headers": {key[:200]: value[:1000] for key, value in islice((message.headers or {}).items(), 50)},
                **_payload(message.data),
            }
        ).encode()
        headers = {"Nats-Msg-Id": f"{self._spec.durable}:{self._spec.stream}:{sequence}"}
        try:
            await self._bus.append(subject, body, headers)
        except TRANSIENT as error:
            self._log.warning("no dead letter yet", sequence=sequence, error=reason_of(error))
            await message.nak(delay=delay(record.tries).total_seconds())
            return
        await message.term()
        self._records.pop(sequence, None)
        self._log.warning("dead letter", sequence=sequence, subject=message.subject, reason=reason)

    async def _look_again(self) -> None:
        """One clock for all waits: a time-out for each, of which there is one a message, costs more than the rest of the wait."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._news.set()

    async def _send_progress(self) -> None:
        """Tells the server, twice per ack wait, that what is being worked on is."""
        while True:
            await asyncio.sleep(self._spec.ack_wait.total_seconds() / 2)
            for message in list(self._working.values()):
                with contextlib.suppress(nats.errors.Error):
                    await message.in_progress()


def sequence_of(message: Msg) -> int:
    """The message's sequence in its stream, which stands in the subject of its acknowledgement:
    `$JS.ACK.{stream}.{consumer}.{delivered}.{sequence}.…`, with more before it where accounts share a stream."""
    parts = message.reply.split(".")
    return int(parts[5]) if len(parts) == 9 else message.metadata.sequence.stream


def _payload(data: bytes) -> dict[str, object]:
    """The payload as text where it is text, else in base64; what is above a message's limit is left out, its size is not."""
    kept = data[: events.MAX_MESSAGE_BYTES]
    try:
        text = redact(kept.decode("utf-8"))
        if len(json.dumps(text)) <= events.MAX_MESSAGE_BYTES:
            return {"payload": text, "payload_bytes": len(data)}
    except UnicodeDecodeError:
        pass
    return {"payload_base64": base64.b64encode(kept).decode(), "payload_bytes": len(data)}
