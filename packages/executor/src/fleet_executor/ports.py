"""What the executor needs of a cluster, as a Protocol.

`cluster.RayCluster` is the real one, and `driver.Driver` the same in a process of its own.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Optional, Protocol, TypeVar

import msgspec

from fleet_executor.jobs import ActorView, OpenJob
from fleet_wire.errors import Unavailable

T = TypeVar("T")


class ClusterLost(Unavailable):
    """The connection is over for certain: only a new one helps."""


class Used(msgspec.Struct, frozen=True, kw_only=True):
    used: float
    total: float


class NodeStats(msgspec.Struct, frozen=True, kw_only=True):
    """A dead node has no amounts."""

    node_id: str
    address: str
    alive: bool
    no_sandbox: str
    """Why it can make no sandbox; empty where it can."""
    cpus: Optional[Used] = None
    gpus: Optional[Used] = None
    memory_bytes: Optional[Used] = None


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True):
    nodes: list[NodeStats]
    cpus: Used
    gpus: Used
    memory_bytes: Used
    ray_version: str
    python_version: str


class Cluster(Protocol):
    """Every call raises Unavailable, with a sentence for the operator, while the cluster cannot do it."""

    pool: str
    """Name of the pool that this release makes."""
    actors: Sequence[str]
    """Its actors' names, as of the last `make_pool`."""

    async def connect(self) -> None:
        """Connects to a cluster that runs already; never starts one."""

    async def disconnect(self) -> None:
        """Lets go of the cluster, also of one that is gone; the actors stay."""

    async def check(self) -> None:
        """Whether the cluster still answers. Raises ClusterLost where it never will on this connection."""

    async def probe(self) -> Mapping[str, str]:
        """Proves on every node not seen before that our code runs there. Answers with why a node can make no sandbox, by the
        address of each that cannot, which is no reason to raise."""

    async def make_pool(self) -> Sequence[str]:
        """Makes the actors that the pool lacks, for its size and for nodes that have none, and waits until they run our
        code. The first call of a connection also looks at those that exist. Answers with the names of all; others of the
        pool are surplus."""

    async def survey(self, drain: Optional[bool]) -> Mapping[str, ActorView]:
        """Asks every actor of every pool what it holds. With `drain` True those of other pools are told to take no more
        jobs, and those of this one to take them; with None they are only asked. One of this pool also measures the model
        server, and says so in the next survey."""

    async def accept(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        """Gives jobs to an actor; answers with its reason where it does not take them, else with nothing."""

    async def cancel(self, actor: str, keys: Sequence[str]) -> None:
        """Has an actor stop what it does for these jobs, by key; those it does not hold are no error."""

    async def kill(self, actor: str) -> None:
        """Ends an actor for good."""

    async def renew(self, actor: str) -> None:
        """Ends the process that an actor had when it answered last, and nothing else: Ray starts another. Where it has ended
        already, or was asked for before, that is all."""

    async def stats(self) -> ClusterStats:
        """What the cluster says of itself, now."""


async def in_thread(work: Callable[[], T], seconds: Optional[float] = None) -> T:
    """Runs what blocks in a thread that does not keep the process alive: a call of Ray can block for minutes.

    Raises asyncio.TimeoutError after `seconds`; the thread goes on, and what it brings is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 (raised again where it is awaited)
            settle(future.set_exception, error)
        else:
            settle(future.set_result, result)

    def settle(how: Callable[..., None], outcome: object) -> None:
        try:
            loop.call_soon_threadsafe(lambda: None if future.done() else how(outcome))
        except RuntimeError:  # the loop has ended, and with it whoever asked
            return

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wait_for(future, seconds)
