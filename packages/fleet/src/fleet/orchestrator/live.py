"""Markers of the records that are live, so that these are found without reading all that is kept of old ones.

A marker is written before its record and taken away after the record is over and what it leaves is tidied up: no live record is
without one, whenever a process dies. One that stands without a live record is what a crash left, and a sweep takes it away.

The deliberations of a plan have none of their own: a plan is live while a task of it runs, and a task runs until its deliberation
is over and tidied up. Where the plan has to be told before that, the deliberation gets one.
"""

import asyncio
import datetime as dt

from fleet.deliberation.plan import Plan, PlanEvent, deliberation_of
from fleet.deliberation.state import Deliberation, DeliberationEvent
from fleet.orchestrator.records import E, Records, S
from fleet.orchestrator.store import Live
from fleet.recent import Recent
from fleet_wire.errors import Conflict
from fleet_wire.kv import Bucket, Entry, change

DeliberationRecords = Records[Deliberation, DeliberationEvent]
PlanRecords = Records[Plan, PlanEvent]
KEPT = 4096
"""Markers of which a replica remembers that it made them."""
STRAY_AFTER = dt.timedelta(minutes=1)
"""A marker without a record that is older was left by a crash: the record follows on it at once, or never."""


class Markers:
    """The markers of one kind of record, under `{prefix}.{name}` in the bucket of the deliberations."""

    def __init__(self, bucket: Bucket[Live], prefix: str) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}."
        self._own: Recent[int] = Recent(KEPT)

    async def create(self, records: Records[S, E], name: str, state: S, now: dt.datetime) -> tuple[S, bool]:
        """Saves a new record with its marker; answers with the record that stands, and whether it is this one.

        Both are sent at once: they go over one connection, and the server takes them in the order in which they were sent. Where
        the record is over, only the marker made here is taken back: one that stood says that something is left to be done.
        """
        made, created = await asyncio.gather(self.mark(name, now), records.create(name, state), return_exceptions=True)
        if isinstance(made, BaseException):
            raise made
        if isinstance(created, BaseException):
            raise created
        if made and not created[1] and records.over(created[0]):
            await self.unmark(name, made)
        return created

    async def names(self) -> dict[str, Entry[Live]]:
        """The marked records, with their markers."""
        return {entry.key[len(self._prefix) :]: entry async for entry in self._bucket.entries(self._prefix)}

    async def live(self, records: Records[S, E]) -> list[S]:
        """The marked records as they stand, without those that are over."""
        found = await asyncio.gather(*(records.read(name) for name in await self.names()))
        return [state for state in found if state is not None and not records.over(state)]

    async def mark(self, name: str, now: dt.datetime) -> int:
        """Marks a record as live; answers with the revision of the marker, 0 where one stands already."""
        try:
            revision = await self._bucket.create(self._prefix + name, Live(created_at=now))
        except Conflict:
            return 0  # by a start that was cut off, or by another replica
        self._own.put(name, revision)
        return revision

    async def mark_again(self, name: str, now: dt.datetime) -> None:
        """Marks a record that is about to be live again, so that nobody takes away the marker by its revision from before."""
        self._own.drop(name)
        await change(self._bucket, self._prefix + name, lambda _: Live(created_at=now))

    def own(self, name: str) -> int:
        """The revision of the marker that this replica made; 0 where it did not."""
        return self._own.get(name) or 0

    async def revision(self, name: str) -> int:
        """The revision of the marker as it stands; 0 where there is none."""
        entry = await self._bucket.get(self._prefix + name)
        return entry.revision if entry else 0

    async def unmark(self, name: str, revision: int = 0) -> None:
        """Has the marker taken away, with a revision only where it has not been made again since. Nothing is left in its place,
        and nothing is waited for: one that stays is found by the next sweep."""
        self._own.drop(name)
        await self._bucket.discard(self._prefix + name, revision)


def running_of(plan: Plan) -> list[str]:
    """The deliberations that are live because the plan is."""
    return [deliberation_of(plan, task) for task in plan.tasks if task.status == "running"]
