"""A small stack of real processes for tests of its life: NATS, Valkey, and one that leaves children of every kind.

`python local_kit.py HOME [PROBLEM]` runs it as a process of its own that prints `up` when all is ready; SIGINT, SIGTERM and
SIGKILL then mean what they mean to `fleet up`.
"""

import asyncio
import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

import fleet.local.stack as stacks
from fleet.local import checks
from fleet.local.home import Home
from fleet.local.layout import Layout
from fleet.local.parts import Part, PartMaker, Then

TEST_MARK = "FLEET_TEST_RUN"
FAMILY = """
import os, subprocess, sys, time, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]
subprocess.Popen(sleeper)
subprocess.Popen(sleeper, start_new_session=True)
print("family of", os.getpid(), flush=True)
time.sleep(600)
"""
"""Ignores SIGTERM, has a child in its group that does too, and one that left the group."""


async def always() -> None:
    """Ready at once."""


def script(name: str, code: str, ready: checks.Check = always, **more: object) -> Part:
    """A part that runs a bit of Python."""
    return Part(name, "nowhere", ready, (sys.executable, "-c", code), dict(os.environ), **more)  # type: ignore[arg-type]


def small_layout(problem: str) -> Callable[..., Layout]:
    """`problem` adds a part that does not come up: `fails`, or `bad-setting`; or none, when empty."""

    def lay_out(
        home: Home,
        environment: Mapping[str, str],
        at: Mapping[str, int],
        temporary: str,
        streams: object,
        only: object = None,
    ) -> Layout:
        env = {"NATS_URL": f"nats://127.0.0.1:{at['nats']}", "VALKEY_URL": f"valkey://127.0.0.1:{at['valkey']}"}
        make = PartMaker(home, environment, env, at)
        parts = [make.nats(), make.valkey(), script("family", FAMILY, after=("nats",), grace=dt.timedelta(seconds=0.5))]
        if problem == "fails":
            parts.append(
                script("broken", "import time; print('no such thing'); time.sleep(.3); raise SystemExit(3)", _never)
            )
        if problem == "bad-setting":
            code = "import sys, time; time.sleep(.3); sys.exit('bad setting: GRPC_PORT: must be a port')"
            code = code.replace("sys.exit(", "print(").replace("port')", "port'); sys.exit(2)")
            parts.append(script("choosy", code, _never, is_service=True))
        return Layout(tuple(parts), {**env, "MONITORING_PORT": "1"})

    return lay_out


async def _never() -> str:
    return "not yet"


def no_streams(url: str, creds: str | None) -> Then:
    raise AssertionError("the small stack has its own parts")


def living(run: str) -> list[psutil.Process]:
    """Every living process that began in a test's run, the supervisor and the guard among them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TEST_MARK) == run and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


class Supervisor:
    """This file run as a process, in a session of its own, as from a terminal."""

    def __init__(self, home: Path, run: str, problem: str = "") -> None:
        env = {**os.environ, TEST_MARK: run, "PYTHONUNBUFFERED": "1"}
        self.run = run
        self.output = home.with_suffix(f".{run}.out")
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(home), problem],
                env=env,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def until(self, text: str, seconds: float = 60) -> None:
        """Returns when it has printed the text."""
        deadline = time.monotonic() + seconds
        while text not in self.output.read_text():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.05)

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> int:
        return self.process.wait(40)

    def nothing_left(self, seconds: float = 15) -> bool:
        """Whether, soon, no process of the run lives."""
        deadline = time.monotonic() + seconds
        while living(self.run) and time.monotonic() < deadline:
            time.sleep(0.05)
        return not living(self.run)


async def _main(home: Path) -> int:
    try:
        async with stacks.running_stack(home, free_ports=True, say=print) as stack:
            print("up", stack.stack_id, flush=True)
            await stack.until_ended()
    except stacks.PartFailed as failure:
        print(f"failed: {failure}\n{failure.tail}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    stacks.lay_out = small_layout(sys.argv[2])  # type: ignore[assignment]
    try:
        raise SystemExit(asyncio.run(_main(Path(sys.argv[1]))))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", flush=True)
