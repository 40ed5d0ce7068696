"""Asks a pull consumer for messages, one request at a time: the server sends each as it comes, up to as many as asked for.

So a request for many costs as much as a request for one, and none of its messages waits for another.
"""

import contextlib
import json
import time
from collections.abc import Callable
from typing import Optional

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from fleet_wire.bus import Bus
from fleet_wire.direct import subscribe

TIME_IS_OVER = ("404", "408")
"""The server's words for a request that has ended without all its messages."""
HEARTBEAT = "100"
SLACK_SECONDS = 1.0
"""How much later than its end a request may be answered before it counts as lost."""


class Pull:
    """The requests of one process to one durable. `take` gets each message, `ended` is called when a request is over."""

    def __init__(
        self, bus: Bus, stream: str, durable: str, take: Callable[[Msg], None], ended: Callable[[], None]
    ) -> None:
        self._client = bus.client
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        self._take = take
        self._ended = ended
        self._inbox = self._client.new_inbox()
        self._subscription: Optional[Subscription] = None
        self._connection = self._client.stats["reconnects"]
        self._until = 0.0
        self.left = 0
        """Messages that the server may still send; 0 where nothing is asked for."""
        self.refusal = ""
        """What the server said where it will send none of them."""

    async def ask(self, batch: int, seconds: float) -> None:
        """Asks for so many messages, which come until the time is over. Raises nats.errors.Error."""
        if self._subscription is None:
            self._subscription = await subscribe(self._client, self._inbox, self._on_message)
        self.left = batch
        self._connection = self._client.stats["reconnects"]
        self._until = time.monotonic() + seconds + SLACK_SECONDS
        request = {"batch": batch, "expires": int(seconds * 1e9)}
        await self._client.publish(self._subject, json.dumps(request).encode(), reply=self._inbox)

    @property
    def lost(self) -> bool:
        """Whether the server knows nothing of the request any more: it was asked over an earlier connection, or has not said that
        it is over. A request after it belongs on an inbox of its own, so that an answer to this one is not taken for its."""
        gone = self._client.stats["reconnects"] != self._connection or time.monotonic() > self._until
        return bool(self.left) and gone

    async def drain(self) -> None:
        """Takes what the server has sent already and no more. Raises nats.errors.Error."""
        if self._subscription is not None:
            await self._subscription.drain()  # type: ignore[no-untyped-call, unused-ignore]

    async def close(self) -> None:
        """Takes no more; what the server has sent already comes again after its ack wait."""
        if self._subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await self._subscription.unsubscribe()

    def _on_message(self, message: Msg) -> None:
        if message.reply:
            self.left -= 1
            self._take(message)
        else:
            headers = message.headers or {}
            status = headers.get("Status", "")
            if status == HEARTBEAT:
                return
            self.left = 0
            if status not in TIME_IS_OVER:
                self.refusal = headers.get("Description", "") or f"status {status}"
        if self.left <= 0:
            self._ended()
