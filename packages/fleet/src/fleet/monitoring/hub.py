"""Fan-out of changes to the browsers: one bounded queue each, whose back-log strategy is to drop the oldest.

A browser that cannot keep up loses changes, never memory of this process: `drain` tells that it lost some, and it then reads
the board anew.
"""

import asyncio
import collections

from fleet.monitoring.board import Change

BACKLOG = 500
"""Changes that wait for one browser."""


class Subscription:
    """One browser's queue. `close` is safe to call twice."""

    def __init__(self, hub: "Hub", backlog: int) -> None:
        self._hub = hub
        self._queue: collections.deque[Change] = collections.deque(maxlen=backlog)
        self._lost = False
        self._wake = asyncio.Event()
        self.closed = False

    def put(self, change: Change) -> None:
        self._lost = self._lost or len(self._queue) == self._queue.maxlen
        self._queue.append(change)
        self._wake.set()

    async def wait(self, timeout_seconds: float) -> None:
        """Returns when something changed, when it is closed, or after the time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def drain(self) -> tuple[list[Change], bool]:
        """All that waits, oldest first, and whether older ones were dropped."""
        changes, lost = list(self._queue), self._lost
        self._queue.clear()
        self._lost = False
        if not self.closed:
            self._wake.clear()
        return changes, lost

    def close(self) -> None:
        self.closed = True
        self._hub.leave(self)
        self._wake.set()


class Hub:
    """Who watches."""

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._backlog = backlog
        self._subscriptions: set[Subscription] = set()

    def __len__(self) -> int:
        return len(self._subscriptions)

    def subscribe(self) -> Subscription:
        subscription = Subscription(self, self._backlog)
        self._subscriptions.add(subscription)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    def publish(self, change: Change) -> None:
        """Gives the change to every subscription; never waits."""
        if change.line is not None or change.deliberations:
            for subscription in self._subscriptions:
                subscription.put(change)
