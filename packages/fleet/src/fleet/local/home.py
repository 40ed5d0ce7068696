"""The state folder of a stack: data, logs, its record and its secrets. One stack runs in a folder at a time."""

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fleet_wire.errors import Precondition

LOCK_WAIT_SECONDS = 0.5
"""Others hold the lock for a moment to see whether a stack runs."""


@dataclasses.dataclass(frozen=True)
class Home:
    """The folder `.fleet`, or what FLEET_HOME names."""

    path: Path

    @property
    def record_path(self) -> Path:
        return self.path / "stack.json"

    def data(self, name: str) -> Path:
        """The folder of a part's data; made when asked for."""
        folder = self.path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def prepare(self) -> None:
        """Makes the folder, for this user only, and puts the logs of the run before aside as NAME.log.1."""
        logs = self.path / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        for log in logs.glob("*.log"):
            log.replace(log.with_suffix(".log.1"))

    def secret(self, name: str) -> str:
        """A random secret, made once and kept: the graph's database knows its password as long as it lives."""
        return self.secret_path(name).read_text()

    def secret_path(self, name: str) -> Path:
        path = self.path / name
        if not path.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_private(path, secrets.token_urlsafe(24))
        return path

    def read_record(self) -> dict[str, Any] | None:
        """What the last stack wrote of itself; None where there is none, or it cannot be read."""
        try:
            record = json.loads(self.record_path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return record if isinstance(record, dict) else None

    def write_record(self, record: dict[str, Any]) -> None:
        write_private(self.record_path, json.dumps(record, indent=1))

    def is_running(self) -> bool:
        """Whether a supervisor holds the folder now. The kernel frees the lock with the process, however it ends."""
        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder for the block; raises Precondition where a stack runs in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("ab") as file:
            deadline = time.monotonic() + LOCK_WAIT_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        record = self.read_record() or {}
                        pid = record.get("supervisor", {}).get("pid", "unknown")
                        raise Precondition(
                            f"a stack runs in {self.path} already (process {pid}); "
                            "`fleet status` shows it, Ctrl-C where it was started ends it"
                        ) from None
                    time.sleep(0.05)
            yield


def find(environment: dict[str, str] | None = None) -> Home:
    """FLEET_HOME, or `.fleet` in the current folder."""
    given = (os.environ if environment is None else environment).get("FLEET_HOME")
    return at(Path(given or ".fleet"))


def at(path: Path) -> Home:
    """The state folder at a path."""
    return Home(path.absolute())


def write_private(path: Path, text: str) -> None:
    """Writes a file that only this user may read, whole or not at all."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
