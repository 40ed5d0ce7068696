"""What is checked of an answer, where it is made. A check that has nothing to look at, or no means to, is `not_run` with the
reason, and no part of any score.

What reads code blocks, or runs somebody's patterns, works in processes apart that can be ended: parsers have crashed and
patterns have run for ever on less than a model may write. An answer in plain prose costs none of that.
"""

import asyncio
from collections.abc import Callable
from typing import Optional

from fleet_executor.checks import lint, parse, policy, requirements
from fleet_executor.jobs import CheckList
from fleet_wire.answers import Block, code_blocks
from fleet_wire.events import Check, cut

NAMES = ("parse", "lint", "policy", "requirements")
"""In the order of their results."""


async def checked(answer: str, asked: Optional[CheckList], slots: asyncio.Semaphore) -> list[Check]:
    """The checks of an answer, as far as it is kept: on this thread where that takes a moment, else in a slot on another."""
    if asked is None or not asked.names:
        return []
    content, _ = cut(answer)
    if is_quick(content, asked):
        return run_checks(content, asked)
    async with slots:
        # In a thread that stays: to start one holds up the loop.
        return await asyncio.to_thread(run_checks, content, asked)


def run_checks(content: str, asked: CheckList) -> list[Check]:
    """The checks that were asked for. Blocks while processes apart are at work."""
    blocks = _blocks(content)
    checks: dict[str, Callable[[], Check]] = {
        "parse": lambda: parse.check(blocks),
        "lint": lambda: lint.check(blocks),
        "policy": lambda: policy.check(content, asked.policy),
        "requirements": lambda: requirements.check(content, asked.requirements),
    }
    return [checks[name]() for name in NAMES if name in asked.names]


def is_quick(content: str, asked: CheckList) -> bool:
    """Whether all of them are done in a moment, without another process."""
    reads = ("parse" in asked.names or "lint" in asked.names) and bool(_blocks(content))
    return not reads and ("policy" not in asked.names or not policy.is_searched(content, asked.policy))


def _blocks(content: str) -> list[Block]:
    return code_blocks(content) if "```" in content or "~~~" in content else []
