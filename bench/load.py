"""Loads on anything that can be called: so many at a time, for a number of calls or of seconds. Standard library only."""

import asyncio
import dataclasses
import math
import time
from collections.abc import Awaitable, Callable

RAMP_SHARE = 0.2
"""The part of a timed load in which the calls come up to speed, and which its rate leaves out."""

Call = Callable[[], Awaitable[None]]


@dataclasses.dataclass(frozen=True)
class Load:
    """`seconds` 0 makes `count` calls; else calls begin for that long. `count` 0 is without limit."""

    at_once: int
    count: int = 0
    seconds: float = 0


@dataclasses.dataclass
class Outcome:
    """What a load came to. `seconds` is from its first call to the end of its last; `rate` in calls a second."""

    latencies: list[float]
    seconds: float
    rate: float
    failures: list[str] = dataclasses.field(default_factory=list)


async def run(call: Call, load: Load) -> Outcome:
    """Keeps `at_once` calls open. A call that raises counts as failed, and its time not at all."""
    begun = time.perf_counter()
    end = begun + load.seconds if load.seconds else float("inf")
    left = load.count or 1_000_000_000
    latencies: list[float] = []
    ended_at: list[float] = []
    failures: list[str] = []

    async def worker() -> None:
        nonlocal left
        while left > 0 and time.perf_counter() < end:
            left -= 1
            start = time.perf_counter()
            try:
                await call()
            except Exception as error:  # noqa: BLE001 (whatever it is, it is reported, and the run goes on)
                failures.append(f"{type(error).__name__}: {error}"[:300])
                await asyncio.sleep(0.01)
            else:
                now = time.perf_counter()
                latencies.append(now - start)
                ended_at.append(now)

    await asyncio.gather(*(worker() for _ in range(load.at_once)))
    seconds = time.perf_counter() - begun
    first = begun + load.seconds * RAMP_SHARE
    steady = sum(first <= moment <= end for moment in ended_at)
    # Where nothing ended in time, the whole load with its end is all there is to go by.
    rate = steady / (end - first) if load.seconds and steady else len(latencies) / seconds
    return Outcome(latencies, seconds, rate, failures)


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of them lies, by nearest rank; nan for none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
