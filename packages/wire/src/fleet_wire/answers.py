"""What stands in a model's answer: its fenced code blocks. Read by the workers that check answers and by the council."""

import re
from typing import NamedTuple

PYTHON = frozenset(("python", "py", "python3"))
"""The names under which a fence holds Python."""

_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^`\r\n]*)")


class Block(NamedTuple):
    """A fenced block: the first word of what stands beside its opening fence, in lower case, and its lines."""

    language: str
    text: str


def code_blocks(answer: str) -> list[Block]:
    """The fenced blocks of an answer, in their order.

    As in CommonMark a block ends at a fence of the same character that is at least as long as its opening one and has nothing
    beside it; one that is never closed, as where an answer was cut, reaches to the end. A fence may be indented, as below an
    item of a list: then its lines lose that much of their own indentation. The time taken is linear in the answer's length.
    """
    blocks: list[Block] = []
    fence = language = ""
    indent = 0
    lines: list[str] = []
    for ended in answer.split("\n"):
        line = ended.rstrip("\r")
        found = _FENCE.fullmatch(line)
        if not fence:
            if found:
                fence = found.group(1)
                indent = len(line) - len(line.lstrip(" \t"))
                words = found.group(2).split()
                language = words[0].strip("{}.").lower() if words else ""
                lines = []
        elif (
            found and found.group(1)[0] == fence[0] and len(found.group(1)) >= len(fence) and not found.group(2).strip()
        ):
            blocks.append(Block(language, "\n".join(lines)))
            fence = ""
        else:
            lines.append(line[min(indent, len(line) - len(line.lstrip(" \t"))) :])
    if fence:
        blocks.append(Block(language, "\n".join(lines)))
    return blocks
