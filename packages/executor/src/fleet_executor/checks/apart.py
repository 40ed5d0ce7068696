"""Starts `reading`, and gives up on it in time."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    found: list[bool] = _asked({"text": text, "patterns": list(patterns)}, ("-S",))["found"]
    return found


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
