"""How much of what was required an answer speaks of. A sign that it is about the task, not that it fulfils it."""

import functools
import re
from collections.abc import Sequence

from fleet_wire.events import Check, CheckStatus

MENTION_THRESHOLD = 0.5
"""The mean share of required words from which the check counts as passed. A choice, not a measured value."""

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*", re.UNICODE)
# Words that carry no content of a requirement: English function words and the verbs of obligation.
_STOP_WORDS = frozenset(
    """
    a all also an and any are as at be been before but by can case does each either every for from had has
    have if in into is it its may more must no not of on one only or other out over should so some such than
    that the their them then there these they this those through to under until up use used uses using was
    were when where which while who will with without would you your
    """.split()
)


def check(content: str, requirements: Sequence[str]) -> Check:
    """The mean, over the requirements, of the share of each one's content words that the answer mentions."""
    wanted = [words for requirement in requirements if (words := _required(requirement))]
    if not wanted:
        return Check(name="requirements", status="not_run", detail="the task states no requirement")
    mentioned = content_words(content)
    score = sum(len(words & mentioned) / len(words) for words in wanted) / len(wanted)
    status: CheckStatus = "passed" if score >= MENTION_THRESHOLD else "failed"
    return Check(name="requirements", status=status, score=score, detail=f"mentions {score:.0%} of the required words")


def content_words(text: str) -> frozenset[str]:
    """The words that carry content, in lower case, without function words and single letters."""
    words = (match.lower() for match in _WORD.findall(text))
    return frozenset(word for word in words if len(word) > 1 and word not in _STOP_WORDS)


@functools.lru_cache(maxsize=256)
def _required(requirement: str) -> frozenset[str]:
    """All seats of a council are checked against the same ones."""
    return content_words(requirement)
