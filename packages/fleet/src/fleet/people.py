"""Who is a person: what needs one refuses the name of an agent, and a name that stands for nobody."""

from fleet_wire import ids
from fleet_wire.errors import Invalid

MAX_PERSON = 200
"""Characters of a name at most."""
MAX_REASON = 2_000
"""Characters of why somebody did something at most."""
NOBODY = ("unknown",)
"""What stands where the operating system knew no name, such as in a container."""


def check_person(field: str, name: str, why: str) -> str:
    """The name, without blanks around it; raises Invalid naming the field where it is none of a person. `why` says what needs
    one."""
    found = name.strip()
    if not found or ids.is_agent(found) or found in NOBODY:
        raise Invalid(f"{field} must name a person, which {name[:80]!r} does not: {why}")
    return found
