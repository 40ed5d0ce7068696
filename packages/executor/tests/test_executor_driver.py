"""The process apart that speaks with Ray, without a cluster."""

import asyncio
import os
import signal

import pytest
import stack

from fleet_executor import driver as module
from fleet_executor.config import WorkerConfig
from fleet_executor.driver import Driver
from fleet_wire.errors import Unavailable

CONFIG = WorkerConfig(nats_url="nats://127.0.0.1:1", vllm_url="http://127.0.0.1:1")


def driver(address: str = "") -> Driver:
    return Driver(address or f"127.0.0.1:{stack.free_port()}", CONFIG, 1)


async def test_a_cluster_that_is_not_there_is_a_sentence_and_disconnect_leaves_no_process() -> None:
    made = driver("127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"the Ray cluster at 127\.0\.0\.1:1 cannot be used: .*refused"):
        await made.connect()
    child = made._child
    assert child is not None and stack.alive(child.pid)
    await made.disconnect()
    assert not stack.alive(child.pid)
    with pytest.raises(Unavailable, match="not connected"):
        await made.check()


async def test_calls_that_wait_end_when_the_process_does() -> None:
    made = driver()
    with pytest.raises(Unavailable):
        await made.connect()
    child = made._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    waiting = asyncio.ensure_future(made.survey(None))
    await asyncio.sleep(0.2)
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="was lost"):
        await waiting
    await made.disconnect()


async def test_a_process_that_is_stuck_is_given_up_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.3)
    monkeypatch.setattr(module, "GOODBYE_SECONDS", 0.3)
    made = driver()
    with pytest.raises(Unavailable):
        await made.connect()
    child = made._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
        await made.check()
    await made.disconnect()
    assert not stack.alive(child.pid)


async def test_a_process_of_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "code_hash", lambda: "another")
    made = driver()
    with pytest.raises(Unavailable, match="restart the executor"):
        await made.connect()
    await made.disconnect()
