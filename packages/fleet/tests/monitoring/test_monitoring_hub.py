"""Fan-out: every browser gets every change it has room for, and a slow one costs only its own oldest."""

import asyncio

from fleet.monitoring.board import Change
from fleet.monitoring.hub import Hub


def change(key: str) -> Change:
    return Change(deliberations=(key,))


async def test_each_watcher_gets_every_change_in_order() -> None:
    hub = Hub()
    one, two = hub.subscribe(), hub.subscribe()
    hub.publish(change("a"))
    hub.publish(change("b"))
    for watcher in (one, two):
        assert watcher.drain() == ([change("a"), change("b")], False)
        assert watcher.drain() == ([], False)


async def test_a_slow_watcher_loses_its_oldest_and_is_told_once() -> None:
    hub = Hub(backlog=2)
    slow = hub.subscribe()
    for key in "abc":
        hub.publish(change(key))
    assert slow.drain() == ([change("b"), change("c")], True)
    hub.publish(change("d"))
    assert slow.drain() == ([change("d")], False)


async def test_waiting_ends_with_a_change_with_closing_and_with_time() -> None:
    hub = Hub()
    watcher = hub.subscribe()
    await asyncio.wait_for(watcher.wait(0.01), 5)
    hub.publish(change("a"))
    await asyncio.wait_for(watcher.wait(60), 5)
    watcher.drain()
    waiting = asyncio.create_task(watcher.wait(60))
    await asyncio.sleep(0)
    watcher.close()
    await asyncio.wait_for(waiting, 5)


async def test_a_closed_watcher_leaves_nothing_behind() -> None:
    hub = Hub()
    watcher = hub.subscribe()
    watcher.close()
    watcher.close()
    hub.publish(change("a"))
    assert len(hub) == 0
    assert watcher.drain() == ([], False)


async def test_a_change_of_nothing_wakes_nobody() -> None:
    hub = Hub()
    watcher = hub.subscribe()
    hub.publish(Change())
    assert watcher.drain() == ([], False)
