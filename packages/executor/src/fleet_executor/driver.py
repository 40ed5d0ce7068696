"""The process that speaks with Ray, apart from the service. `python -m fleet_executor.driver FD` is the child, `Driver` the
parent's side of it.

Why a process: while Ray waits for a node it can hold the interpreter's lock, so that nothing else in the process runs, for
minutes; it ends the process a minute after a cluster went away; and it takes over SIGTERM. Here all of that happens to a
child that is ended and started anew, while the service answers. Over a socket go lines of JSON, of our own types.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Optional

import msgspec
import structlog

from fleet_executor.config import WorkerConfig, code_hash, pool_hash, pool_name
from fleet_executor.jobs import ActorView, OpenJob
from fleet_executor.ports import Cluster, ClusterLost, ClusterStats, in_thread
from fleet_wire import logs
from fleet_wire.errors import Unavailable

log = structlog.get_logger(__name__)

LINE_BYTES = 256 * 1024 * 1024
GOODBYE_SECONDS = 3.0
SECONDS = {"connect": 60.0, "probe": 150.0, "make_pool": 150.0}
"""How long the parent waits for an answer, before it takes the child for stuck and ends it. The child itself gives up
sooner in all but `connect`, which is where Ray can hold it."""
OTHER_SECONDS = 25.0
CHECK_SECONDS = 4.0
PR_SET_PDEATHSIG = 1
OTHER_CODE = "the code on disk is not what this process runs any more: restart the executor"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The first line, to the child."""

    address: str
    config: WorkerConfig
    pool_size: int
    pool: str
    """As the parent names it: the child must be of the same code."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    method: str
    arguments: msgspec.Raw


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """With an error, its sentence; else the result."""

    number: int
    error: Optional[str] = None
    result: msgspec.Raw = msgspec.Raw(b"null")


ARGUMENTS: Mapping[str, Any] = {
    "connect": tuple[()],
    "check": tuple[()],
    "probe": tuple[()],
    "make_pool": tuple[()],
    "stats": tuple[()],
    "survey": tuple[Optional[bool]],
    "accept": tuple[str, msgspec.Raw],  # the jobs, which go on to the actor as they are
    "cancel": tuple[str, list[str]],
    "kill": tuple[str],
    "renew": tuple[str],
}
DECODERS = {method: msgspec.json.Decoder(arguments) for method, arguments in ARGUMENTS.items()}


Begun = tuple["subprocess.Popen[bytes]", socket.socket]


def begin() -> Begun:
    """Starts a child, which loads Ray and waits for what it is told over the socket. It ends when the socket is closed, and
    with this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", "fleet_executor.driver", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for the service, which ends the child in order
        )
    return child, ours


class Driver:
    """A Cluster in a child process, which lives from `connect` to `disconnect`; the first one may have begun already."""

    def __init__(self, address: str, config: WorkerConfig, pool_size: int, begun: Optional[Begun] = None) -> None:
        self.ray_version = metadata.version("ray")
        self.pool = pool_name(pool_hash(code_hash(), config))
        self._setup = Setup(address=address, config=config, pool_size=pool_size, pool=self.pool)
        self.actors: Sequence[str] = ()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._begun = begun
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._writer: Optional[asyncio.StreamWriter] = None
        self._reading: Optional[asyncio.Task[None]] = None

    async def connect(self) -> None:
        await self.disconnect()
        await self._start()
        await self._ask("connect")

    async def disconnect(self) -> None:
        """Ends the child; one that does not go by itself is killed."""
        child, writer, reading = self._child, self._writer, self._reading
        self._child = self._writer = self._reading = None
        if writer is not None:
            writer.close()
        if child is not None:
            try:
                await in_thread(child.wait, GOODBYE_SECONDS)
            except asyncio.TimeoutError:
                child.kill()
                await in_thread(child.wait)
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def check(self) -> None:
        try:
            await self._ask("check", seconds=CHECK_SECONDS)
        except Unavailable as error:
            if self._writer is None:
                raise ClusterLost(str(error)) from error
            raise

    async def probe(self) -> Mapping[str, str]:
        return msgspec.json.decode(await self._ask("probe"), type=dict[str, str])

    async def make_pool(self) -> Sequence[str]:
        self.actors = msgspec.json.decode(await self._ask("make_pool"), type=list[str])
        return self.actors

    async def survey(self, drain: Optional[bool]) -> Mapping[str, ActorView]:
        return msgspec.json.decode(await self._ask("survey", drain), type=dict[str, ActorView])

    async def accept(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        return msgspec.json.decode(await self._ask("accept", actor, jobs), type=str)

    async def cancel(self, actor: str, keys: Sequence[str]) -> None:
        await self._ask("cancel", actor, keys)

    async def kill(self, actor: str) -> None:
        await self._ask("kill", actor)

    async def renew(self, actor: str) -> None:
        await self._ask("renew", actor)

    async def stats(self) -> ClusterStats:
        return msgspec.json.decode(await self._ask("stats"), type=ClusterStats)

    async def _start(self) -> None:
        begun, self._begun = self._begun or begin(), None
        self._child, ours = begun
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
        self._reading = asyncio.ensure_future(self._read(reader, self._child))
        self._send(self._setup)

    async def _ask(self, method: str, *arguments: object, seconds: Optional[float] = None) -> bytes:
        if self._writer is None:
            raise Unavailable(f"not connected to the Ray cluster at {self._setup.address}")
        number = next(self._numbers)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        limit = seconds or SECONDS.get(method, OTHER_SECONDS)
        try:
            self._send(Call(number=number, method=method, arguments=msgspec.Raw(msgspec.json.encode(arguments))))
            answer = await asyncio.wait_for(reply, limit)
        except asyncio.TimeoutError as error:
            raise Unavailable(f"the Ray cluster at {self._setup.address} did not answer within {limit:g} s") from error
        finally:
            self._waiting.pop(number, None)
        if answer.error is not None:
            raise Unavailable(answer.error)
        return bytes(answer.result)

    def _send(self, value: msgspec.Struct) -> None:
        assert self._writer is not None
        self._writer.write(msgspec.json.encode(value) + b"\n")

    async def _read(self, reader: asyncio.StreamReader, child: "subprocess.Popen[bytes]") -> None:
        while line := await _line(reader):
            reply = msgspec.json.decode(line, type=Reply)
            waiting = self._waiting.get(reply.number)
            if waiting is not None and not waiting.done():
                waiting.set_result(reply)
        code = await in_thread(child.wait)
        if self._child is child:
            self._writer = None
            log.warning("the process that speaks with Ray ended", code=code)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Unavailable(f"the Ray cluster at {self._setup.address} was lost"))


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next whole line; nothing at the end."""
    try:
        line = await reader.readline()
    except ConnectionError:
        return b""
    return line if line.endswith(b"\n") else b""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The child: answers calls until the parent is gone."""
    from fleet_executor.cluster import RayCluster  # here, and so only in the child, and before it is told anything

    first = await _line(reader)
    if not first:  # the parent found a wrong setting, say
        return
    setup = msgspec.json.decode(first, type=Setup)
    logs.configure("ray-executor", setup.config.log_level, setup.config.log_format)
    cluster = RayCluster(setup.address, setup.config, setup.pool_size)
    calls: set[asyncio.Task[None]] = set()
    while line := await _line(reader):
        call = msgspec.json.decode(line, type=Call)
        if cluster.pool != setup.pool:
            writer.write(msgspec.json.encode(Reply(number=call.number, error=OTHER_CODE)) + b"\n")
            continue
        task = asyncio.ensure_future(_answer(cluster, call, writer))
        calls.add(task)
        task.add_done_callback(calls.discard)
    for task in calls:
        task.cancel()
    await cluster.disconnect()


async def _answer(cluster: Cluster, call: Call, writer: asyncio.StreamWriter) -> None:
    try:
        arguments = DECODERS[call.method].decode(call.arguments)
        result = await getattr(cluster, call.method)(*arguments)
        reply = Reply(number=call.number, result=msgspec.Raw(msgspec.json.encode(result)))
    except Unavailable as error:
        reply = Reply(number=call.number, error=str(error))
    except Exception as error:
        log.exception("call of Ray failed", method=call.method)
        reply = Reply(number=call.number, error=f"{type(error).__name__}: {error}")
    writer.write(msgspec.json.encode(reply) + b"\n")


async def _child(descriptor: int) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor), limit=LINE_BYTES)
    with contextlib.suppress(Unavailable):
        await serve(reader, writer)


if __name__ == "__main__":
    import uvloop  # here, since the parent has its loop

    if sys.platform == "linux":
        # A child that Ray holds would not see the end of its parent.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    uvloop.install()
    asyncio.run(_child(int(sys.argv[1])))
    os._exit(0)  # past Ray's own good-bye, which can wait for a cluster that is gone
