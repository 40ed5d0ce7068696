"""The decision rule `consensus`: score = checks + agreement, both 0 to 1.

Checks: the mean of those that ran (`checks.check_score`). Agreement: the mean Jaccard similarity of a proposal's three-word
shingles with those of each other proposal (Broder 1997, "On the resemblance and containment of documents"); 0 for a proposal
without others. Ties fall by the lesser SHA-256 of deliberation id and content. What this rule rewards is being checked and
being ordinary; whether the majority is right is not shown by it.
"""

import hashlib
from collections.abc import Mapping, Sequence

from msgspec import Struct

from fleet.deliberation import checks
from fleet_wire.events import Check

SHINGLE_WORDS = 3


class Scored(Struct, frozen=True, kw_only=True):
    """One proposal as the rule sees it."""

    agent_id: str
    content: str
    checks: tuple[Check, ...]
    check_score: float
    agreement: float

    @property
    def score(self) -> float:
        """0 to 2."""
        return self.check_score + self.agreement


def rank(deliberation_id: str, proposals: Mapping[str, str], requirements: Sequence[str]) -> tuple[Scored, ...]:
    """The proposals (agent id → content), best first. The same proposals give the same order, however they are given."""
    shingles_of = {agent: shingles(content) for agent, content in proposals.items()}
    scored = []
    for agent, content in proposals.items():
        others = [shingles_of[other] for other in sorted(proposals) if other != agent]
        ran = checks.run_checks(content, requirements)
        agreement = sum(jaccard(shingles_of[agent], other) for other in others) / len(others) if others else 0.0
        scored.append(
            Scored(
                agent_id=agent,
                content=content,
                checks=ran,
                check_score=checks.check_score(ran),
                agreement=agreement,
            )
        )
    return tuple(sorted(scored, key=lambda one: (-one.score, tie_break(deliberation_id, one.content), one.agent_id)))


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of three words; a shorter text is one run."""
    found = checks.words(text)
    if len(found) <= SHINGLE_WORDS:
        return frozenset({tuple(found)}) if found else frozenset()
    return frozenset(tuple(found[at : at + SHINGLE_WORDS]) for at in range(len(found) - SHINGLE_WORDS + 1))


def jaccard(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    """Size of the intersection by size of the union, 0 to 1; 0 where both are empty."""
    union = len(one | other)
    return len(one & other) / union if union else 0.0


def tie_break(deliberation_id: str, content: str) -> str:
    """SHA-256 of deliberation id and content, in hex: the lesser goes first."""
    return hashlib.sha256(f"{deliberation_id}|{content}".encode("utf-8", "replace")).hexdigest()
