"""A small process of its own that ends the stack's processes when the supervisor is gone, even by SIGKILL.

It reads lines from the supervisor: `+PID` a process group was started, `-PID` it has ended, `bye` all is well. When the pipe
closes without `bye`, it ends all groups and whatever else carries the stack's mark, and removes the stack's temporary folder.
Run as `python -m fleet.local.guard STACK_ID TEMPORARY_FOLDER`.
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path


class Guard:
    """The supervisor's end of the pipe. A guard that was killed is started again with what it must know."""

    def __init__(self, stack_id: str, temporary: Path) -> None:
        self._argv = [sys.executable, "-P", "-m", "fleet.local.guard", stack_id, str(temporary)]
        self._groups: set[int] = set()
        self.dismissed = False
        self._process = self._start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def add(self, leader: int) -> None:
        """A process group has been started."""
        self._groups.add(leader)
        self._tell(f"+{leader}")

    def remove(self, leader: int) -> None:
        """It has ended, and its number may be another's soon."""
        self._groups.discard(leader)
        self._tell(f"-{leader}")

    def dismiss(self) -> None:
        """Everything has ended in order."""
        self._tell("bye")
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self.dismissed = True

    def _tell(self, line: str) -> None:
        try:
            self._write(line)
        except BrokenPipeError:
            self._process.wait()
            self._process = self._start()
            for leader in self._groups:
                self._write(f"+{leader}")
            if line == "bye":
                self._write(line)

    def _write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )


def main(stack_id: str, temporary: Path) -> None:
    """Reads until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the supervisor, not before
    groups: set[int] = set()
    for line in sys.stdin:
        if line.startswith("+"):
            groups.add(int(line[1:]))
        elif line.startswith("-"):
            groups.discard(int(line[1:]))
        elif line.strip() == "bye":
            return
    from fleet.local import processes  # only now, so that a guard costs next to nothing while all is well

    processes.end_all(stack_id, groups)
    shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
