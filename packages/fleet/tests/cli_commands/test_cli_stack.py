"""Which stack a demo uses, what ends it early, and what the dashboard's answers are taken for."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fleet.cli import asking, stack
from fleet.cli.addresses import Addresses
from fleet.cli.demo import _unless_ended
from fleet.cli.stack import StackView
from fleet.local.home import Home
from fleet.local.running import PartFailed
from fleet_wire.errors import NotFound, Unavailable


def test_the_settings_of_a_stack_come_before_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNING_ADDRESS", "elsewhere:1")
    found = stack.addresses_of({"PLANNING_ADDRESS": "127.0.0.1:2", "MONITORING_PORT": "3", "NEO4J_PASSWORD": "x"})
    assert (found.planning_address, found.monitoring_url) == ("127.0.0.1:2", "http://127.0.0.1:3")


def test_a_stack_is_ready_when_each_of_its_parts_is(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert stack.unready(home) == ["it has not begun"]
    parts = [{"name": "nats", "state": "ready"}, {"name": "context", "state": "starting"}]
    home.write_record({"parts": parts})
    assert stack.unready(home) == ["context is starting"]
    home.write_record({"parts": parts[:1]})
    assert stack.unready(home) == []


async def test_a_running_stack_is_used_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_HOME", str(tmp_path))
    for name in Addresses.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    home, said = Home(tmp_path), list[str]()
    with home.held():
        env = {"PLANNING_ADDRESS": "127.0.0.1:7"}
        home.write_record({"env": env, "parts": [{"name": "nats", "state": "starting"}]})
        ready = {"env": env, "parts": [{"name": "nats", "state": "ready"}]}
        asyncio.get_running_loop().call_later(0.5, home.write_record, ready)
        async with stack.this_stack(said.append) as found:
            assert found.addresses.planning_address == "127.0.0.1:7"
            assert found.log_path("context") == home.log("context")
        assert home.read_record() == ready
    assert said == [f"using the stack that runs in {tmp_path}"]


async def failing() -> None:
    raise PartFailed("context ended")


def with_end(until_ended: Callable[[], Awaitable[object]]) -> StackView:
    return StackView(Addresses(), lambda name: None, until_ended)


async def test_a_stack_that_ends_ends_the_demo_with_the_reason() -> None:
    work = asyncio.ensure_future(asyncio.sleep(60))

    async def wait() -> None:
        await work

    with pytest.raises(PartFailed, match="context ended"):
        await asyncio.wait_for(_unless_ended(with_end(failing), wait()), 5)
    assert work.cancelled()


async def test_a_demo_that_is_done_does_not_wait_for_the_stack() -> None:
    assert await asyncio.wait_for(_unless_ended(with_end(asyncio.Event().wait), asyncio.sleep(0, 7)), 5) == 7


async def answered(status: str, body: bytes) -> object:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await asyncio.to_thread(asking.get_json, f"http://127.0.0.1:{port}/x")


async def test_the_dashboards_answers() -> None:
    assert await answered("200 OK", json.dumps({"a": 1}).encode()) == {"a": 1}
    with pytest.raises(NotFound, match="status 404"):
        await answered("404 Not Found", b"")
    with pytest.raises(Unavailable, match="status 503"):
        await answered("503 Service Unavailable", b"")
    with pytest.raises(Unavailable, match="not JSON"):
        await answered("200 OK", b"<html>\xff")
    with pytest.raises(Unavailable, match="does not answer"):
        await asyncio.to_thread(asking.get_json, "http://127.0.0.1:1/x")
