"""A story as people write it in an issue tracker: Markdown with a title, a body, and a check-list.

The title is the first heading, or `title` in a front matter, which may also give the phase, and roles and budget of a plan. The
items of every check-list, done or not, become the acceptance; all else is the brief, as it was written. Comments (`<!-- -->`)
are left out: whoever reads the rendered issue does not see them, so no model is told them either.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec
from markdown_it import MarkdownIt
from markdown_it.token import Token
from msgspec import Struct

from fleet.planfile.checking import Problem, located, problems
from fleet.planfile.shape import Budget, PlanFile, Story, Title
from fleet.planfile.source import NotYaml, Path, Place, Source
from fleet_wire.errors import Invalid, Problems
from fleet_wire.events import Role, StoryPhase

NO_TITLE = "it has no title: begin with a heading, or give `title` in a front matter"
NO_BRIEF = "it says nothing beside its title and check-list: write what is wanted, and for whom"
NO_ROLES = (
    "an issue names no tasks: give the roles whose councils decide on the story itself (--role DEV, or `roles: [DEV]` in a "
    "front matter), or have its tasks derived (fleet plan draft FILE)"
)

_FENCE = "---"
_BOX = re.compile(r"\[[ xX]\]\s+(?=\S)")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


class Issue(Struct, frozen=True, kw_only=True):
    """A story, and what its front matter says of a plan for it."""

    story: Story
    roles: tuple[Role, ...] = ()
    budget: Budget = Budget()

    def plan(self, roles: Sequence[Role] = ()) -> PlanFile:
        """One task on the story for each of the roles, or else of its own. Raises Invalid where there are none."""
        chosen = list(roles or self.roles)
        if not chosen:
            raise Invalid(NO_ROLES)
        return PlanFile(story=self.story, roles=chosen, budget=self.budget)


class Front(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a front matter may say."""

    title: Title | None = None
    phase: StoryPhase = "build"
    roles: list[Role] = []
    budget: Budget = Budget()


class Box(Struct):
    """An item of a check-list: its lines in the file (from 0, the last one not included), and its text piece by piece."""

    first: int
    last: int
    place: Place
    pieces: list[str]

    @property
    def text(self) -> str:
        return _BOX.sub("", " ".join(" ".join(self.pieces).split()), count=1)


def parse_issue(text: str, name: str) -> Issue:
    """The story in a text; `name` stands in the errors. Raises Problems with all that is wrong."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    begins = _body_begins(lines)
    try:
        # Blank lines keep the numbers of those that follow.
        source = Source("\n".join(["", *lines[1 : begins - 1]]) if begins else "{}")
    except NotYaml as error:
        raise Problems((located(name, error.place, str(error)),)) from error
    front = source.data if source.data is not None else {}
    body = Body(lines, begins)
    title = front.get("title") if isinstance(front, dict) else None
    story = {
        "title": body.title if title is None else title,
        "brief": body.brief(title),
        "acceptance": [box.text for box in body.boxes],
    }

    def place(path: Path) -> Place:
        if path == ("title",) and title is None:
            return body.title_place
        if path[:1] == ("acceptance",) and len(path) > 1 and isinstance(path[1], int):
            return body.boxes[path[1]].place
        return body.brief_place if path == ("brief",) else Place(begins + 1, 1)

    found = [(at, f"the key {key[:80]!r} stands here a second time") for key, at in source.repeated]
    of_front = problems(front, Front)
    found += [(source.place(one.path, one.on_key), one.what) for one in of_front]
    found += [
        (place(one.path), one.what)
        for one in map(_named, problems(story, Story))
        if title is None or one.path != ("title",)
    ]
    if found:
        raise Problems(tuple(located(name, at, what) for at, what in sorted(found)))
    said = msgspec.convert(front, Front)
    return Issue(
        story=msgspec.convert({**story, "phase": said.phase}, Story), roles=tuple(said.roles), budget=said.budget
    )


class Body:
    """The Markdown below the front matter, whose last line is number `begins`."""

    def __init__(self, lines: Sequence[str], begins: int) -> None:
        self._lines = lines
        self._begins = begins
        self._tokens = MarkdownIt("commonmark").parse("\n".join([""] * begins + list(lines[begins:])))
        self.boxes = list(_boxes(self._tokens, lines))
        self._headings = [
            (token, self._tokens[at + 1])
            for at, token in enumerate(self._tokens)
            if token.type == "heading_open" and token.level == 0
        ]
        heading = self._headings[0] if self._headings else None
        self.title = " ".join(_visible(heading[1]).split()) if heading else ""
        self.title_place = Place(_span(heading[0])[0] + 1 if heading else begins + 1, 1)

    @property
    def brief_place(self) -> Place:
        """Where the body begins."""
        return Place(min(self.title_place.line + 1 if self.title else self._begins + 1, len(self._lines)), 1)

    def brief(self, title: object) -> str:
        """All that is neither the title nor a check-list nor a comment. `title` is what the front matter says: then the first
        heading is a part of the text, unless it says the same."""
        kept = dict(enumerate(self._lines[self._begins :], self._begins))
        for box in self.boxes:
            for number in range(box.first, box.last):
                if kept.get(number, "").strip():  # blank lines below the last item are counted to it
                    kept.pop(number)
        for token in self._tokens:
            _drop_comments(kept, token)
        for at in range(len(self._headings) - 1, -1, -1):
            self._drop_emptied(kept, at)
        if self._headings and title in (None, self.title):
            for number in range(*_span(self._headings[0][0])):
                kept.pop(number, None)
        return _joined(kept)

    def _drop_emptied(self, kept: dict[int, str], at: int) -> None:
        """Drops a heading below which stood nothing but a check-list."""
        heading = self._headings[at][0]
        first, last = _span(heading)
        end = next(
            (_span(later)[0] for later, _ in self._headings[at + 1 :] if later.tag <= heading.tag), len(self._lines)
        )
        had_box = any(first <= box.first < end for box in self.boxes)
        if had_box and not any(kept.get(number, "").strip() for number in range(last, end)):
            for number in range(first, last):
                kept.pop(number, None)


def _body_begins(lines: Sequence[str]) -> int:
    """The number of lines that a front matter takes, its two fences included; 0 where there is none."""
    if lines[0].rstrip() != _FENCE:
        return 0
    return next((at + 1 for at, line in enumerate(lines) if at and line.rstrip() == _FENCE), 0)


def _boxes(tokens: Sequence[Token], lines: Sequence[str]) -> Iterator[Box]:
    """The items of check-lists. What stands below an item belongs to it, but for items of a check-list in there."""
    found: list[Box] = []
    within: list[Box | None] = []
    for at, token in enumerate(tokens):
        if token.type == "list_item_open":
            first, last = _span(token)
            is_box = tokens[at + 1].type == "paragraph_open" and _BOX.match(_visible(tokens[at + 2]))
            box = Box(first, last, Place(first + 1, lines[first].find("[") + 1), []) if is_box else None
            within.append(box)
            if box:
                found.append(box)
        elif token.type == "list_item_close":
            within.pop()
        elif token.content and token.type in ("inline", "fence", "code_block"):
            box = next((one for one in reversed(within) if one), None)
            if box:
                box.pieces.append(_visible(token))
    yield from found


def _visible(token: Token) -> str:
    """The source of a text without its comments."""
    text = token.content
    for child in token.children or ():
        if child.type == "html_inline" and child.content.startswith("<!--"):
            text = text.replace(child.content, "")
    return text


def _drop_comments(kept: dict[int, str], token: Token) -> None:
    """Takes the comments of one token out of the lines that it stands in."""
    hidden = [child.content for child in token.children or () if child.type == "html_inline"]
    comments = [one for one in hidden if one.startswith("<!--")]
    if token.type == "html_block" and token.content.lstrip().startswith("<!--"):
        comments = _COMMENT.findall(token.content)
    if not comments:
        return
    span = [number for number in range(*_span(token)) if number in kept]
    text = "\n".join(kept[number] for number in span)
    for comment in comments:
        # A continued line may be indented, or quoted, where the comment's own text is not.
        pattern = r"[ \t]*\n[ \t>]*".join(re.escape(line.strip()) for line in comment.strip().split("\n"))
        text = re.sub(pattern, "", text, count=1)
    for number in span:
        kept.pop(number)
    if text.strip():
        kept[span[0]] = text


def _joined(kept: dict[int, str]) -> str:
    """The lines that are left; where some were taken out, one blank line is enough."""
    parts: list[str] = []
    before = -1
    for number, line in sorted(kept.items()):
        cut = number != before + 1
        if not (cut and not line.strip() and (not parts or not parts[-1].strip())):
            parts.append(line)
            before = number
    return "\n".join(parts).strip("\n").rstrip()


def _span(token: Token) -> tuple[int, int]:
    """The lines of a block, from 0, the last one not included."""
    assert token.map is not None, f"{token.type} is a block"
    return token.map[0], token.map[1]


def _named(problem: Problem) -> Problem:
    """What is missing, in words that say where it would stand."""
    if problem.what.endswith("must not be empty") and problem.path in (("title",), ("brief",)):
        return Problem(problem.path, NO_TITLE if problem.path == ("title",) else NO_BRIEF)
    return problem
