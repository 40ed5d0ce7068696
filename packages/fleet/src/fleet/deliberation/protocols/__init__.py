"""The protocols, by name. Another one is a file here and a line in the table."""

from collections.abc import Mapping

from fleet.deliberation.protocols.best_of_n import BEST_OF_N
from fleet.deliberation.protocols.peer_review import PEER_REVIEW
from fleet.deliberation.protocols.protocol import Number, Placed, Protocol, Ranking, finalists
from fleet.deliberation.protocols.single import SINGLE
from fleet.deliberation.protocols.tournament import TOURNAMENT
from fleet.deliberation.protocols.vote import VOTE
from fleet_wire.errors import Invalid

__all__ = [
    "AUTO",
    "PROTOCOLS",
    "Number",
    "Placed",
    "Protocol",
    "Ranking",
    "any_numbers",
    "check_any_numbers",
    "check_numbers",
    "check_protocol",
    "finalists",
    "known_numbers",
]

AUTO = "auto"
"""Not a protocol: asks for the choice of one (`auto.choose`)."""

PROTOCOLS: dict[str, Protocol] = {
    one.name: one
    for one in (
        SINGLE,
        VOTE,
        BEST_OF_N,
        TOURNAMENT,
        PEER_REVIEW,
    )
}


def check_protocol(field: str, name: str) -> str:
    """The name, if it is `auto` or that of a protocol; raises Invalid naming the field and the known names otherwise."""
    if name != AUTO and name not in PROTOCOLS:
        raise Invalid(f"{field} must be one of {', '.join((AUTO, *PROTOCOLS))}, not {name[:80]!r}")
    return name


def check_numbers(field: str, protocol: str, numbers: Mapping[str, float]) -> dict[str, float]:
    """The numbers, if the protocol (or, for `auto`, any that it may choose) has them and they lie within their limits; raises
    Invalid naming the field otherwise."""
    _check(field, protocol, known_numbers(protocol), numbers)
    return dict(numbers)


def check_any_numbers(field: str, numbers: Mapping[str, float]) -> None:
    """As `check_numbers`, where the protocol is not known yet: raises Invalid for what no protocol has, or takes."""
    _check(field, "any protocol", any_numbers(), numbers)


def any_numbers() -> dict[str, Number]:
    """The numbers of all protocols by name. Where several have one of a name, what any of them takes."""
    found: dict[str, Number] = {}
    for protocol in PROTOCOLS.values():
        for name, one in protocol.numbers.items():
            before = found.get(name, one)
            least, most = min(before.least, one.least), max(before.most, one.most)
            found[name] = Number(one.default, least, most, one.meaning, one.whole and before.whole)
    return found


def _check(field: str, of: str, known: Mapping[str, Number], numbers: Mapping[str, float]) -> None:
    for name, value in numbers.items():
        limits = known.get(name)
        if limits is None:
            raise Invalid(f"{field} of {of} must be of {', '.join(known)}, not {name[:80]!r}")
        if not limits.least <= value <= limits.most or (limits.whole and not float(value).is_integer()):
            kind = "a whole number " if limits.whole else ""
            raise Invalid(f"{field}.{name} must be {kind}from {limits.least:g} to {limits.most:g}, not {value:g}")


def known_numbers(protocol: str) -> dict[str, Number]:
    """The numbers of a protocol by name; for `auto` those of all that it may choose. Raises Invalid for an unknown protocol."""
    check_protocol("protocol", protocol)
    if protocol != AUTO:
        return dict(PROTOCOLS[protocol].numbers)
    return {**BEST_OF_N.numbers, **TOURNAMENT.numbers}
