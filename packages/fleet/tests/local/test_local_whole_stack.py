"""`fleet up` with every real part, Ray and the model among them: found by other commands, and gone without a trace."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_kit import TEST_MARK, living

UP_SECONDS = 200


class Fleet:
    """The command in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.run = uuid.uuid4().hex
        self.folder = folder
        replaced = ("NATS_URL", "NEO4J_URI", "VALKEY_URL", "VLLM_URL", "RAY_ADDRESS", "FLEET_HOME")
        kept = {name: value for name, value in os.environ.items() if name not in replaced}
        self.env = {**kept, TEST_MARK: self.run, "PYTHONUNBUFFERED": "1", "TERM": "dumb"}

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "fleet.cli.main", *words]
        env = {name: value for name, value in self.env.items() if name != TEST_MARK}
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False
        )

    def up(self) -> "subprocess.Popen[bytes]":
        """Starts the stack, and returns when it has said all that it says when it is up."""
        output = self.folder / "up.out"
        with output.open("wb") as file:
            command = [sys.executable, "-m", "fleet.cli.main", "up", "--free-ports"]
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.env, stdout=file, stderr=file, start_new_session=True
            )
        deadline = time.monotonic() + UP_SECONDS
        while "Ctrl-C stops it" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        return process

    def nothing_left(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while living(self.run) and time.monotonic() < deadline:
            time.sleep(0.1)
        return not living(self.run)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    for process in living(made.run):
        process.kill()


def test_up_is_found_by_other_commands_refuses_a_second_and_leaves_nothing_behind(fleet: Fleet) -> None:
    process = fleet.up()
    told = (fleet.folder / "up.out").read_text()
    assert "admin token (FLEET_ADMIN_TOKEN): " in told

    for _ in range(5):  # a server that shares two busy cores may once not answer in time
        status = fleet("status", "--json")
        if status.returncode == 0:
            break
    assert status.returncode == 0, status.stdout + status.stderr
    parts = {part["name"]: part for part in json.loads(status.stdout)["parts"]}
    assert {part["state"] for part in parts.values()} == {"ready"}
    assert "nodes alive" in parts["ray"]["version"]
    assert fleet("streams", "check").returncode == 0
    assert fleet("decisions", "list", "--json").returncode == 0

    second = fleet("up", "--free-ports")
    assert second.returncode == 1
    assert f"already (process {process.pid})" in second.stderr
    for log in (fleet.folder / ".fleet" / "logs").glob("*.log"):
        text = log.read_text(errors="replace")
        for secret in ("graph-password", "admin-token"):
            assert (fleet.folder / ".fleet" / secret).read_text() not in text, f"{secret} stands in {log.name}"

    names = [process.name() for process in living(fleet.run)]
    assert "ray::VLLMAgentJob" in names, names
    process.kill()
    process.wait()
    assert fleet.nothing_left(20), [left.cmdline() for left in living(fleet.run)]

    again = fleet.up()  # the same data and password, after a crash
    os.killpg(again.pid, 2)
    assert again.wait(60) == 0
    assert fleet.nothing_left(0.5), [left.cmdline() for left in living(fleet.run)]
