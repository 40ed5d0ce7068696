"""What ruff finds in Python blocks: errors of the language and likely defects, no matters of style."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from fleet_wire.answers import PYTHON, Block
from fleet_wire.events import Check

RULES = "E9,F,B,PLE"
"""Of https://docs.astral.sh/ruff/rules/: syntax, Pyflakes, flake8-bugbear, Pylint's errors."""
IGNORED = "F811"
"""Blocks are read as one text, in which a later one may define again what an earlier one did."""
SECONDS = 5.0
OUTPUT_BYTES = 4 * 1024 * 1024
SHOWN = 5


def check(blocks: Sequence[Block]) -> Check:
    """The share of lines with code on which nothing was found; it passes where nothing was."""
    code = "\n\n".join(block.text for block in blocks if block.language in PYTHON)
    if not code.strip():
        return _not_run("no code block in Python")
    ruff = _ruff()
    if ruff is None:
        return _not_run("ruff is not installed here")
    command = [
        ruff,
        "check",
        "--isolated",
        "--no-cache",
        "--quiet",
        "--output-format",
        "json",
        "--target-version",
        "py313",
    ]
    command += ["--select", RULES, "--ignore", IGNORED, "--stdin-filename", "answer.py", "-"]
    try:
        done = subprocess.run(
            command, input=code.encode(), capture_output=True, timeout=SECONDS, check=False, cwd="/", env={}
        )
    except subprocess.TimeoutExpired:
        return _not_run(f"ruff took more than {SECONDS:g} s")
    except OSError as error:
        return _not_run(f"ruff does not start: {error}")
    if done.returncode not in (0, 1):
        return _not_run(f"ruff ended with code {done.returncode}: {done.stderr.decode('utf-8', 'replace')[-200:]}")
    if len(done.stdout) > OUTPUT_BYTES:
        return Check(name="lint", status="failed", score=0, detail="more findings than are read")
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return _not_run(f"ruff's answer is no JSON: {done.stdout[:100].decode('utf-8', 'replace')!r}")
    return _judged(code, found)


def _judged(code: str, found: Sequence[dict[str, object]]) -> Check:
    if not found:
        return Check(name="lint", status="passed", score=1, detail="nothing found")
    lines = sum(1 for line in code.splitlines() if line.strip())
    places: list[tuple[int, str]] = []
    for each in found:
        location = each["location"]
        assert isinstance(location, dict)
        places.append((int(location["row"]), f"line {location['row']}: {each['code'] or 'syntax'} {each['message']}"))
    score = max(0.0, 1 - len({row for row, _ in places}) / lines)
    texts = [text for _, text in places[:SHOWN]]
    more = [f"and {len(places) - SHOWN} more"] if len(places) > SHOWN else []
    return Check(name="lint", status="failed", score=score, detail="; ".join([*texts, *more])[:500])


@functools.lru_cache(maxsize=1)
def _ruff() -> Optional[str]:
    beside = Path(sys.executable).with_name("ruff")
    return str(beside) if beside.exists() else shutil.which("ruff")


def _not_run(reason: str) -> Check:
    return Check(name="lint", status="not_run", detail=reason)
