"""The budget of a plan: what a task may set aside before it starts, so that all tasks together never use more than the plan has.

A reservation is what the task's deliberation may use at most, in its own right; what it did use takes its place when it ends.
So the sum of what was used and what is set aside stays within the limit, whatever order tasks start and end in.
"""

import math

from fleet_wire.events import Budget

NONE = Budget()


def plus(one: Budget, other: Budget) -> Budget:
    """The sum of two amounts."""
    return Budget(tokens=one.tokens + other.tokens, calls=one.calls + other.calls, seconds=one.seconds + other.seconds)


def allot(limit: Budget, used: Budget, own: Budget, sharers: int) -> Budget | None:
    """What a task sets aside of what `used` leaves of the plan's limit: its own budget, and where it has none, its part of
    the rest among `sharers`. None where the rest does not allow it.

    What the plan does not limit is the task's own; 0 sets no limit, so a limited amount is never allotted as 0.
    """
    tokens = _whole(limit.tokens, used.tokens, own.tokens, sharers)
    calls = _whole(limit.calls, used.calls, own.calls, sharers)
    seconds = _seconds(limit.seconds, used.seconds, own.seconds, sharers)
    if tokens is None or calls is None or seconds is None:
        return None
    return Budget(tokens=tokens, calls=calls, seconds=seconds)


def exhausted(limit: Budget, used: Budget, own: Budget) -> str:
    """What of the plan's budget does not allow a task that wants `own`, as a sentence; empty where all of it does."""
    for name in ("tokens", "calls", "seconds"):
        most, gone, wanted = getattr(limit, name), getattr(used, name), getattr(own, name)
        rest = most - gone
        if most and (rest <= 0 or wanted > rest):
            needs = f"{wanted:g} are needed" if wanted else "some are needed"
            return f"the plan's budget of {most:g} {name} has {max(0, rest):g} left, {needs}"
    return ""


def _whole(limit: int, used: int, own: int, sharers: int) -> int | None:
    if not limit:
        return own
    rest = limit - used
    wanted = own or max(1, rest // sharers)
    return wanted if 0 < wanted <= rest else None


def _seconds(limit: float, used: float, own: float, sharers: int) -> float | None:
    """Parts of the rest in whole milliseconds, rounded down."""
    if not limit:
        return own
    rest = limit - used
    wanted = own or math.floor(rest / sharers * 1000) / 1000 or rest
    return wanted if 0 < wanted <= rest else None
