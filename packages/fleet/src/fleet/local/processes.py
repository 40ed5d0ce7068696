"""Process groups of the stack: who belongs to it, and how all of them end.

Every process carries the stack's id in its environment (MARK), and each part is the leader of a session and process group
of its own. A group is ended as a whole; the mark finds what left its group.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

MARK = "FLEET_STACK_ID"


def marked(stack_id: str) -> list[psutil.Process]:
    """Living processes of this user that carry the stack's mark, without the calling one."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == stack_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def group(leader: int) -> list[psutil.Process]:
    """Living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def signal_group(leader: int, number: signal.Signals) -> None:
    """Sends a signal to a whole group; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def set_weight(leader: int, nice: int) -> None:
    """How readily a session's processes get the processor, as a nice value; where the system cannot be told, nothing.

    Linux shares the processor among sessions first (sched(7), "The autogroup feature"), so that the nice value of a process
    that leads a session of its own says nothing to those of others.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{leader}/autogroup").write_text(str(nice))


def started_at(pid: int) -> float | None:
    """When a process began, in seconds since 1970, which with its pid names it for ever; None where there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def end_all(stack_id: str, leaders: Iterable[int] = (), grace_seconds: float = 3.0) -> int:
    """Ends everything of a stack: SIGTERM, after the grace SIGKILL until nothing is left. Answers with how many there were.

    For when no supervisor does it in order. `leaders` are groups known to be the stack's own.
    """
    leaders = set(leaders)
    first = _of(stack_id, leaders)
    for process in first:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(first, timeout=grace_seconds)
    deadline = time.monotonic() + 10
    while (left := _of(stack_id, leaders)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1)
    return len(first)


def _of(stack_id: str, leaders: set[int]) -> list[psutil.Process]:
    found = {process.pid: process for process in marked(stack_id)}
    for leader in leaders:
        found.update({process.pid: process for process in group(leader)})
    return list(found.values())
