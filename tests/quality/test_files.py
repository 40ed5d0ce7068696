"""What no file of the repository may hold."""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, committed

LOCKS = sorted((REPOSITORY / "requirements").glob("*.lock"))
# Written in pieces, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:"
    + "root|home|Users"
    + r")/[a-z]|(?<![\w.])/"
    + r"work/(?:main|shared|\.)",
    "a registry": r"index-"
    + r"url\s*=|--(?:extra-)?index-"
    + r"url[= ]|files\.python"
    + r"hosted|pypi"
    + r"\.org/simple",
    "a private key": "BEGIN [A-Z ]*PRIVATE" + " KEY",
    "a cloud key": "AKI" + "A[0-9A-Z]{16}",
    "a token": r"\b(?:gh" + r"p_[A-Za-z0-9]{36}|hf" + r"_[A-Za-z0-9]{30,}|sk" + r"-[A-Za-z0-9]{32,})\b",
}


def texts() -> list[tuple[str, str]]:
    found = []
    for path in committed():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            found.append((str(path.relative_to(REPOSITORY)), data.decode("utf-8")))
    return found


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    hits = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
    assert hits == []


def test_binary_files_are_few_and_known() -> None:
    known = {"specs/baseline.binpb"}
    binary = {
        str(path.relative_to(REPOSITORY))
        for path in committed()
        if b"\0" in path.read_bytes()[:8192] and path.suffix not in (".png", ".gif")
    }
    assert binary <= known


def test_environments_and_caches_are_ignored() -> None:
    for name in (".venv/x", ".venv-executor/x", "a/__pycache__/x.pyc", ".fleet/x", ".hypothesis/x", "x.egg-info/x"):
        ignored = subprocess.run(["git", "check-ignore", "-q", name], cwd=REPOSITORY, check=False)
        assert ignored.returncode == 0, name


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_pin_has_hashes_and_says_nothing_of_where_it_came_from(lock: Path) -> None:
    text = lock.read_text()
    pins = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert pins
    for pin in pins:
        assert re.match(r"^[A-Za-z0-9._-]+(?:\[[a-z0-9,_-]+\])?==\S+", pin), pin
        assert "--hash=sha256:" in pin, pin
    assert "://" not in text


def test_every_list_of_dependencies_has_its_lock() -> None:
    names = {path.stem for path in (REPOSITORY / "requirements").glob("*.in")}
    assert names - {lock.stem for lock in LOCKS} == {"executor"}, "executor.in is a part of the lists for each Python"
