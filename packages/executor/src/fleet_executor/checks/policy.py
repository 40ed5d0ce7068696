"""The rules of a council: required parts, forbidden patterns, secrets, size."""

import functools
import re
from typing import Annotated

import msgspec

from fleet_executor.checks import apart
from fleet_executor.checks.needed import may_hold
from fleet_wire.errors import Invalid
from fleet_wire.events import Check
from fleet_wire.redaction import forms_in

MAX_RULES = 100
MAX_PATTERN = 1000


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`pattern` is a regular expression of Python's `re`, searched for anywhere; ^ and $ match at every line."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PATTERN)]


Rules = Annotated[list[Rule], msgspec.Meta(max_length=MAX_RULES)]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes are those of the answer in UTF-8; `max_bytes` 0 sets no limit. `secrets` is one rule: none of a known form."""

    required: Rules = []
    forbidden: Rules = []
    secrets: bool = False
    min_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


@functools.lru_cache(maxsize=64)
def parsed(text: str) -> Policy:
    """The rules that the JSON says; raises Invalid with the place of the first thing that is wrong."""
    try:
        policy = msgspec.json.decode(text, type=Policy)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"is no policy: {error}") from error
    for rule in (*policy.required, *policy.forbidden):
        try:
            re.compile(rule.pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise Invalid(f"has a pattern that is none, {rule.name}: {error}") from error
    return policy


def is_searched(content: str, text: str) -> bool:
    """Whether the content is searched for patterns of somebody's, which may run for ever; the search for secrets takes linear
    time."""
    if not text:
        return False
    policy = parsed(text)
    return any(may_hold(content, rule.pattern) for rule in (*policy.required, *policy.forbidden))


def check(content: str, text: str) -> Check:
    """The share of rules that hold; it passes where all do."""
    if not text:
        return Check(name="policy", status="not_run", detail="the council has no policy")
    policy = parsed(text)
    size = len(content.encode("utf-8", "replace"))
    holds: list[tuple[str, bool]] = []
    if policy.min_bytes:
        holds.append((f"{size} of at least {policy.min_bytes} bytes", size >= policy.min_bytes))
    if policy.max_bytes:
        holds.append((f"{size} of at most {policy.max_bytes} bytes", size <= policy.max_bytes))
    wanted = [(f"lacks {rule.name}", rule.pattern, True) for rule in policy.required]
    wanted += [(f"holds {rule.name}", rule.pattern, False) for rule in policy.forbidden]
    searched = [pattern for _, pattern, _ in wanted if may_hold(content, pattern)]
    try:
        found = dict(zip(searched, apart.search(content, searched) if searched else ()))
    except apart.NotRead as error:
        return Check(name="policy", status="not_run", detail=str(error))
    holds += [(name, found.get(pattern, False) == there) for name, pattern, there in wanted]
    if policy.secrets:
        secrets = forms_in(content)
        holds.append(("; ".join(f"holds {secret}" for secret in secrets), not secrets))
    if not holds:
        return Check(name="policy", status="not_run", detail="the policy has no rule")
    broken = [name for name, kept in holds if not kept]
    detail = "; ".join(broken)[:500] or f"{len(holds)} rules hold"
    score = 1 - len(broken) / len(holds)
    return Check(name="policy", status="failed" if broken else "passed", score=score, detail=detail)
