"""The parent's side of a subject's process (bench/subject.py), and of the model server's."""

import asyncio
import contextlib
import dataclasses
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

from bench import load, ports

T = TypeVar("T")

LINE_BYTES = 64 * 1024 * 1024
OPEN_SECONDS = 120
"""How long a library may take to be imported and to make its first deliberation."""
REPOSITORY = Path(__file__).parents[1]
QUIET = {"NO_COLOR": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}


class Broken(Exception):
    """A process did not do what it is there for; the text says what it said last."""


class Child:
    """A subject that loads can be put on."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    async def run(self, wanted: load.Load) -> load.Outcome:
        """Raises Broken where the process has ended."""
        return load.Outcome(**await self.ask(dataclasses.asdict(wanted)))

    async def ask(self, told: dict[str, Any]) -> dict[str, Any]:
        """A line there and a line back."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(told).encode() + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            lines = self._log.read_text(errors="replace").strip().splitlines()
            raise Broken(f"ended; it said last: {lines[-1][:300] if lines else 'nothing'} (log: {self._log})")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.asynccontextmanager
async def subject(python: Path, module: str, told: dict[str, Any], log: Path) -> AsyncIterator[Child]:
    """Starts a subject and gives it once it has made its first deliberation. Raises Broken."""
    argv = (str(python), "-m", "bench.subject", module)
    async with _process(argv, log, stdin=True) as process:
        child = Child(process, log)
        try:
            await asyncio.wait_for(child.ask(told), OPEN_SECONDS)
        except TimeoutError as error:
            raise Broken(f"made no deliberation within {OPEN_SECONDS} s (log: {log})") from error
        yield child


@contextlib.asynccontextmanager
async def model_server(python: Path, log: Path) -> AsyncIterator[str]:
    """The model server of constant latency; gives its address."""
    port = ports.free()
    async with _process((str(python), "-m", "bench.model_server", str(port)), log, stdin=False) as process:
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise Broken(f"the model server did not start (log: {log})")
        yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def _process(argv: tuple[str, ...], log: Path, stdin: bool) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=file,
            env={**os.environ, **QUIET},
            cwd="/",
            limit=LINE_BYTES,
        )
    try:
        yield process
    finally:
        if stdin and process.stdin is not None:
            process.stdin.close()
        else:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()
