"""The form of the file: what stands in it, and that it is whole. Pure, but for reading the lines.

A head, the nodes by label and key, the relations by the node they lead to, an end. The end counts what stands before it and
holds the SHA-256 of all lines before it, so that a file that was cut off or changed is refused before anything of it is used.
The same memory gives the same bytes.

In the file are the labels of context and of planning. Not in it are what a database knows of itself (`Migration`, `Import`),
events that planning has not published yet (`PlanningOutbox`: they belong to the NATS that the old system speaks with), and the
properties in LOCAL.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fleet.context.graph import KEYS as CONTEXT_KEYS
from fleet.planning.graph import KEYS as PLANNING_KEYS
from fleet_wire.errors import Invalid

VERSION = 1
KEYS: Mapping[str, str] = {**CONTEXT_KEYS, **PLANNING_KEYS}
"""Each label in the file and the property that is unique in it."""
LOCAL = frozenset({"born", "lock"})
"""Properties that say something of the node in its database and nothing of the memory. A story's `born` must differ in another
database, so that nothing that was cached of the one is taken for the other's."""
_NAME = re.compile(r"[A-Z][A-Z_]{0,63}")


class Head(msgspec.Struct, frozen=True, tag="head", tag_field="line", forbid_unknown_fields=True):
    """`forms`: the number of each service's last migration, which says what its nodes look like."""

    version: int
    forms: dict[str, int]


class Node(msgspec.Struct, frozen=True, tag="node", tag_field="line", forbid_unknown_fields=True):
    label: str
    values: dict[str, Any]

    @property
    def key(self) -> str:
        return str(self.values[KEYS[self.label]])


class Relation(
    msgspec.Struct, frozen=True, tag="relation", tag_field="line", forbid_unknown_fields=True, rename={"from_": "from"}
):
    """From and to are label and key."""

    name: str
    from_: tuple[str, str]
    to: tuple[str, str]
    values: dict[str, Any]


class End(msgspec.Struct, frozen=True, tag="end", tag_field="line", forbid_unknown_fields=True):
    """`lines` before this one, the head included; nodes by label and relations by name."""

    lines: int
    nodes: dict[str, int]
    relations: dict[str, int]
    sha256: str


Line = Head | Node | Relation | End

_encoder = msgspec.json.Encoder(order="sorted")
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class Tally:
    """Counts and sums up lines as they pass."""

    def __init__(self) -> None:
        self._lines = 0
        self._nodes: dict[str, int] = {}
        self._relations: dict[str, int] = {}
        self._sum = hashlib.sha256()

    def add(self, line: Line, text: bytes) -> None:
        """Takes a line in; `text` is its bytes with the line end."""
        self._lines += 1
        self._sum.update(text)
        if isinstance(line, Node):
            self._nodes[line.label] = self._nodes.get(line.label, 0) + 1
        elif isinstance(line, Relation):
            self._relations[line.name] = self._relations.get(line.name, 0) + 1

    def end(self) -> End:
        """The end that belongs to what was taken in."""
        return End(self._lines, dict(self._nodes), dict(self._relations), self._sum.hexdigest())


@dataclasses.dataclass(frozen=True)
class Checked:
    """What a whole file says of itself."""

    path: Path
    head: Head
    end: End


def kept(held: Mapping[str, Any]) -> dict[str, Any]:
    """What of a node's or relation's properties stands in the file. The embedded server keeps a property that was set to
    nothing; Neo4j does not."""
    return {name: value for name, value in held.items() if value is not None and name not in LOCAL}


def encode(line: Line) -> bytes:
    """A line with its end."""
    return _encoder.encode(line) + b"\n"


def checked(path: Path) -> Checked:
    """Reads the file once through. Raises Invalid, naming the line, where it is cut off, changed, or of no form known here."""
    tally, head = Tally(), None
    try:
        with path.open("rb") as lines:
            for number, text in enumerate(lines, 1):
                line = _read(path, number, text)
                if number == 1:
                    head = _head(path, line)
                elif isinstance(line, Head):
                    raise Invalid(f"{path}: line {number} is a second head")
                if isinstance(line, End):
                    return _ended(path, head, line, tally.end(), lines.read(1))
                tally.add(line, text)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    raise Invalid(f"{path} is cut off: its end is missing")


def lines(path: Path) -> Iterator[Node | Relation]:
    """The nodes and relations of a file that `checked` has found whole."""
    with path.open("rb") as file:
        for text in file:
            line = _decoder.decode(text)
            if isinstance(line, Node | Relation):
                yield line


def _read(path: Path, number: int, text: bytes) -> Line:
    try:
        line = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        cut = "" if text.endswith(b"\n") else ": the file is cut off there"
        raise Invalid(f"{path}: line {number} cannot be read{cut} ({error})") from error
    if isinstance(line, Node):
        _check_label(path, number, line.label)
        if not isinstance(line.values.get(KEYS[line.label]), str):
            raise Invalid(f"{path}: line {number}: {line.label} lacks {KEYS[line.label]}")
    elif isinstance(line, Relation):
        if not _NAME.fullmatch(line.name):  # it becomes part of a statement
            raise Invalid(f"{path}: line {number}: {line.name[:80]!r} is no name of a relation")
        _check_label(path, number, line.from_[0])
        _check_label(path, number, line.to[0])
    return line


def _check_label(path: Path, number: int, label: str) -> None:
    if label not in KEYS:
        raise Invalid(f"{path}: line {number}: {label[:80]!r} is no label of the memory")


def _head(path: Path, line: Line) -> Head:
    if not isinstance(line, Head):
        raise Invalid(f"{path} does not begin with a head: it was not made by `fleet graph export`")
    if line.version != VERSION:
        raise Invalid(f"{path} has version {line.version} of the form, and this release reads {VERSION}")
    return line


def _ended(path: Path, head: Head | None, said: End, found: End, more: bytes) -> Checked:
    if head is None:
        raise Invalid(f"{path} does not begin with a head")
    if more:
        raise Invalid(f"{path} goes on after its end")
    if said != found:
        raise Invalid(f"{path} was changed or damaged: its end says {said.lines} lines, sha256 {said.sha256}")
    return Checked(path, head, said)
