import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from fleet_wire import service
from fleet_wire.errors import Unavailable


async def until(stop: asyncio.Event, ended: "list[str]", name: str) -> None:
    await stop.wait()
    ended.append(name)


async def test_a_stop_ends_all_loops_well() -> None:
    stop, ended = asyncio.Event(), []  # type: ignore[var-annotated]
    asyncio.get_running_loop().call_later(0.05, stop.set)
    well = await service.supervise({name: until(stop, ended, name) for name in ("a", "b")}, stop)
    assert well
    assert sorted(ended) == ["a", "b"]


async def test_a_loop_that_fails_stops_the_others_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    stop, ended = asyncio.Event(), []  # type: ignore[var-annotated]

    async def failing() -> None:
        raise KeyError("broken part")

    well = await service.supervise({"good": until(stop, ended, "good"), "consumer": failing()}, stop)
    assert not well
    assert stop.is_set()
    assert ended == ["good"]
    out = capsys.readouterr().out
    assert "loop failed" in out
    assert "loop=consumer" in out
    assert "broken part" in out
    assert "loop=good" not in out


async def test_a_loop_that_ends_before_it_was_told_to_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    stop, ended = asyncio.Event(), []  # type: ignore[var-annotated]

    async def ending() -> None:
        await asyncio.sleep(0)

    assert not await service.supervise({"good": until(stop, ended, "good"), "ending": ending()}, stop)
    out = capsys.readouterr().out
    assert "loop=ending" in out
    assert "loop=good" not in out


async def test_a_loop_that_fails_while_stopping_is_not_well() -> None:
    stop = asyncio.Event()

    async def failing() -> None:
        await stop.wait()
        raise OSError("disk full")

    asyncio.get_running_loop().call_later(0.02, stop.set)
    assert not await service.supervise({"a": failing()}, stop)


async def test_a_loop_that_does_not_stop_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STOP_SECONDS", 0.1)
    stop, cancelled = asyncio.Event(), []  # type: ignore[var-annotated]

    async def stubborn() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    stop.set()
    assert await asyncio.wait_for(service.supervise({"stubborn": stubborn()}, stop), 2)
    assert cancelled == [True]


async def test_cancelling_the_supervisor_cancels_its_loops() -> None:
    cancelled = []

    async def loop() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    task = asyncio.create_task(service.supervise({"a": loop()}, asyncio.Event()))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled == [True]


async def test_every_steps_until_the_stop() -> None:
    stop, steps = asyncio.Event(), []  # type: ignore[var-annotated]

    async def step() -> None:
        steps.append(1)
        if len(steps) == 3:
            stop.set()

    await asyncio.wait_for(service.every(0.01, step, stop), 2)
    assert len(steps) == 3


async def test_a_stop_does_not_wait_for_the_next_step() -> None:
    stop = asyncio.Event()

    async def step() -> None:
        return None

    asyncio.get_running_loop().call_later(0.02, stop.set)
    await asyncio.wait_for(service.every(3600, step, stop), 2)


@pytest.mark.parametrize("which", ["closed", "stop"])
async def test_until_closed_ends_by_either(which: str) -> None:
    ends: dict[str, Any] = {"closed": asyncio.Event(), "stop": asyncio.Event()}
    task = asyncio.create_task(service.until_closed(ends["closed"], ends["stop"]))
    await asyncio.sleep(0.01)
    assert not task.done()
    ends[which].set()
    await asyncio.wait_for(task, 1)


MAIN = """
import asyncio, sys
from fleet_wire import service
from fleet_wire.errors import Unavailable
async def main():
    stop = asyncio.Event()
    service.stop_on_signals(stop)
    async def loop():
        print("up", flush=True)
        if sys.argv[1] == "fail":
            raise OSError("no")
        await stop.wait()
    return await service.supervise({"loop": loop()}, stop)
raise SystemExit(service.run(main))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_zero(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", MAIN, "run"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.kill(process.pid, number)
        assert process.wait(10) == 0


def test_a_failing_loop_ends_the_process_with_one() -> None:
    assert subprocess.run([sys.executable, "-c", MAIN, "fail"], check=False, capture_output=True).returncode == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("Invalid('NATS_CREDS: no')", 2, "bad setting: NATS_CREDS: no\n"),
        ("Unavailable('cannot listen on host:1')", 1, "cannot listen on host:1\n"),
    ],
)
def test_a_main_that_cannot_begin_ends_with_one_sentence(error: str, code: int, said: str) -> None:
    main = f"""
from fleet_wire import service
from fleet_wire.errors import Unavailable
from fleet_wire.errors import Invalid, Unavailable
async def main():
    raise {error}
raise SystemExit(service.run(main))
"""
    done = subprocess.run([sys.executable, "-c", main], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_an_address_that_cannot_be_had_is_refused_in_words() -> None:
    with service.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=rf"^cannot listen on 127.0.0.1:{port}: [Aa]ddress already in use$"):
            service.listen("127.0.0.1", port)
    with pytest.raises(Unavailable, match=r"^cannot listen on nowhere.invalid:0: "):
        service.listen("nowhere.invalid", 0)
