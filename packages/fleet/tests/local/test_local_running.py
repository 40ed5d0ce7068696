"""One part: restarted after a crash, left down after a stop, given up when it crashes too often."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from local_kit import FAMILY, script

from fleet.local import checks, processes, running
from fleet.local.parts import Part, given_part
from fleet.local.running import Change, PartFailed, RunningPart, State
from fleet_wire.errors import Precondition, Unavailable

SLEEPER = "import time; print('began', flush=True); time.sleep(600)"


class FakeGuard:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.groups: set[int] = set()

    def add(self, leader: int) -> None:
        self.groups.add(leader)

    def remove(self, leader: int) -> None:
        self.groups.discard(leader)


@contextlib.asynccontextmanager
async def alive(part: Part, folder: Path, changes: list[Change] | None = None) -> AsyncIterator[RunningPart]:
    guard = FakeGuard()
    log = folder / "part.log"
    told = (changes if changes is not None else []).append
    handle = RunningPart(part, log, {processes.MARK: "test"}, guard, told)  # type: ignore[arg-type]
    life = asyncio.create_task(handle.live())
    try:
        yield handle
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
    assert not guard.groups


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_crashed_part_starts_again_and_says_so(tmp_path: Path) -> None:
    changes: list[Change] = []
    async with alive(script("sleeper", SLEEPER), tmp_path, changes) as part:
        await part.wait_ready()
        first = part.pid
        await part.kill()
        await part.wait_ready()
        assert part.pid != first
        assert part.starts == 2
    states = [change.state for change in changes]
    assert states == [State.STARTING, State.READY, State.ENDED, State.STARTING, State.READY]
    assert "SIGKILL; starts again in 0.5 s" in changes[2].detail
    assert str(tmp_path / "part.log") in changes[2].detail


async def test_a_stopped_part_stays_down_until_it_is_started(tmp_path: Path) -> None:
    async with alive(script("sleeper", SLEEPER), tmp_path) as part:
        await part.wait_ready()
        await part.stop()
        await asyncio.sleep(0.8)
        assert (part.state, part.pid, part.starts) == (State.STOPPED, None, 1)
        await part.start()
        assert part.starts == 2


async def test_kill_without_restart_keeps_it_down(tmp_path: Path) -> None:
    async with alive(script("sleeper", SLEEPER), tmp_path) as part:
        await part.wait_ready()
        await part.kill(restart=False)
        await asyncio.sleep(0.8)
        assert part.starts == 1


async def test_what_ignores_sigterm_is_killed_after_the_grace_with_its_group(tmp_path: Path) -> None:
    async with alive(script("family", FAMILY, grace=dt.timedelta(seconds=0.2)), tmp_path) as part:
        await until(lambda: "family of" in part.log.read_text() if part.log.exists() else False)
        leader = part.pid
        assert leader is not None
        await part.stop()
        await until(lambda: not processes.group(leader))
    processes.end_all("test")


async def test_a_part_that_crashes_in_a_row_is_given_up_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "backoff", lambda crashes: dt.timedelta(milliseconds=1))
    guard = FakeGuard()
    part = script("flaky", "import time; print('cannot go on', flush=True); time.sleep(.3); raise SystemExit(7)")
    handle = RunningPart(part, tmp_path / "flaky.log", {}, guard, lambda change: None)  # type: ignore[arg-type]
    with pytest.raises(PartFailed, match="flaky ended with code 7, 6 times in a row") as failure:
        await asyncio.wait_for(handle.live(), 30)
    assert "cannot go on" in failure.value.tail
    assert handle.starts == running.MAX_CRASHES


async def test_a_part_that_never_becomes_ready_is_given_up_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "START_TIMEOUT", dt.timedelta(seconds=0.5))

    async def never() -> str:
        return "not ready: waits for the moon"

    part = script("dreamer", SLEEPER, never)
    handle = RunningPart(part, tmp_path / "log", {}, FakeGuard(), lambda change: None)  # type: ignore[arg-type]
    with pytest.raises(PartFailed, match=r"waits for the moon after 0\.5 s"):
        await handle.live()
    assert handle.pid is None
    await asyncio.wait_for(handle.stop(), 1)


async def test_what_then_does_is_done_at_each_start_and_before_it_counts_as_ready(tmp_path: Path) -> None:
    done = []

    async def then() -> None:
        done.append(handle.ready.is_set())

    async with alive(script("nats", SLEEPER, then=then), tmp_path) as handle:
        await handle.wait_ready()
        await handle.restart()
    assert done == [False, False]


async def test_a_part_that_a_setting_replaces_cannot_be_stopped_here(tmp_path: Path) -> None:
    async with alive(given_part("ray", "10.0.0.1:6379"), tmp_path) as part:
        await part.wait_ready()
        with pytest.raises(Precondition, match="ray is not part of this stack"):
            await part.stop()


def test_the_pause_before_a_restart_doubles_up_to_ten_seconds() -> None:
    pauses = [running.backoff(crashes).total_seconds() for crashes in range(1, 8)]
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10]


def test_last_lines_are_the_end_of_the_log_without_blank_ones(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(["old"] * 5000 + ["a", "", "b"]))
    assert running.last_lines(log, 2) == "  a\n  b"
    assert running.last_lines(tmp_path / "none", 2) == ""


async def test_each_part_leads_a_session_of_its_own(tmp_path: Path) -> None:
    async with alive(script("sleeper", SLEEPER), tmp_path) as part:
        await part.wait_ready()
        assert part.pid is not None
        assert os.getsid(part.pid) == os.getpgid(part.pid) == part.pid


async def test_a_part_that_lives_but_stops_answering_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "CHECK_EVERY", dt.timedelta(milliseconds=20))
    answers: list[str | None] = [None, None, *["unreachable"] * running.MAX_SILENT]

    async def ready() -> str | None:
        return answers.pop(0) if answers else None

    async with alive(script("head", SLEEPER, ready), tmp_path) as part:
        await until(lambda: part.starts == 2)
        await part.wait_ready()


async def test_a_service_that_is_not_ready_for_a_while_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "CHECK_EVERY", dt.timedelta(milliseconds=5))
    asked = 0

    async def ready() -> str | None:
        nonlocal asked
        asked += 1
        return None if asked == 1 else "waits for NATS"

    async with alive(script("service", SLEEPER, ready, is_service=True), tmp_path) as part:
        await until(lambda: asked > 10 * running.MAX_SILENT)
        assert part.starts == 1


async def test_what_then_cannot_do_yet_is_tried_again(tmp_path: Path) -> None:
    refusals = [Unavailable("no responders"), Unavailable("no responders")]

    async def then() -> None:
        if refusals:
            raise refusals.pop()

    async with alive(script("nats", SLEEPER, then=then), tmp_path) as part:
        await part.wait_ready()
    assert not refusals


async def test_a_program_that_is_not_there_fails_the_part_by_name(tmp_path: Path) -> None:
    part = Part("graph", "nowhere", checks.not_asked(""), ("/nonexistent/java",))
    handle = RunningPart(part, tmp_path / "log", {}, FakeGuard(), lambda change: None)  # type: ignore[arg-type]
    with pytest.raises(PartFailed, match=r"graph cannot be started: .*/nonexistent/java"):
        await handle.live()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this system has no autogroups")
async def test_while_it_starts_a_part_leaves_the_processor_to_those_that_go_first(tmp_path: Path) -> None:
    answers = asyncio.Event()

    async def ready() -> str | None:
        return None if answers.is_set() else "not yet"

    def weight(part: RunningPart) -> int:
        return int(Path(f"/proc/{part.pid}/autogroup").read_text().split()[-1])

    later = dataclasses.replace(script("later", SLEEPER), ready=ready)
    first = dataclasses.replace(later, name="first", goes_first=True)
    (tmp_path / "first").mkdir()
    async with alive(later, tmp_path) as one, alive(first, tmp_path / "first") as other:
        await until(lambda: one.pid is not None and other.pid is not None)
        assert (weight(one), weight(other)) == (running.STARTING_NICE, 0)
        answers.set()
        await one.wait_ready()
        assert weight(one) == 0
