"""Waiting for NATS and the streams, as every service does."""

import asyncio

import pytest
from conftest import NatsServer

from fleet_wire import apply, rpc, startup
from fleet_wire.settings import CommonSettings


@pytest.mark.parametrize("waiting_for", ["nats", "streams"])
async def test_waiting_for_nats_and_its_streams_is_told_and_ends_by_the_stop(
    nats_server: NatsServer, waiting_for: str
) -> None:
    nats_away = "nats://u:hidden1@127.0.0.1:1,nats://u:hidden2@127.0.0.1:2"
    url = nats_away if waiting_for == "nats" else nats_server.url
    stop, readiness = asyncio.Event(), rpc.Readiness("nats", "streams")

    async def begin() -> bool:
        bus = await startup.connected(CommonSettings(nats_url=url), "tests", readiness, stop)
        if bus is None:
            return False
        try:
            return await startup.streams_there(bus, ["PLANNING_EVENTS"], readiness, stop)
        finally:
            await bus.close()

    work = asyncio.create_task(begin())
    expected = "no NATS server answers at nats://***@127.0.0.1:1,nats://***@127.0.0.1:2 yet"
    if waiting_for == "streams":
        expected = "PLANNING_EVENTS does not exist"
    while f"{waiting_for}: {expected}" not in readiness.reason:
        assert not work.done()
        await asyncio.sleep(0.05)
    assert ("nats: " in readiness.reason) == (waiting_for == "nats")
    stop.set()
    assert await asyncio.wait_for(work, 5) is False
    assert not readiness.ready


async def test_streams_that_are_there_are_no_longer_missing(nats_server: NatsServer) -> None:
    stop, readiness = asyncio.Event(), rpc.Readiness("nats", "streams")
    bus = await startup.connected(CommonSettings(nats_url=nats_server.url), "tests", readiness, stop)
    assert bus is not None
    await apply.apply(bus)
    assert await startup.streams_there(bus, ["PLANNING_EVENTS", "KV_jobs"], readiness, stop)
    assert readiness.ready
    await bus.close()
