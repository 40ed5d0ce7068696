"""The first checks of a proposal: it is there, its code blocks parse, it mentions what was required.

A check that has nothing to look at, or no means to, is `not_run` with the reason, and no part of any score.
"""

import ast
import json
import re
import tomllib
import warnings
from collections.abc import Callable, Sequence

from fleet_wire.events import Check, CheckStatus

MENTION_THRESHOLD = 0.5
"""The mean share of required words from which the check `requirements` counts as passed. A choice, not a measured value."""

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


def run_checks(content: str, requirements: Sequence[str]) -> tuple[Check, ...]:
    """All checks of one proposal, in a fixed order."""
    return (check_present(content), check_parse(content), check_requirements(content, requirements))


def check_score(checks: Sequence[Check]) -> float:
    """The mean score of the checks that ran, 0 to 1; 0 where none ran."""
    scores = [check.score for check in checks if check.score is not None]
    return sum(scores) / len(scores) if scores else 0.0


def check_present(content: str) -> Check:
    """There is text that is more than white space."""
    there = bool(content.strip())
    return Check(name="present", status=_verdict(there), score=float(there))


def check_parse(content: str) -> Check:
    """The share of fenced code blocks in Python, JSON or TOML that parse. Blocks of other languages are not looked at."""
    results = [
        _parses(parser, body)
        for language, body in code_blocks(content)
        if (parser := _PARSERS.get(language)) is not None
    ]
    if not results:
        return Check(name="parse", status="not_run", detail="no code block in Python, JSON or TOML")
    good = sum(results)
    detail = f"{good} of {len(results)} blocks parse"
    return Check(name="parse", status=_verdict(good == len(results)), score=good / len(results), detail=detail)


def check_requirements(content: str, requirements: Sequence[str]) -> Check:
    """The mean, over the requirements, of the share of each one's content words that the proposal mentions."""
    wanted = [words for requirement in requirements if (words := content_words(requirement))]
    if not wanted:
        return Check(name="requirements", status="not_run", detail="the task states no requirement")
    mentioned = content_words(content)
    score = sum(len(words & mentioned) / len(words) for words in wanted) / len(wanted)
    detail = f"mentions {score:.0%} of the required words"
    return Check(name="requirements", status=_verdict(score >= MENTION_THRESHOLD), score=score, detail=detail)


def code_blocks(content: str) -> list[tuple[str, str]]:
    """Language (in lower case, empty where none is named) and body of each fenced block. One that is never closed, as where
    an answer was cut, reaches to the end."""
    blocks: list[tuple[str, str]] = []
    opened: tuple[str, list[str]] | None = None
    for line in content.splitlines():
        fence = line.strip()
        if opened is None and fence.startswith("```"):
            opened = ((fence[3:].split() or [""])[0].lower(), [])
        elif opened is not None and fence == "```":
            blocks.append((opened[0], "\n".join(opened[1])))
            opened = None
        elif opened is not None:
            opened[1].append(line)
    if opened is not None:
        blocks.append((opened[0], "\n".join(opened[1])))
    return blocks


def words(text: str) -> list[str]:
    """The words of a text in lower case, in their order."""
    return [match.lower() for match in _WORD.findall(text)]


def content_words(text: str) -> frozenset[str]:
    """The words that carry content, without function words and single letters."""
    return frozenset(word for word in words(text) if len(word) > 1 and word not in _STOP_WORDS)


def _verdict(passed: bool) -> CheckStatus:
    return "passed" if passed else "failed"


def _parses(parser: Callable[[str], object], body: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            parser(body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


_PARSERS: dict[str, Callable[[str], object]] = {
    "python": ast.parse,
    "py": ast.parse,
    "python3": ast.parse,
    "json": json.loads,
    "toml": tomllib.loads,
}
