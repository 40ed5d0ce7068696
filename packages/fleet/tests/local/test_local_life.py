"""However a stack ends, nothing of it is left behind. Real processes: among them ones that ignore SIGTERM or left their group."""

import asyncio
import json
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from local_kit import Supervisor, living

from fleet.local import processes
from fleet.local.home import Home

EXPECTED = 7
"""The supervisor, the guard, NATS, Valkey, and a family of three."""


@pytest.fixture
def run() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield name
    for process in living(name):
        process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state"


def started(home: Path, run: str) -> Supervisor:
    supervisor = Supervisor(home, run)
    supervisor.until("up ")
    wait_for_family(supervisor)
    return supervisor


def wait_for_family(supervisor: Supervisor) -> None:
    """Its children come a moment after it."""
    for _ in range(200):
        if len(living(supervisor.run)) >= EXPECTED:
            return
        asyncio.run(asyncio.sleep(0.05))
    raise AssertionError([process.cmdline() for process in living(supervisor.run)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_process_and_the_record(home: Path, run: str, number: signal.Signals) -> None:
    supervisor = started(home, run)
    os.kill(supervisor.process.pid, number)
    supervisor.wait()
    assert supervisor.nothing_left(0.5)
    assert not Home(home).record_path.exists()
    assert not Home(home).is_running()


def test_ctrl_c_to_the_whole_foreground_group_ends_every_process(home: Path, run: str) -> None:
    supervisor = started(home, run)
    supervisor.interrupt()
    supervisor.wait()
    assert supervisor.nothing_left(0.5)


def test_the_guard_ends_everything_when_the_supervisor_is_killed(home: Path, run: str) -> None:
    supervisor = started(home, run)
    temporary = Path(json.loads((home / "stack.json").read_text())["temporary"])
    assert temporary.exists()
    supervisor.process.kill()
    supervisor.wait()
    assert supervisor.nothing_left()
    assert not temporary.exists()


def test_the_next_start_ends_what_a_killed_supervisor_and_its_killed_guard_left(home: Path, run: str) -> None:
    first = started(home, run)
    guard = next(process for process in living(run) if "fleet.local.guard" in process.cmdline())
    first.process.send_signal(signal.SIGSTOP)  # so that it does not start another guard
    guard.kill()
    first.process.kill()
    first.wait()
    left = living(run)
    assert len(left) == EXPECTED - 2
    second = Supervisor(home, f"{run}-2")
    try:
        second.until("up ")
        assert not [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        assert "5 processes of an earlier stack" in second.output.read_text()
    finally:
        second.interrupt()
        second.wait()
    assert second.nothing_left(0.5)


def test_a_killed_guard_is_replaced_and_still_guards(home: Path, run: str) -> None:
    supervisor = started(home, run)
    guard = next(process for process in living(run) if "fleet.local.guard" in process.cmdline())
    guard.kill()
    nats = next(process for process in living(run) if process.name() == "nats-server")
    nats.kill()  # the supervisor tells the guard of the restart, and finds it gone
    for _ in range(200):
        names = [process.name() for process in living(run)]
        if len(names) >= EXPECTED and "nats-server" in names:
            break
        asyncio.run(asyncio.sleep(0.05))
    supervisor.process.kill()
    supervisor.wait()
    assert supervisor.nothing_left()


def test_a_part_that_does_not_come_up_is_named_with_its_last_lines_and_the_rest_ends(home: Path, run: str) -> None:
    supervisor = Supervisor(home, run, "fails")
    assert supervisor.wait() == 1
    told = supervisor.output.read_text()
    assert "broken ended with code 3 before it was ready" in told
    assert "no such thing" in told
    assert str(home / "logs" / "broken.log") in told
    assert supervisor.nothing_left(0.5)


def test_a_service_with_a_bad_setting_stops_the_stack_with_its_sentence(home: Path, run: str) -> None:
    supervisor = Supervisor(home, run, "bad-setting")
    assert supervisor.wait() == 1
    assert "choosy cannot run: bad setting: GRPC_PORT: must be a port" in supervisor.output.read_text()
    assert supervisor.nothing_left(0.5)


def test_a_second_stack_in_the_same_folder_is_refused_and_leaves_the_first_alone(home: Path, run: str) -> None:
    first = started(home, run)
    second = Supervisor(home, f"{run}-2")
    assert second.wait() == 1
    told = second.output.read_text()
    assert f"a stack runs in {home} already (process {first.process.pid})" in told
    assert len(living(run)) == EXPECTED
    first.interrupt()
    first.wait()


def test_stacks_in_two_folders_live_side_by_side(tmp_path: Path, run: str) -> None:
    first = started(tmp_path / "one", run)
    second = started(tmp_path / "two", f"{run}-2")
    first.interrupt()
    first.wait()
    assert first.nothing_left(0.5)
    assert len(living(second.run)) == EXPECTED
    second.interrupt()
    second.wait()
    assert second.nothing_left(0.5)


def test_the_record_names_the_running_processes_and_is_for_this_user_only(home: Path, run: str) -> None:
    supervisor = started(home, run)
    record = Home(home).read_record()
    assert record is not None
    assert record["supervisor"]["pid"] == supervisor.process.pid
    pids = {part["name"]: part["pid"] for part in record["parts"]}
    assert psutil.Process(pids["nats"]).name() == "nats-server"
    assert all(processes.started_at(part["pid"]) == part["started_at"] for part in record["parts"])
    assert (home / "stack.json").stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    supervisor.interrupt()
    supervisor.wait()
