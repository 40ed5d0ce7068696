"""Publishing to a stream, with the number that the server acknowledges it by.

The client's own `publish` of JetStream does the same at twice the processor's time: a name from its random numbers
for each reply, a time-out as a context, `json`, each header by itself, a queue and a task for what is answered. A deliberation is
some fifty of such messages.
"""

import asyncio
import itertools
import re
from collections.abc import Mapping
from typing import Any, Optional

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from fleet_wire.direct import subscribe

NO_RESPONDERS = "503"

_NAME = re.compile("[A-Za-z0-9-]+").fullmatch


class _Lines(str):
    """A header's value, and after it the lines of further headers: the client is to write them as they stand."""

    __slots__ = ()

    def strip(self, chars: Optional[str] = None) -> str:
        return self

    def translate(self, table: Any) -> str:
        return self


def as_one(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers as the client takes them, several as one: it looks at each name by an expression and at each value by a
    translation, which is half of what an event costs its sender. Those that have to be looked at are left as they are."""
    text = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
    ends = len(headers) - 1
    if ends < 1 or text.count("\n") != ends or text.count("\r") != ends or not all(map(_NAME, headers)):
        return dict(headers)
    first = next(iter(headers))
    return {first: _Lines(text[len(first) + 2 :])}


class _Ack(msgspec.Struct):
    seq: int = 0
    error: Optional[dict[str, Any]] = None


_ACK = msgspec.json.Decoder(_Ack)


class Acks:
    """The acknowledgements of one connection, all on one inbox."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = f"{client.new_inbox()}."
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._listens = False

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str], seconds: float) -> int:
        """Publishes, and answers with the stream's sequence once the server has it. Raises as the client does: a TimeoutError
        after so many seconds, NoStreamResponseError where no stream takes the subject, APIError for what the stream refuses."""
        if not self._listens:
            await self._listen()
        loop = asyncio.get_running_loop()
        reply = f"{self._inbox}{next(self._numbers)}"
        waiting = self._waiting[reply] = loop.create_future()
        timer = loop.call_later(seconds, _late, waiting)
        try:
            await self._client.publish(subject, body, reply=reply, headers=as_one(headers))
            message = await waiting
        finally:
            timer.cancel()
            del self._waiting[reply]
        if message.headers and message.headers.get("Status") == NO_RESPONDERS:
            raise nats.js.errors.NoStreamResponseError
        ack = _ACK.decode(message.data)
        if ack.error is not None:
            raise nats.js.errors.APIError.from_error(ack.error)
        return ack.seq

    async def _listen(self) -> None:
        """Once. What is published meanwhile goes over the same connection, after this."""
        self._listens = True
        try:
            await subscribe(self._client, f"{self._inbox}*", self._answered)
        except BaseException:
            self._listens = False
            raise

    def _answered(self, message: Msg) -> None:
        waiting = self._waiting.get(message.subject)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)


def _late(waiting: "asyncio.Future[Msg]") -> None:
    if not waiting.done():
        waiting.set_exception(nats.errors.TimeoutError())
