"""A program against tests, each in a sandbox of its own: the program is loaded, then the test runs in the same namespace.

A test passes where its last line was reached: the code inside then answers with a word that it is given only after the program
has run, over a pipe of its own. So a program that leaves early, prints what a pass looks like, or patches what is around it
passes nothing. Two things cannot be seen from outside: a program that takes its own process apart to forge the answer, and one
whose values pretend (an `__eq__` that is always true). Neither touches the host, nor how another program is judged.
"""

import asyncio
import hmac
import json
import os
import secrets
import selectors
import signal
import subprocess
import threading
import time
from typing import Optional

import msgspec

from fleet_executor.jobs import DryRun
from fleet_executor.ports import in_thread
from fleet_executor.sandbox import START_SECONDS, NoSandbox, Sandbox, started
from fleet_wire.events import TestRun

OUTPUT_BYTES = 64 * 1024
"""What a program may print, and what is kept of that is nothing."""
VERDICT_BYTES = 4096
TICK_SECONDS = 0.05
"""How soon it is seen that nobody wants the outcome any more."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Of one test. `failure` is empty where it passed; `loaded` says whether the program had run to its end before."""

    loaded: bool
    failure: str = ""


async def dry_run(asked: DryRun, sandbox: Sandbox, slots: asyncio.Semaphore) -> list[TestRun]:
    """One TestRun for each test, in their order. A program that does not load is not loaded again for the next one. Where
    no sandbox can be made all are `not_run`, and say why. Cancelling it kills what runs."""
    if asked.seconds:
        sandbox = msgspec.structs.replace(sandbox, seconds=asked.seconds)
    stop = threading.Event()

    async def one(code: str) -> Outcome:
        async with slots:
            return await in_thread(lambda: run(sandbox, asked.program, code, stop))

    try:
        first = await one(asked.tests[0].code)
        others: list[Outcome] = [first] * (len(asked.tests) - 1)
        if first.loaded:
            others = list(await asyncio.gather(*(one(test.code) for test in asked.tests[1:])))
    except NoSandbox as error:
        return [TestRun(test_id=test.test_id, status="not_run", detail=str(error)[:500]) for test in asked.tests]
    finally:
        stop.set()
    return [_told(test.test_id, outcome) for test, outcome in zip(asked.tests, [first, *others])]


def why_not(python: str) -> str:
    """Why no sandbox can be made here; empty where one was made just now, and the host's files were not in it."""
    test = f"import os\nassert not os.path.exists({__file__!r}), 'files of the host can be seen in it'"
    try:
        failure = run(Sandbox(python=python), "import json, math, re", test).failure
    except NoSandbox as error:
        return str(error)
    return f"a sandbox could be made, but its first test failed: {failure}" if failure else ""


def run(sandbox: Sandbox, program: str, test: str, stop: Optional[threading.Event] = None) -> Outcome:
    """Blocks until the test has ended, or `stop` is set. Raises NoSandbox."""
    verdict, theirs = os.pipe()
    try:
        with started(sandbox, theirs) as process:
            os.close(theirs)
            theirs = -1
            return _Talk(process, verdict, sandbox, stop or threading.Event()).outcome(program, test)
    finally:
        for end in (verdict, theirs):
            if end >= 0:
                os.close(end)


class _Talk:
    """With the process in the sandbox, as `inside` describes it."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", verdict: int, sandbox: Sandbox, stop: threading.Event
    ) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._sandbox = sandbox
        self._stop = stop
        self._stdin, self._stdout, self._verdict = process.stdin.fileno(), process.stdout.fileno(), verdict
        self._said, self._printed, self._unsent = b"", b"", b""
        self._selector = selectors.DefaultSelector()
        self._end = time.monotonic() + START_SECONDS
        self._cut = ""
        self._reading = {self._stdout, self._verdict}

    def outcome(self, program: str, test: str) -> Outcome:
        word = secrets.token_hex(16)
        steps = [
            (b"R", {"limits": self._sandbox.limits(), "program": program}),
            (b"RL", {"test": test, "word": word}),
        ]
        with self._selector:
            for pipe in (self._stdin, self._stdout, self._verdict):
                os.set_blocking(pipe, False)
            for pipe in self._reading:
                self._selector.register(pipe, selectors.EVENT_READ)
            while self._reading and not self._cut:
                self._step()
                if steps and self._said == steps[0][0]:
                    self._send(json.dumps(steps.pop(0)[1]).encode() + b"\n")
        if not self._said.startswith(b"R"):
            raise NoSandbox(self._cut or f"bubblewrap: {_line(self._printed) or 'no sandbox, and no reason'}")
        loaded = self._said.startswith(b"RL")
        answer = self._said[2:] if loaded else self._said[1:]
        if loaded and not self._cut and hmac.compare_digest(answer, word.encode()):
            return Outcome(loaded=True)
        return Outcome(loaded=loaded, failure=self._cut or _line(answer) or self._ended(loaded))

    def _send(self, line: bytes) -> None:
        if line.startswith(b'{"limits"'):
            self._end = time.monotonic() + self._sandbox.seconds
        self._unsent = line
        self._selector.register(self._stdin, selectors.EVENT_WRITE)

    def _step(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            self._cut = (
                f"not done within {self._sandbox.seconds:g} s"
                if self._said
                else f"no sandbox within {START_SECONDS:g} s"
            )
        elif self._stop.is_set():
            self._cut = "not wanted any more"
        for key, _ in self._selector.select(max(0.0, min(left, TICK_SECONDS))):
            if key.fd == self._stdin:
                self._write()
            elif key.fd == self._stdout:
                self._printed += self._read(key.fd)
            else:
                self._said += self._read(key.fd)
        if len(self._printed) > OUTPUT_BYTES:
            self._cut = f"printed more than {OUTPUT_BYTES} bytes"
        if len(self._said) > VERDICT_BYTES:
            self._cut = "wrote into the pipe that its verdict comes over"

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BrokenPipeError:
            self._unsent = b""
        if not self._unsent:
            self._selector.unregister(self._stdin)

    def _read(self, pipe: int) -> bytes:
        data = os.read(pipe, 65536)
        if not data:
            self._selector.unregister(pipe)
            self._reading.discard(pipe)
        return data

    def _ended(self, loaded: bool) -> str:
        code = self._process.wait()
        by = {128 + signal.SIGXCPU: "used up its CPU time", 128 + signal.SIGKILL: "was killed"}
        return f"{by.get(code, f'ended with code {code}')} before {'the test was done' if loaded else 'it was loaded'}"


def _line(data: bytes) -> str:
    return " ".join(data.decode("utf-8", "replace").split())[:500]


def _told(test_id: str, outcome: Outcome) -> TestRun:
    text = outcome.failure if outcome.loaded or not outcome.failure else f"the program did not load: {outcome.failure}"
    return TestRun(test_id=test_id, status="failed" if text else "passed", detail=text[:500])
