"""Hard checks first, then agreement of behaviour: proposals that pass the same tests form a group, and a group weighs its size
times the tests it passes (dual execution agreement, Chen et al. 2022, "CodeT"). Ties by the checks, brevity, hash."""

from fleet.deliberation.evidence import Evidence
from fleet.deliberation.protocols.protocol import Number, Placed, Protocol, Ranking, Standing, decided_by, standings
from fleet.deliberation.state import Deliberation


def rank(state: Deliberation, said: Evidence) -> Ranking:
    """The score is the weight of a proposal's group, or, below all of these, minus the hard checks that it fails."""
    order = list(standings(state, said).values())
    best = order[0]
    others = [one for one in order[1:] if one.hard != best.hard or one.group != best.group or not best.group]
    dissent = others[0] if others else None
    return Ranking(
        places=tuple(Placed(one.author, _score(one)) for one in order),
        margin=_score(best) - _score(dissent) if dissent else max(0.0, _score(best)),
        dissent=dissent.author if dissent else "",
        words=words(order),
    )


def words(order: list[Standing]) -> str:
    """What put the first of these before the others."""
    best = order[0]
    text = f"{best.group_size} of {len(order)} proposals pass the same {len(best.group)} tests"
    if not any(one.group for one in order):
        text = "no test tells the proposals apart"
    if len(order) > 1:
        text += f"; it is before {order[1].author} by {decided_by(best, order[1])}"
    return text


def _score(one: Standing) -> float:
    return float(-one.hard if one.hard else one.weight)


BEST_OF_N = Protocol(
    name="best_of_n",
    phases=(("propose", "tests"), ("dry_run",)),
    numbers={
        "agents": Number(0, 0, 15, "seats that propose, 0 for all"),
        "testers": Number(2, 1, 15, "agents that write tests"),
    },
    rank=rank,
)
