"""Starts `reading`, and gives up on it in time. For blocks of code it is a process each; for patterns, which every answer is
searched for, one that stands: its start costs some fifty milliseconds, a search less than one."""

import contextlib
import json
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

SECONDS = 10.0
"""Wall-clock; the process has a limit of its own on what it uses."""
_SCRIPT = str(Path(__file__).with_name("reading.py"))
_FROM_PACKAGES = ("yaml",) if sys.version_info >= (3, 11) else ("yaml", "toml")
"""Languages whose parser is no part of Python: the others need no look at what is installed."""


class NotRead(Exception):
    """The process did not come to an end; the text says why."""


def parse(blocks: Sequence[tuple[str, str]]) -> list[Any]:
    """For each language and text why it does not parse: "" where it does, None where no parser is here. Raises NotRead."""
    packages = any(language in _FROM_PACKAGES for language, _ in blocks)
    reasons: list[Any] = _asked({"blocks": list(blocks)}, () if packages else ("-S",))["blocks"]
    return reasons


def search(text: str, patterns: Sequence[str]) -> list[bool]:
    """Which of the patterns are found in the text. Raises NotRead."""
    return _searcher.search(text, patterns)


class _Searcher:
    """A standing process, which one search has at a time. One that does not answer is ended, and the next search starts
    another; it ends itself when whoever started it is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Optional[subprocess.Popen[bytes]] = None

    def search(self, text: str, patterns: Sequence[str]) -> list[bool]:
        with self._lock:
            try:
                return self._search(self._process or self._start(), text, patterns)
            except (OSError, ValueError) as error:
                raise NotRead(f"the process that searches ended: {error}{self._end()}") from error

    def _search(self, process: "subprocess.Popen[bytes]", text: str, patterns: Sequence[str]) -> list[bool]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps({"text": text, "patterns": list(patterns)}).encode() + b"\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], SECONDS)[0]:
            self._end()
            raise NotRead(f"not read within {SECONDS:g} s")
        line = process.stdout.readline()
        if not line:
            raise NotRead(f"the process that searches ended{self._end()}")
        found: list[bool] = json.loads(line)["found"]
        return found

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-I", "-S", "-W", "ignore", _SCRIPT, "stay"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd="/", env={})
        return self._process

    def _end(self) -> str:
        """Ends the process; with what code it had ended, in words."""
        process, self._process = self._process, None
        if process is None:
            return ""
        process.kill()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        return f" (code {process.wait()})"


_searcher = _Searcher()


def _asked(what: Any, options: Sequence[str]) -> Any:
    command = [sys.executable, "-I", *options, "-W", "ignore", _SCRIPT]
    try:
        done = subprocess.run(
            command, input=json.dumps(what).encode(), capture_output=True, timeout=SECONDS, check=False, cwd="/", env={}
        )
    except subprocess.TimeoutExpired as error:
        raise NotRead(f"not read within {SECONDS:g} s") from error
    except OSError as error:
        raise NotRead(f"no process to read it in: {error}") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-200:]
        raise NotRead(f"reading it ended with code {done.returncode}{': ' if said else ''}{said}")
    return json.loads(done.stdout)
