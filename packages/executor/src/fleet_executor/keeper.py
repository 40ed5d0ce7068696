"""Keeps hold of the cluster: connects, probes, makes the pool, drains old ones, and sees that no job is lost."""

import asyncio
import collections
import datetime as dt
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from fleet_executor.jobs import ActorView, OpenJob
from fleet_executor.ports import Cluster
from fleet_executor.reconcile import reconcile
from fleet_executor.registry import Registry
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.rpc import Readiness

log = structlog.get_logger(__name__)

TICK_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 15.0
CHECKS_BEFORE_LOST = 2
"""Checks in a row without an answer before the cluster is let go. Ray itself would end the process after a minute."""

NO_ACTOR = "no VLLMAgentJob of the pool can take jobs now"


class Keeper:
    """One loop, and the Placement of jobs. Reports the parts `ray` (the connection and its probe), `pool` and `registry`."""

    def __init__(
        self, cluster: Cluster, registry: Registry, bus: Bus, readiness: Readiness, now: Callable[[], dt.datetime]
    ) -> None:
        self._cluster = cluster
        self._registry = registry
        self._bus = bus
        self._readiness = readiness
        self._now = now
        self._views: Mapping[str, ActorView] = {}
        self._given: collections.Counter[str] = collections.Counter()

    def pick(self) -> str:
        """The actor with the least to do; raises Unavailable while none can take jobs."""
        able = self._able()
        if not able:
            raise Unavailable(NO_ACTOR)
        return min(able, key=lambda view: (len(view.held) + self._given[view.name], view.name)).name

    async def accept(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        """See `Cluster.accept`."""
        self._given[actor] += len(jobs)
        return await self._cluster.accept(actor, jobs)

    @property
    def model(self) -> str:
        """The model that the actors name; empty until one has asked for it."""
        return next((view.model for view in self._views.values() if view.model), "")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; then lets go of the cluster, whose actors go on."""
        loop = asyncio.ensure_future(self._loop())
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({loop, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
        if loop.done() and not loop.cancelled():
            loop.result()
        await self._let_go()

    async def _loop(self) -> None:
        """What the cluster refuses is the reason why the service is not ready, and is tried again with back-off."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._cluster.connect()
                await self._first(self._watch(), self._work())
            except Unavailable as error:
                if self._views:
                    pause = FIRST_PAUSE_SECONDS
                self._views = {}
                self._readiness.report("ray", str(error))
                await self._let_go()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    @staticmethod
    async def _first(*loops: Coroutine[Any, Any, None]) -> None:
        """Runs loops that end only by what they raise, and raises what the first one does."""
        tasks = [asyncio.ensure_future(loop) for loop in loops]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        """Raises when the cluster is gone, also while other calls still wait for it."""
        misses = 0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._cluster.check()
                misses = 0
            except Unavailable:
                misses += 1
                if misses >= CHECKS_BEFORE_LOST:
                    raise

    async def _work(self) -> None:
        await self._cluster.probe()
        await self._cluster.make_pool()
        claimed = False
        while True:
            try:
                if not claimed:
                    await self._registry.claim_pool(self._cluster.pool, self._now())
                    claimed = True
                await self._step()
                self._readiness.report("registry", None)
            except _ClusterError as error:
                self._readiness.report("pool", str(error))
            except Unavailable as error:
                self._readiness.report("registry", str(error))
            await asyncio.sleep(TICK_SECONDS)

    async def _step(self) -> None:
        current = await self._registry.current_pool()
        ours = current is not None and current.pool == self._cluster.pool
        views = await self._survey(drain=ours)
        self._views, self._given = views, collections.Counter()
        if current is not None and not ours:
            self._readiness.report("pool", f"another release took over, with the pool {current.pool}")
        else:
            self._readiness.report("pool", None if self._able() else NO_ACTOR)
        self._readiness.report("ray", None)
        if ours:
            await reconcile(self._registry, self._bus, views, self, self._now())

    async def _survey(self, drain: bool) -> Mapping[str, ActorView]:
        """Also makes what is missing of the pool, ends what is empty of older ones, and probes nodes that are new."""
        try:
            await self._cluster.probe()
            views = dict(await self._cluster.survey(True if drain else None))
            if drain and any(name not in views for name in self._cluster.actors):
                await self._cluster.make_pool()
            for name, view in list(views.items()):
                if drain and name not in self._cluster.actors and view.answers and view.draining and not view.held:
                    await self._cluster.kill(name)
                    del views[name]
                    log.info("VLLMAgentJob of an older pool ended", actor=name)
        except Unavailable as error:
            raise _ClusterError(str(error)) from error
        return views

    def _able(self) -> list[ActorView]:
        views = (self._views.get(name) for name in self._cluster.actors)
        return [view for view in views if view is not None and view.answers and not view.draining]

    async def _let_go(self) -> None:
        try:
            await self._cluster.disconnect()
        except Unavailable as error:
            log.warning("the cluster was left without good-bye", reason=str(error))


class _ClusterError(Unavailable):
    """The cluster, and not the registry, is why a step failed."""
