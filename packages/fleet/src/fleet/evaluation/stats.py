"""Exact and small statistics for counts of solved tasks. Pure, no more than the standard library.

Two configurations that were given the same tasks are compared on the tasks where they differ: the exact form of McNemar's
test (Q. McNemar, Psychometrika 12, 1947) is a binomial test of those, and its interval is that of Clopper and Pearson
(Biometrika 26, 1934) for the share that went one way, stretched to the difference in solved tasks. Both hold given how many
tasks differ, and they agree: the interval leaves zero out exactly where the test is below the level. Where no task differs, as
many may differ, all one way, as Clopper and Pearson allow for none seen: few tasks alike are no sign of equality.
"""

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from statistics import NormalDist

LEVEL = 0.05
BOOTSTRAP_ROUNDS = 2000
_STEPS = 60
"""Of a bisection of [0, 1]: to the last digit that a float holds."""

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Of paired outcomes: how many tasks only the first solved (`more`), only the other (`fewer`); the difference of the
    solved shares with its interval; the probability of such a split, or a more uneven one, without a difference."""

    tasks: int
    more: int
    fewer: int
    difference: float
    interval: Interval
    p_value: float

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval[0] > 0 or self.interval[1] < 0


def wilson(solved: int, tasks: int, level: float = LEVEL) -> Interval:
    """The score interval of a share (E. B. Wilson, JASA 22, 1927): unlike the usual one it stays within 0 and 1 and does
    not shrink to a point at either end. (0, 1) for no task."""
    if not tasks:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(1 - level / 2)
    share, spread = solved / tasks, z * z / tasks
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / tasks + spread / (4 * tasks)) / (1 + spread)
    return (0.0 if solved == 0 else centre - half), (1.0 if solved == tasks else centre + half)


def compare(first: Sequence[bool], other: Sequence[bool], level: float = LEVEL) -> Comparison:
    """The first against the other, on the same tasks in the same order. Give `level` divided by the number of comparisons
    made at once (Bonferroni), so that the chance of any false one stays below the level."""
    more = sum(one and not two for one, two in zip(first, other, strict=True))
    fewer = sum(two and not one for one, two in zip(first, other, strict=True))
    tasks, differing = len(first), more + fewer
    if not differing:
        _, most = clopper_pearson(0, tasks, level)
        return Comparison(tasks, 0, 0, 0.0, (-most, most), 1.0)
    low, high = clopper_pearson(more, differing, level)
    stretch = differing / tasks
    interval = ((2 * low - 1) * stretch, (2 * high - 1) * stretch)
    return Comparison(tasks, more, fewer, (more - fewer) / tasks, interval, sign_test(more, fewer))


def sign_test(more: int, fewer: int) -> float:
    """The two-sided probability of a split at least as uneven where both ways are as likely: McNemar's exact test."""
    return min(1.0, 2 * at_most(min(more, fewer), more + fewer, 0.5))


def clopper_pearson(hits: int, tries: int, level: float = LEVEL) -> Interval:
    """The exact interval of a share: what is left out on each side would give such a count with less than half the level."""
    if not tries:
        return 0.0, 1.0
    low = 0.0 if hits == 0 else _root(lambda share: (1 - at_most(hits - 1, tries, share)) - level / 2)
    high = 1.0 if hits == tries else _root(lambda share: level / 2 - at_most(hits, tries, share))
    return low, high


def at_most(hits: int, tries: int, share: float) -> float:
    """The binomial probability of at most so many hits."""
    return math.fsum(math.comb(tries, k) * share**k * (1 - share) ** (tries - k) for k in range(hits + 1))


def mean_interval(values: Sequence[float], seed: int, level: float = LEVEL) -> tuple[float, Interval]:
    """The mean, and the percentile bootstrap interval of it (B. Efron, Annals of Statistics 7, 1979), the same for the same
    seed. (0, (0, 0)) for no value."""
    if not values:
        return 0.0, (0.0, 0.0)
    chance = random.Random(seed)
    means = sorted(math.fsum(chance.choices(values, k=len(values))) / len(values) for _ in range(BOOTSTRAP_ROUNDS))
    cut = int(BOOTSTRAP_ROUNDS * level / 2)
    return math.fsum(values) / len(values), (means[cut], means[BOOTSTRAP_ROUNDS - 1 - cut])


def _root(rising: Callable[[float], float]) -> float:
    """Where a function that rises over [0, 1] crosses zero."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2
