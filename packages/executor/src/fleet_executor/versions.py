"""What to change when Ray refuses us: it wants its own release and Python on both sides. Pure."""

import re
from typing import Optional

import msgspec


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    ray: str
    python: str


_BOTH = re.compile(
    r"Ray: (?P<ray>\S+)\s+Python: (?P<python>\S+)\s.*?Ray: (?P<our_ray>\S+)\s+Python: (?P<our_python>\S+)", re.DOTALL
)
"""First the cluster's, then ours; Ray Client says it in the same words."""


def mismatch(text: str, address: str, ours: Versions) -> Optional[str]:
    """The sentence for an error text that speaks of different versions; None for any other."""
    found = _BOTH.search(text)
    if found is None:
        return None
    return sentence(address, Versions(ray=found["ray"], python=found["python"]), ours)


def differ(theirs: Versions, ours: Versions) -> bool:
    """Whether Ray will refuse us for more than the last number of Python's version, of which it says so itself."""
    return theirs.ray != ours.ray or _minor(theirs.python) != _minor(ours.python)


def sentence(address: str, theirs: Versions, ours: Versions) -> str:
    """The whole Python version is named where only its last number differs, which Ray refuses as well."""
    same_minor = _minor(theirs.python) == _minor(ours.python)
    wanted = theirs.python if same_minor and theirs.python != ours.python else _minor(theirs.python)
    return (
        f"the cluster at {address} runs Ray {theirs.ray} on Python {theirs.python}, this executor runs Ray {ours.ray} on "
        f"Python {ours.python}: install ray=={theirs.ray} on Python {wanted} for the executor (build arguments PYTHON and "
        f"RAY of its image)"
    )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
