"""Keeps hold of the cluster: connects, probes, makes the pool, drains old ones, and sees that no job is lost."""

import asyncio
import collections
import datetime as dt
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Optional

import msgspec
import structlog

from fleet_executor.calls import ModelCalls
from fleet_executor.giving import Giving
from fleet_executor.jobs import SILENCE, ActorView, OpenJob, PoolClaim
from fleet_executor.ports import Cluster, ClusterLost
from fleet_executor.reconcile import reconcile
from fleet_executor.registry import Registry
from fleet_wire.bus import Bus
from fleet_wire.errors import Invalid, Unavailable
from fleet_wire.rpc import Readiness

log = structlog.get_logger(__name__)

TICK_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 15.0
LOST_SECONDS = 30.0
"""How long checks may go without an answer before the cluster is let go: a busy machine answers late. Ray itself would end
its process after a minute."""
DROP_SECONDS = 3.0
"""How long an actor may take to hear that jobs have ended."""
LEFT_OUT = dt.timedelta(seconds=30)
"""How long an actor that did not take jobs gets none, unless it is seen at work before: where it is the only one, nothing is
taken without it."""
BUSY_JOBS = 30
"""With more jobs than ten deliberations of three an actor is busy: its answers take longer by more than what they wait for
the call that is shared."""
AHEAD_JOBS = 12
"""How many jobs more than the least busy actor one may have for others to join it, which then share its calls."""

NO_ACTOR = "no VLLMAgentJob of the pool can take jobs now"


class Keeper:
    """The Placement of jobs, and what keeps it true. Reports the parts `ray` (the connection), `probe` (every node runs our
    code), `pool` and `registry`. While the probe is missing no new work is taken, and what was taken is seen to its end."""

    def __init__(
        self,
        cluster: Cluster,
        registry: Registry,
        bus: Bus,
        readiness: Readiness,
        now: Callable[[], dt.datetime],
        calls: ModelCalls,
        slots: int,
    ) -> None:
        self._cluster = cluster
        self._giving = Giving(cluster.accept, self._is_busy)
        self._registry = registry
        self._bus = bus
        self._readiness = readiness
        self._now = now
        self._views: Mapping[str, ActorView] = {}
        self._given: collections.Counter[str] = collections.Counter()
        self._picked = ""
        self._left_out: dict[str, tuple[dt.datetime, str]] = {}
        self._incarnations: dict[str, str] = {}
        self._lost_before: dict[str, dt.datetime] = {}
        self._started_at = now()
        self._claimed = False
        self._ours = False
        self._no_sandbox: Optional[Mapping[str, str]] = None
        self._unmade = "the pool is not made yet"
        self._made = asyncio.Event()
        self.calls = calls
        self._slots = slots

    def pick(self, jobs: int) -> str:
        """The actor with the least to do, which then counts as having so many jobs more; where all are busy, the one before
        again until it is too far ahead, or has no free slot left. Raises Unavailable while none can take jobs."""
        able = [view.name for view in self._able()]
        if not able:
            raise Unavailable(self._no_actor())
        least = min(able, key=lambda name: (self._jobs_of(name), name))
        most = min(self._jobs_of(least) + AHEAD_JOBS, self._slots - jobs)
        joins = self._picked in able and self._jobs_of(self._picked) <= most
        if not (joins and self._jobs_of(least) > BUSY_JOBS):
            self._picked = least
        self._given[self._picked] += jobs
        return self._picked

    async def accept(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        """See `Cluster.accept`. An actor that does not take them gets none for a while, so that others do."""
        try:
            refusal = await self._giving.give(actor, jobs)
        except Unavailable as error:
            self._left_out[actor] = (self._now(), str(error))
            raise
        if refusal:
            self._left_out[actor] = (self._now(), refusal)
            self._lost_before[actor] = self._now()
        return refusal

    async def drop(self, jobs: Sequence[OpenJob]) -> None:
        """Has the actors that hold these ended jobs stop working on them. One that cannot be told now is told by a later
        round."""
        holders: dict[str, set[str]] = {}
        for job in jobs:
            holding = {view.name for view in self._views.values() if job.key in view.held}
            for name in holding | ({job.actor} if job.actor else set()):
                holders.setdefault(name, set()).add(job.key)
        await asyncio.gather(*(self._tell(name, sorted(keys)) for name, keys in holders.items()))

    async def _tell(self, actor: str, keys: Sequence[str]) -> None:
        try:
            await asyncio.wait_for(self._cluster.cancel(actor, keys), DROP_SECONDS)
        except (Unavailable, asyncio.TimeoutError) as error:
            log.warning("actor not told of ended jobs yet", actor=actor, reason=str(error) or "no answer in time")

    @property
    def model(self) -> str:
        """The model that the actors name; empty until one has asked for it."""
        return next((view.model for view in self._views.values() if view.model), "")

    @property
    def no_sandbox(self) -> str:
        """Why not every node can make a sandbox; empty where all can."""
        if self._no_sandbox is None:
            return "no node has been probed yet"
        return "; ".join(f"node {address}: {reason}" for address, reason in sorted(self._no_sandbox.items()))

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
                await self._first(self._watch(), self._probe(), self._provide(), self._work(), self._renew())
            except Unavailable as error:
                if self._views:
                    pause = FIRST_PAUSE_SECONDS
                self._views, self._left_out = {}, {}
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
        clock = asyncio.get_running_loop().time
        missed_since: Optional[float] = None
        while True:
            await asyncio.sleep(TICK_SECONDS)
            begun = clock()
            try:
                await self._cluster.check()
                missed_since = None
            except ClusterLost:
                raise
            except Unavailable:
                missed_since = begun if missed_since is None else missed_since
                if clock() - missed_since >= LOST_SECONDS:
                    raise

    async def _probe(self) -> None:
        """Probes nodes that are new. Apart from `_provide`, so that a start waits for the longer of the two and not for both,
        and from `_work`, since both can take minutes."""
        while True:
            try:
                self._no_sandbox = await self._cluster.probe()
                self._readiness.report("probe", None)
            except Unavailable as error:
                self._readiness.report("probe", str(error))
            await asyncio.sleep(TICK_SECONDS)

    async def _provide(self) -> None:
        """Makes what the pool lacks. Once it was made, what fails here leaves the actors that are there at work."""
        while True:
            if not self._claimed or self._ours:
                try:
                    before = list(self._cluster.actors)
                    if list(await self._cluster.make_pool()) != before or self._unmade:
                        self._unmade = ""
                        self._made.set()
                except Unavailable as error:
                    if self._unmade:
                        self._unmade = str(error)
                    log.warning("the pool lacks actors", reason=str(error))
            await asyncio.sleep(TICK_SECONDS)

    async def _renew(self) -> None:
        """Has what is taken for lost started anew: Ray does so only where the process has ended. Apart from `_work`, since a
        node may be slow to answer."""
        while True:
            for name in list(self._views):
                view = self._views.get(name)  # anew: it may have answered while another was seen to
                if self._ours and view is not None and view.silent_seconds >= SILENCE.total_seconds():
                    try:
                        await self._cluster.renew(name)
                    except Unavailable as error:
                        log.warning("silent VLLMAgentJob not started anew yet", actor=name, reason=str(error))
            await asyncio.sleep(TICK_SECONDS)

    async def _work(self) -> None:
        while True:
            try:
                await self._step()
                self._readiness.report("registry", None)
            except _ClusterError as error:
                self._readiness.report("pool", str(error))
            except (Unavailable, Invalid) as error:
                self._readiness.report("registry", str(error))
            try:
                await asyncio.wait_for(self._made.wait(), TICK_SECONDS)  # a new pool is news
                self._made.clear()
            except asyncio.TimeoutError:
                continue

    async def _step(self) -> None:
        current = await self._claim()
        self._ours = current is not None and current.pool == self._cluster.pool
        now, counted = self._now(), self._given.copy()  # before the survey: what is given during it may not be in it
        views = self._marked(await self._survey(drain=self._ours), now)
        self._views = views
        self._given.subtract(counted)
        self._readiness.report("pool", self._missing_of_pool(current))
        self._readiness.report("ray", None)
        for view in views.values():
            if view.metrics:
                self.calls.measured(view.waiting)
            elif view.metrics is False:
                self.calls.unmeasured()
        if self._ours:
            mark = self.calls.mark()
            jobs = await reconcile(self._registry, self._bus, views, self, now)
            self.calls.learn(jobs, mark)
            await self._drop_ended(views, jobs)

    async def _drop_ended(self, views: Mapping[str, ActorView], jobs: Sequence[OpenJob]) -> None:
        """Actors may hold what has ended: it was cancelled, or ended for one that was silent. Those that were cancelled while
        nobody could tell their actor are found here."""
        is_open = {job.key for job in jobs if not job.cancelled}
        for name, view in views.items():
            ended = [key for key in sorted(view.held - is_open) if await self._has_ended(key)]
            if ended:
                await self._tell(name, ended)

    async def _has_ended(self, key: str) -> bool:
        try:
            return await self._registry.ended(key) is not None
        except Invalid:
            return False

    async def _claim(self) -> Optional[PoolClaim]:
        """Whose the new jobs are. Claimed once, when the pool is there: whoever claims them after that is a later release."""
        current = await self._registry.current_pool()
        if self._unmade or (self._claimed and current is not None):
            return current
        await self._registry.claim_pool(self._cluster.pool, self._started_at)
        self._claimed = True
        return await self._registry.current_pool()

    def _missing_of_pool(self, current: Optional[PoolClaim]) -> Optional[str]:
        if self._claimed and current is not None and not self._ours:
            return f"another release took over, with the pool {current.pool}"
        return self._unmade or (None if self._able() else self._no_actor())

    def _marked(self, views: Mapping[str, ActorView], now: dt.datetime) -> Mapping[str, ActorView]:
        """The views, with what is known here of lost jobs: an actor that names another incarnation was started anew. One that
        was left out, and is at work again, has lost what it does not name the next time it is asked: what it was called
        with may come to it after this answer, but then before that."""
        back = []
        for view in views.values():
            if not view.answers:
                continue
            if self._incarnations.setdefault(view.name, view.incarnation) != view.incarnation:
                self._incarnations[view.name] = view.incarnation
                self._lost_before[view.name] = now
                self._left_out.pop(view.name, None)
            elif view.name in self._left_out and view.connected and self._left_out[view.name][0] < now:
                del self._left_out[view.name]
                back.append(view.name)
        replace = msgspec.structs.replace
        marked = {name: replace(view, lost_before=self._lost_before.get(name)) for name, view in views.items()}
        self._lost_before.update(dict.fromkeys(back, now))
        return marked

    async def _survey(self, drain: bool) -> Mapping[str, ActorView]:
        """Also ends what is empty of older pools."""
        try:
            views = dict(await self._cluster.survey(True if drain else None))
            for name, view in list(views.items()):
                if drain and name not in self._cluster.actors and view.answers and view.draining and not view.held:
                    await self._cluster.kill(name)
                    del views[name]
                    log.info("VLLMAgentJob of an older pool ended", actor=name)
        except Unavailable as error:
            raise _ClusterError(str(error)) from error
        return views

    def _jobs_of(self, actor: str) -> int:
        """What it held when it was asked last, and has been given since."""
        return self._given[actor] + self._held_by(actor)

    def _held_by(self, actor: str) -> int:
        """What it held when it was asked last."""
        view = self._views.get(actor)
        return len(view.held) if view else 0

    def _is_busy(self, actor: str) -> bool:
        """By what it held: of what it has been given since, much has ended."""
        return self._held_by(actor) > BUSY_JOBS

    def _able(self) -> list[ActorView]:
        left_since = self._now() - LEFT_OUT
        self._left_out = {name: entry for name, entry in self._left_out.items() if entry[0] > left_since}
        views = (self._views.get(name) for name in self._cluster.actors if name not in self._left_out)
        # One missed answer is a busy machine; an actor that really cannot take a job says so, and is left out for a while.
        # One that has never answered is not known to take any.
        silent = SILENCE.total_seconds()
        return [
            view
            for view in views
            if view is not None
            and view.name in self._incarnations
            and view.silent_seconds < silent
            and not view.draining
        ]

    def _no_actor(self) -> str:
        return "; ".join([NO_ACTOR, *(reason for _, reason in self._left_out.values())])

    async def _let_go(self) -> None:
        try:
            await self._cluster.disconnect()
        except Unavailable as error:
            log.warning("the cluster was left without good-bye", reason=str(error))


class _ClusterError(Unavailable):
    """The cluster, and not the registry, is why a step failed."""
