"""What a text must hold for a pattern to be found in it, so that most texts need no search. Pure.

A search for somebody's pattern takes another process and a turn of a thread: at dozens of answers a second that cost as much as
the call to the model. Most patterns hold characters that no match goes without, and most answers lack one of them.
"""

import functools
import re
import sys
from collections.abc import Iterable
from typing import Any

if sys.version_info >= (3, 11):
    from re import _constants as sre  # type: ignore[attr-defined, unused-ignore]
    from re import _parser as parser  # type: ignore[attr-defined, unused-ignore]
else:
    import sre_constants as sre
    import sre_parse as parser

NOTHING: frozenset[str] = frozenset()


@functools.lru_cache(maxsize=1024)
def needed(pattern: str) -> frozenset[str]:
    """Characters of which every text that the pattern is found in has each. Fewer where that is not plain to see, none at worst.
    The pattern compiles."""
    try:
        tree = parser.parse(pattern, re.MULTILINE)
        return NOTHING if tree.state.flags & re.IGNORECASE else _of(tree)
    except RecursionError:  # nested more deeply than what compiles it goes
        return NOTHING


def may_hold(text: str, pattern: str) -> bool:
    """Whether it takes a search to say that the pattern is not found in the text."""
    return all(character in text for character in needed(pattern))


def _of(sequence: Iterable[tuple[Any, Any]]) -> frozenset[str]:
    return NOTHING.union(*(_of_one(kind, value) for kind, value in sequence))


def _of_one(kind: Any, value: Any) -> frozenset[str]:
    if kind is sre.LITERAL:
        return frozenset(chr(value))
    if kind is sre.SUBPATTERN:
        _, flags, _, inner = value
        return NOTHING if flags & re.IGNORECASE else _of(inner)
    if kind in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        least, _, inner = value
        return _of(inner) if least else NOTHING
    if kind is sre.BRANCH:
        first, *others = map(_of, value[1])
        return first.intersection(*others)
    return NOTHING
