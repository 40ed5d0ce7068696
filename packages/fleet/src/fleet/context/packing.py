"""What of a story fits an agent's budget of tokens. Pure: the counts come in from outside.

Who counts may be a server, so packing is a generator: it yields the texts whose tokens it must know, is sent their counts, and
returns the context. The same facts and counts give the same bytes.
"""

from collections.abc import Generator, Sequence

import msgspec

from fleet.context import domain
from fleet.context.blocks import Candidate, LeftOut, Level, candidates
from fleet_wire.errors import Invalid
from fleet_wire.fingerprint import whole

CUT = "[cut]"
"""Ends a text that the budget shortened."""
TRIES = 4
"""How often a cut is made a little shorter before all of the text goes."""

GOES_FIRST: tuple[tuple[Level, bool, str], ...] = (
    ("summary", False, "the summary"),
    ("milestone", False, "milestones, the oldest first"),
    ("affecting", False, "decisions that affect the story, the oldest first"),
    ("plan", False, "the plan"),
    ("role", False, "the role's lens, which the prompt holds anyway"),
    ("story", True, "the story's text"),
    ("constraint", True, "the constraints' texts"),
    ("task", True, "the task's text"),
    ("depended_on", True, "the texts of the decisions that the task depends on"),
)
"""What goes when space is short, the first one first: whole, or (where True) cut as far as its title, those of one level in
proportion to their length. What stands later in the answer goes before what stands earlier in the same level; a small one may
stay where a larger one, more important, would not have fitted. No text is cut while anything that can go whole is left."""

Packing = Generator[Sequence[str], Sequence[int], "Context"]


class Block(msgspec.Struct, frozen=True):
    """A piece of context. `kind` is one of `domain.KINDS`; `tokens` are those of its title and text as a prompt shows them."""

    kind: str
    source_id: str
    title: str
    text: str
    tokens: int


class Context(msgspec.Struct, frozen=True):
    """The answer: what the agent sees, what was left out or cut, by which tokenizer it was counted, and the story's version it
    was read at."""

    blocks: tuple[Block, ...]
    tokens: int
    left_out: tuple[LeftOut, ...]
    tokenizer: str
    version: int
    hash: str

    @property
    def omitted(self) -> tuple[str, ...]:
        """The ids of what did not fit the budget, or not whole."""
        return tuple(dict.fromkeys(item.source_id for item in self.left_out if item.reason == "budget"))


def hash_of(blocks: Sequence[Block]) -> str:
    """SHA-256 in hex over the JSON array of the blocks' kinds, sources, titles and texts."""
    return whole([[block.kind, block.source_id, block.title, block.text] for block in blocks])


def packed(request: domain.ContextRequest, facts: domain.Facts, tokenizer: str) -> Packing:
    """The context for a request; `tokenizer` names who counts. The budget is never exceeded. Raises Invalid where not even the
    titles of what cannot go whole fit."""
    found, left_out = candidates(request, facts)
    counts = yield [candidate.shown for candidate in found]
    whole = [_block(candidate, count) for candidate, count in zip(found, counts, strict=True)]
    shown = {place: block for place, block in enumerate(whole) if found[place].level in _CUT_LEVELS}
    room = request.token_budget - sum(block.tokens for block in shown.values())
    if room < 0:
        shown = yield from _shortened(found, whole, request.token_budget)
    else:
        for place in _importance(found):
            if place not in shown and whole[place].tokens <= room:
                shown[place] = whole[place]
                room -= whole[place].tokens
    for place, block in enumerate(whole):
        lost = block.tokens - (shown[place].tokens if place in shown else 0)
        if place not in shown or shown[place] != block:
            left_out.append(LeftOut(block.source_id, block.kind, "budget", max(0, lost)))
    blocks = tuple(shown[place] for place in sorted(shown))
    return Context(
        blocks=blocks,
        tokens=sum(block.tokens for block in blocks),
        left_out=tuple(left_out),
        tokenizer=tokenizer,
        version=facts.head.version,
        hash=hash_of(blocks),
    )


_CUT_LEVELS = tuple(level for level, cut, _ in GOES_FIRST if cut)
_RANK = {level: rank for rank, (level, _, _) in enumerate(reversed(GOES_FIRST))}


def _importance(found: Sequence[Candidate]) -> list[int]:
    """The places of the candidates, the one that goes last first."""
    return sorted(range(len(found)), key=lambda place: (_RANK[found[place].level], place))


def _shortened(
    found: Sequence[Candidate], whole: Sequence[Block], budget: int
) -> Generator[Sequence[str], Sequence[int], dict[int, Block]]:
    """What cannot go whole, within the budget: each level takes what it needs of what the titles of the less important leave."""
    places = [place for place in _importance(found) if found[place].level in _CUT_LEVELS]
    shortest = [_with_text(found[place], CUT) for place in places]
    counts = yield [candidate.shown for candidate in shortest]
    least = {place: min(whole[place].tokens, count) for place, count in zip(places, counts, strict=True)}
    if sum(least.values()) > budget:
        raise Invalid(
            f"token_budget of {budget} does not hold the titles of the story, the task, the constraints and what the task "
            f"depends on: at least {sum(least.values())} are needed"
        )
    shown: dict[int, Block] = {}
    room = budget - sum(least.values())
    for level in reversed(_CUT_LEVELS):
        mine = [place for place in places if found[place].level == level]
        wish = {place: whole[place].tokens - least[place] for place in mine}
        wished, left = sum(wish.values()), room
        for place in mine:
            more = wish[place] if wished <= left else wish[place] * left // wished
            block = yield from _cut(found[place], whole[place], least[place], least[place] + more)
            shown[place] = block
            room -= block.tokens - least[place]
    return shown


def _cut(candidate: Candidate, whole: Block, least: int, room: int) -> Generator[Sequence[str], Sequence[int], Block]:
    """A block within `room`, which is `least` or more; `least` are the tokens of its title and the mark."""
    if whole.tokens <= room:
        return whole
    text = candidate.text.encode()
    kept = len(text) * (room - least) // max(1, whole.tokens - least)
    for _ in range(TRIES):
        if kept <= 0:
            break
        shorter = _with_text(candidate, text[:kept].decode("utf-8", "ignore") + CUT)
        [count] = yield [shorter.shown]
        if count <= room:
            return _block(shorter, count)
        kept = min(kept - 1, kept * (room - least) // max(1, count - least))
    return _block(_with_text(candidate, CUT), least)


def _with_text(candidate: Candidate, text: str) -> Candidate:
    return Candidate(candidate.kind, candidate.source_id, candidate.title, text, candidate.level)


def _block(candidate: Candidate, tokens: int) -> Block:
    return Block(candidate.kind, candidate.source_id, candidate.title, candidate.text, tokens)
