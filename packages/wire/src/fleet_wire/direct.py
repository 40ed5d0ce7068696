"""Subscriptions whose messages are taken where the client reads them.

A callback of the client's own goes by way of a queue and a task, which is woken for each message: a quarter of what an
acknowledged message costs its sender.
"""

from collections.abc import Callable
from typing import Any

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

log = structlog.get_logger(__name__)


class _Taker:
    """What the client asks of the future that it hands a message to, for any number of messages."""

    def __init__(self, take: Callable[[Msg], None]) -> None:
        self._take = take

    def cancelled(self) -> bool:
        return False

    def set_result(self, message: Msg) -> None:
        try:
            self._take(message)
        except Exception:  # it would end the client's reading
            log.exception("message not taken", subject=message.subject)


async def subscribe(client: Client, subject: str, take: Callable[[Msg], None]) -> Subscription:
    """Has `take` called with each message on a subject, in their order; it must not take long. Raises nats.errors.Error."""
    taker: Any = _Taker(take)
    return await client.subscribe(subject, future=taker)
