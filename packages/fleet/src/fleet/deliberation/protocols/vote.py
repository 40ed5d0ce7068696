"""The largest cluster of equal answers wins, and its best-checked member speaks for it (self-consistency, Wang et al. 2022).

Equal means: Python with the same syntax tree, docstrings, annotations of functions, comments and layout left out, names
kept; JSON of the same value; prose whose three-word shingles are alike above the number `similarity`. Prose is clustered by
complete linkage: every two members of a cluster are alike. By single linkage a chain of answers, each like the next, would
make one vote of a first and a last that say different things. A text of one kind never equals one of another.
"""

import ast
import json

from msgspec import Struct

from fleet.deliberation.code import is_code_task, parsed, program_of
from fleet.deliberation.evidence import Evidence
from fleet.deliberation.protocols.protocol import Number, Placed, Protocol, Ranking, standings
from fleet.deliberation.state import Deliberation
from fleet.deliberation.text import jaccard, shingles
from fleet_wire.answers import PYTHON, code_blocks
from fleet_wire.events import PlanTask

SIMILARITY = 0.5
"""The default: half of what two texts hold, they share. A choice (the one of Broder et al. 1997 for near-duplicates), not
measured on answers."""


_JSON_BEGINS = frozenset('{["-0123456789tfn')


class Meaning(Struct, frozen=True):
    """What an answer is compared by: `kind` is code, json or prose, and of prose the value is its text."""

    kind: str
    value: str


def rank(state: Deliberation, said: Evidence) -> Ranking:
    """Clusters by size, then by their best member's standing; the members of each by their standing. The score is the size."""
    order = standings(state, said)
    meanings = {author: meaning(one.content, state.task) for author, one in said.proposals.items()}
    found = clusters({author: meanings[author] for author in order}, state.numbers["similarity"])
    found.sort(key=lambda members: (-len(members), order[members[0]].key))
    places = tuple(Placed(author, float(len(members))) for members in found for author in members)
    best = found[0]
    dissent = found[1][0] if len(found) > 1 else ""
    margin = float(len(best) - (len(found[1]) if dissent else 0))
    words = (
        f"{len(best)} of {len(places)} answers are equal ({meanings[best[0]].kind}), in {len(found)} clusters; "
        f"it is the best checked of these"
    )
    if margin == 0:
        words += ", and the tie with another cluster fell by their speakers' checks, brevity and hash"
    return Ranking(places=places, margin=margin, dissent=dissent, words=words)


def clusters(meanings: dict[str, Meaning], similarity: float) -> list[list[str]]:
    """The authors in clusters of equal answers, each in the order given. Those clusters of prose are joined first whose least
    alike members are most alike."""
    exact: dict[Meaning, list[str]] = {}
    for author, value in meanings.items():
        exact.setdefault(value, []).append(author)
    found = list(exact.values())
    prose = [members for value, members in exact.items() if value.kind == "prose"]
    if len(prose) < 2:
        return found
    texts = [shingles(meanings[members[0]].value) for members in prose]
    alike = [[0.0] * len(texts) for _ in texts]
    for one, text in enumerate(texts):
        for other in range(one):
            alike[one][other] = alike[other][one] = jaccard(text, texts[other])
    while len(prose) > 1:
        pairs = [(one, other) for one in range(len(prose)) for other in range(one + 1, len(prose))]
        one, other = max(pairs, key=lambda pair: (alike[pair[0]][pair[1]], -pair[0], -pair[1]))
        if alike[one][other] < similarity:
            break
        _join(prose, alike, one, other)
    place = {author: at for at, author in enumerate(meanings)}
    joined = [sorted(members, key=place.__getitem__) for members in prose]
    return joined + [members for value, members in exact.items() if value.kind != "prose"]


def _join(prose: list[list[str]], alike: list[list[float]], one: int, other: int) -> None:
    """Joins two clusters; the new one is as like to a third as the less like of the two was."""
    prose[one] = prose[one] + prose.pop(other)
    least = [min(pair) for pair in zip(alike[one], alike.pop(other), strict=True)]
    alike[one] = least
    for row, score in zip(alike, least[:other] + least[other + 1 :], strict=True):
        row[one] = score
        del row[other]


def meaning(content: str, task: PlanTask) -> Meaning:
    """What an answer is compared by."""
    blocks = code_blocks(content) if "```" in content or "~~~" in content else []
    program = program_of(content, task) if is_code_task(task) else ""
    if not program and not task.entry_point:
        program = "\n".join(block.text for block in blocks if block.language in PYTHON)
    if program and (tree := normal_tree(program)):
        return Meaning("code", tree)
    for text in (content, *(block.text for block in blocks if block.language == "json" and len(blocks) == 1)):
        # A sentence is told from JSON by how it begins.
        if text.lstrip()[:1] in _JSON_BEGINS and (value := normal_json(text)) is not None:
            return Meaning("json", value)
    return Meaning("prose", content)


def normal_tree(program: str) -> str:
    """The syntax tree as text, without docstrings and annotations of functions; empty for what is no Python or says nothing."""
    tree = parsed(program)
    if tree is None or not tree.body:
        return ""
    try:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                node.returns = None
            if isinstance(node, ast.arg):
                node.annotation = None
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
                _drop_docstring(node)
        return ast.dump(tree)
    except (RecursionError, MemoryError):
        return ""


def normal_json(text: str) -> str | None:
    """JSON in one form: keys sorted, 1.0 as 1; None for what is none."""
    try:
        value = json.loads(text, parse_float=_number)
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None


def _number(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() else value


def _drop_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module) -> None:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            node.body = rest or [ast.Pass()]


VOTE = Protocol(
    name="vote",
    phases=(("propose",),),
    numbers={
        "agents": Number(0, 0, 15, "seats that propose, 0 for all"),
        "similarity": Number(SIMILARITY, 0, 1, "from which share of common shingles prose is equal", whole=False),
    },
    rank=rank,
)
