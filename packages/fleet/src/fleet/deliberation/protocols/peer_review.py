"""Every proposal is criticised by other seats and revised once by its author, who sees no other proposal; a revision that fares
worse in the checks is dropped. Then as in `tournament`."""

from fleet.deliberation.protocols import tournament
from fleet.deliberation.protocols.protocol import Number, Protocol

PEER_REVIEW = Protocol(
    name="peer_review",
    phases=(("propose", "tests"), ("dry_run",), ("critique",), ("revise",), ("rerun",), ("judge",)),
    numbers={**tournament.NUMBERS, "critics": Number(2, 1, 4, "other seats that criticise each proposal")},
    rank=tournament.rank,
)
