"""What a protocol is, and what all of them rank by."""

from collections.abc import Callable, Mapping

from msgspec import Struct

from fleet.deliberation.evidence import Evidence, Proposal
from fleet.deliberation.state import Deliberation, Phase
from fleet.deliberation.text import tie_break

HARD = ("parse", "policy")
"""Checks that no other merit outweighs: a proposal that fails one goes behind all that do not. `lint` and `requirements`
are soft, and `dry_run` speaks by the tests passed, which may themselves be wrong."""


class Number(Struct, frozen=True):
    """One of a protocol's numbers."""

    default: float
    least: float
    most: float
    meaning: str
    whole: bool = True


class Placed(Struct, frozen=True):
    """A proposal in its place, with the score that put it there."""

    author: str
    score: float


class Ranking(Struct, frozen=True, kw_only=True):
    """The proposals, best first, their scores never rising. `margin` is how far the winner's score is above that of the
    best that lost, `dissent` whose that is: empty where all say or do the same. `flips` counts pairs judged differently in
    the two orders. `words` say in numbers what put the winner first."""

    places: tuple[Placed, ...]
    margin: float
    dissent: str
    words: str
    flips: int = 0


class Protocol(Struct, frozen=True, kw_only=True):
    """A way to decide. `phases` come one after another, those in one tuple at once; `rank` places the proposals, which are
    at least one, by the evidence alone."""

    name: str
    phases: tuple[tuple[Phase, ...], ...]
    numbers: Mapping[str, Number]
    rank: Callable[[Deliberation, Evidence], Ranking]


class Standing(Struct, frozen=True, kw_only=True):
    """What the checks say of a proposal. `weight` is that of its group: the proposals that pass the same tests times the tests
    they pass (dual execution agreement, Chen et al. 2022, "CodeT"); 0 where none ran."""

    author: str
    hard: int
    group: frozenset[str]
    group_size: int
    checks: float
    length: int
    tie: str

    @property
    def weight(self) -> int:
        return self.group_size * len(self.group)

    @property
    def key(self) -> tuple[int, int, float, int, str, str]:
        """Sorts the best first: hard checks, agreement of behaviour, checks, brevity, hash, and the author where even texts
        agree."""
        return (self.hard, -self.weight, -self.checks, self.length, self.tie, self.author)


DECIDED_BY = ("the hard checks", "the agreement on tests", "the checks", "brevity", "the lesser SHA-256", "the seat")
"""What each part of a standing's key is called."""


def standings(state: Deliberation, said: Evidence) -> dict[str, Standing]:
    """By author, the best first."""
    groups: dict[frozenset[str], int] = {}
    for one in said.proposals.values():
        groups[one.passed] = groups.get(one.passed, 0) + 1
    found = [_standing(state, one, groups[one.passed]) for one in said.proposals.values()]
    return {one.author: one for one in sorted(found, key=lambda one: one.key)}


def decided_by(best: Standing, other: Standing) -> str:
    """The first thing in which the two differ."""
    return next(word for word, one, two in zip(DECIDED_BY, best.key, other.key, strict=True) if one != two)


def finalists(state: Deliberation, said: Evidence) -> tuple[str, ...]:
    """The authors whose proposals are judged in pairs: the best by the checks."""
    return tuple(standings(state, said))[: int(state.numbers["finalists"])]


def _standing(state: Deliberation, one: Proposal, group_size: int) -> Standing:
    return Standing(
        author=one.author,
        hard=sum(check.name in HARD and check.status == "failed" for check in one.checks),
        group=one.passed,
        group_size=group_size,
        checks=one.check_score,
        length=len(one.content),
        tie=tie_break(state.deliberation_id, one.content),
    )
