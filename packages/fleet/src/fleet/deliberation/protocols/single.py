"""One agent, one answer: the baseline."""

from fleet.deliberation.evidence import Evidence
from fleet.deliberation.protocols.protocol import Number, Placed, Protocol, Ranking, standings
from fleet.deliberation.state import Deliberation


def rank(state: Deliberation, said: Evidence) -> Ranking:
    """The one proposal; its score is that of its checks."""
    places = tuple(Placed(one.author, one.checks) for one in standings(state, said).values())
    return Ranking(places=places, margin=places[0].score, dissent="", words="it is the only proposal")


SINGLE = Protocol(
    name="single",
    phases=(("propose",),),
    numbers={"agents": Number(1, 1, 1, "seats that propose")},
    rank=rank,
)
