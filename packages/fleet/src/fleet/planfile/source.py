"""YAML with the place of each value, so that whatever is found wrong with one can be pointed at."""

from collections.abc import Hashable, Sequence
from typing import Any

import yaml
from msgspec import Struct

Path = tuple[Hashable, ...]
"""The keys and indices that lead to a value."""


class Place(Struct, frozen=True, order=True):
    """Line and column, from 1."""

    line: int
    column: int


class NotYaml(Exception):
    """The text cannot be read as YAML any further than this place."""

    def __init__(self, what: str, place: Place) -> None:
        super().__init__(what)
        self.place = place


class Source:
    """A text as plain values (`data`). `repeated` are the places of keys that stand a second time."""

    def __init__(self, text: str) -> None:
        """Raises NotYaml."""
        self.repeated: list[tuple[str, Place]] = []
        try:
            # A SafeLoader: it makes plain values only.
            loader = _Loader(text, self.repeated)
            self._root = loader.get_single_node()
            self.data: Any = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise NotYaml(error.problem or error.context or "not YAML", _place(mark)) from error
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            place = Place(before.count("\n") + 1, error.position - before.rfind("\n"))
            raise NotYaml(f"{error.reason}: U+{ord(text[error.position]):04X}", place) from error
        except RecursionError as error:
            raise NotYaml("nested too deeply", Place(1, 1)) from error

    def place(self, path: Path, on_key: bool = False) -> Place:
        """Where the value stands, or, with `on_key`, its key; for what is not there, that which would hold it."""
        node, found = self._root, _place(self._root.start_mark if self._root else None)
        for at, step in enumerate(path):
            key, node = _inner(node, step)
            if node is None:
                break
            found = _place((key if on_key and at == len(path) - 1 and key else node).start_mark)
        return found


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without what would silently lose or grow data: aliases, and keys given twice."""

    def __init__(self, text: str, repeated: list[tuple[str, Place]]) -> None:
        super().__init__(text)
        self._repeated = repeated

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed here", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as a date that does not exist
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    self._repeated.append((key.value, _place(key.start_mark)))
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _inner(node: yaml.Node | None, step: Hashable) -> tuple[yaml.Node | None, yaml.Node | None]:
    """The key (of a mapping) and the value that a step leads to; nothing where there is none."""
    if isinstance(node, yaml.MappingNode):
        pairs: Sequence[tuple[yaml.Node, yaml.Node]] = node.value
        for key, value in pairs:
            if isinstance(key, yaml.ScalarNode) and key.value == str(step):
                return key, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    return None, None


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
