"""The best by the checks meet in pairs, judged blind and in both orders by one who wrote neither; the Copeland score decides.

A pair is won by whoever is preferred in both orders. Where the two orders differ the judge went by the place and not by the
text (position bias, Zheng et al. 2023, "Judging LLM-as-a-judge"): a flip, which is a tie and is counted. A judgement that is
missing is a tie too. Ties in the score fall by hard checks, agreement on tests, checks, brevity, hash.
"""

from fleet.deliberation.evidence import Evidence
from fleet.deliberation.protocols.protocol import (
    Number,
    Placed,
    Protocol,
    Ranking,
    decided_by,
    finalists,
    standings,
)
from fleet.deliberation.state import Deliberation

NUMBERS = {
    "agents": Number(0, 0, 15, "seats that propose, 0 for all"),
    "testers": Number(2, 1, 15, "agents that write tests for a code task"),
    "finalists": Number(4, 2, 8, "proposals that are judged in pairs"),
}


def rank(state: Deliberation, said: Evidence) -> Ranking:
    """The score is a finalist's pairs won and half of those tied; that of the others is 0, and they follow by their checks."""
    order = standings(state, said)
    last = finalists(state, said)
    winners = {(verdict.first, verdict.second): verdict.winner for verdict in said.verdicts}
    scores = dict.fromkeys(order, 0.0)
    flips = judged = 0
    pairs = [(one, other) for at, one in enumerate(last) for other in last[at + 1 :]]
    for one, other in pairs:
        ahead, back = winners.get((one, other)), winners.get((other, one))
        whole = ahead is not None and back is not None
        judged += whole
        flips += whole and ahead != back
        if whole and ahead and ahead == back:
            scores[ahead] += 1.0
        else:
            scores[one] += 0.5
            scores[other] += 0.5
    # The order of standings is kept among equals, since sorting is stable.
    ranked = sorted(order, key=lambda author: (author not in last, -scores[author]))
    best, second = ranked[0], ranked[1] if len(ranked) > 1 else ""
    margin = scores[best] - (scores[second] if second else 0.0)
    text = (
        f"{scores[best]:g} of {len(last) - 1} points in {len(pairs)} pairs, {judged} of them judged in both orders, "
        f"{flips} flips"
    )
    if second and margin == 0:
        text += f"; the tie with {second} fell by {decided_by(order[best], order[second])}"
    return Ranking(
        places=tuple(Placed(author, scores[author]) for author in ranked),
        margin=margin,
        dissent=second,
        words=text,
        flips=flips,
    )


TOURNAMENT = Protocol(
    name="tournament",
    phases=(("propose", "tests"), ("dry_run",), ("judge",)),
    numbers=NUMBERS,
    rank=rank,
)
