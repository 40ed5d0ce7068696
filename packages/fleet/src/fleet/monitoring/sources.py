"""What the dashboard asks for: each answer is kept with when it was asked and came, and with the error where none came.

A source that does not answer keeps its last value, which is shown with its age and the error; before its first answer its
value is None. Nothing here ever turns a missing answer into a zero or an empty list.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from fleet_wire.errors import FleetError

Clock = Callable[[], dt.datetime]
Ask = Callable[[], Awaitable[Any]]

ANSWER_SECONDS = 6.0
"""How long any source may take; each asks with a shorter limit of its own."""


@dataclasses.dataclass(frozen=True)
class Health:
    """What a part says of itself. `version` is None where it does not say."""

    ready: bool
    reason: str = ""
    version: str | None = None


@dataclasses.dataclass(frozen=True)
class Probe:
    """How to ask one source, and how often. `kind` says where it is shown."""

    name: str
    kind: Literal["service", "infrastructure", "data"]
    address: str
    every_seconds: float
    ask: Ask


@dataclasses.dataclass(frozen=True)
class Source:
    """The state of one source. `ok` is whether the last try was answered; None before the first one has ended."""

    value: Any = None
    ok: bool | None = None
    error: str = ""
    asked_at: dt.datetime | None = None
    answered_at: dt.datetime | None = None

    def age_seconds(self, now: dt.datetime) -> float | None:
        """How old `value` is; None where there never was one."""
        return None if self.answered_at is None else max(0.0, (now - self.answered_at).total_seconds())


class Sources:
    """All sources by name, kept fresh by `run`."""

    def __init__(self, probes: list[Probe], now: Clock) -> None:
        self.probes: Mapping[str, Probe] = {probe.name: probe for probe in probes}
        self._states = {probe.name: Source() for probe in probes}
        self.now = now

    def __getitem__(self, name: str) -> Source:
        return self._states[name]

    async def run(self, stop: asyncio.Event) -> None:
        """Asks each source by its own clock, so that one that hangs holds up no other."""
        async with asyncio.TaskGroup() as group:
            for probe in self.probes.values():
                group.create_task(self._keep(probe, stop))

    async def poll(self, name: str) -> Source:
        """Asks once."""
        probe, asked_at = self.probes[name], self.now()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                value = await probe.ask()
        except FleetError as error:
            self._missed(name, asked_at, str(error))
        except TimeoutError:
            self._missed(name, asked_at, f"no answer within {ANSWER_SECONDS:g} s")
        else:
            self._states[name] = Source(value, True, "", asked_at, self.now())
        return self._states[name]

    async def _keep(self, probe: Probe, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.poll(probe.name)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), probe.every_seconds)

    def _missed(self, name: str, asked_at: dt.datetime, error: str) -> None:
        before = self._states[name]
        self._states[name] = dataclasses.replace(before, ok=False, error=error, asked_at=asked_at)
