"""How long each phase may take. The whole run, with its starts and stops, stays under ten minutes on two cores."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Budget:
    """`rounds` times in turn every subject gets `one_seconds` of calls one at a time and `many_seconds` at MANY at a time.
    `kept` is how many decided deliberations the system is brought to, for `fill_seconds` at most."""

    rounds: int
    one_seconds: float
    many_seconds: float
    idle_seconds: float
    in_flight: tuple[int, ...]
    kept: int
    fill_seconds: float
    warm_up: int = 64
    total_seconds: float = 500
    """From the first phase on. After this, phases that are left are skipped, and the report says so."""


MANY = 64
FULL = Budget(
    rounds=3, one_seconds=5, many_seconds=5, idle_seconds=3, in_flight=(10, 100, 1000), kept=10_000, fill_seconds=110
)
QUICK = Budget(
    rounds=1,
    one_seconds=2,
    many_seconds=2.5,
    idle_seconds=1,
    in_flight=(10, 100),
    kept=500,
    fill_seconds=8,
    warm_up=32,
    total_seconds=60,
)
