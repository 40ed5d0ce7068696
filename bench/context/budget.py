"""How large the memory is that is measured, and how much is asked of it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Budget:
    """The memory has `stories` with PLANS plans each, whose tasks are all decided. `cold`, `cached` and `writes` are calls one
    at a time; `hot` requests are asked again and again; `many_seconds` is how long MANY at a time are asked."""

    stories: int
    warm_up: int
    cold: int
    cached: int
    writes: int
    hot: int
    many_seconds: float


PLANS = 5
TASKS = 10
"""Decided tasks of a plan."""
MANY = 64
HOT_SHARE = 0.9
"""Of the mix: the part that is asked again, and so comes from the cache; all others are asked once."""
CORES = 2
FULL = Budget(stories=2000, warm_up=500, cold=2000, cached=4000, writes=400, hot=200, many_seconds=15)
QUICK = Budget(stories=10, warm_up=10, cold=20, cached=40, writes=10, hot=10, many_seconds=1)
