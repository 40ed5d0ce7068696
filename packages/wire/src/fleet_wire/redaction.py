"""Takes secrets out of what leaves: of a text, of a stream of chunks, of an event.

A secret becomes `[redacted:KIND]`; what stands around it, its name and its quotes too, stays. What tells a secret is in
`secretrules`. What has no form and no telling place (a password in a sentence, one made of a word alone) is not seen.

Libraries were looked at first: detect-secrets and its like scan files and answer with line numbers and hashes, not places;
those that redact are lists of patterns that know no chunks, and take a name, a path or a number of a phone for a secret.
"""

import bisect
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, Optional, TypeVar

import msgspec
from msgspec import inspect

from fleet_wire.secretforms import SAYS
from fleet_wire.secretrules import BEFORE, HIGH_ENTROPY, LONG, MARKER, MARKS, PREFIXES, WORDS, Look, More, leave_marker

_KEY_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-+/")
_AS_RUNS = bytes(ord("a") if byte in _KEY_BYTES else ord(" ") for byte in range(256))
_LONG_RUN = b"a" * LONG
_WORDS = tuple((anchor.encode(), look) for anchor, look in WORDS)
_ROOTS = {
    root: tuple((word, look) for word, look in _WORDS if root in word)
    for root, _ in _WORDS
    if not any(other in root for other, _ in _WORDS if other != root)
}
"""By the shortest anchor in them, so that one search tells that several are not there."""
_MARKS = tuple((anchor.encode(), look) for anchor, look in MARKS)
_MARKER = MARKER.encode()
_PREFIXES = dict(PREFIXES)
_PREFIX = re.compile(
    "(?<![A-Za-z0-9])(?:" + "|".join(re.escape(prefix) for prefix in _PREFIXES if prefix[0] != ":") + ")|:AA"
)
_ASSIGNS = re.compile("[=:]")
_ASSIGNED = re.compile(r"""[=:](?=[ \t]{0,16}[bBrRuUfF]{0,2}\\{0,3}["'`]?\Z)""")
_BEGUN = frozenset(anchor[:size] for anchor in (MARKER, *dict(MARKS), *_PREFIXES) for size in range(1, len(anchor)))
_BEGUN_WORDS = frozenset(anchor[:size] for anchor in dict(WORDS) for size in range(1, len(anchor)))
_LONGEST_BEGUN = max(map(len, _BEGUN | _BEGUN_WORDS))
_BEFORE_RUN = 24
"""Characters before a long run in which a prefix may begin, or its assignment stand."""

Candidates = list[tuple[int, Look]]
S = TypeVar("S", bound=msgspec.Struct)
Change = Callable[[str], str]


def redact(text: str) -> str:
    """The text without its secrets; the same text where there are none. Done again it changes nothing, unless secrets and names
    were glued together without anything between: then it may take more, never less."""
    candidates = _candidates(text, 0, True)
    return Redactor()._scanned(text, 0, candidates, True) if candidates else text


def redact_all(texts: Sequence[str]) -> list[str]:
    """`redact` of each, for little more than that of one where there are no secrets."""
    redacted = _redacted(texts)
    return [redacted.get(text, text) for text in texts]


def forms_in(text: str) -> list[str]:
    """What a text holds of the forms that makers give their keys, of private keys and of passwords in addresses: in words, each
    once. For a check: what is a secret by its name only is not looked for, as examples are full of it."""
    found: Candidates = []
    plain = text.encode("ascii", "replace")
    for mark, look in _MARKS:
        _find_all(plain, mark, 0, look, found)
    _find_by_runs(text, plain.translate(_AS_RUNS), 0, found)
    secrets = (look(text, at, True) for at, look in found if look is not HIGH_ENTROPY)
    kinds = {secret.kind for secret in secrets if secret is not None}
    return [says for kind, says in SAYS.items() if kind in kinds]


class Redactor:
    """For a text that comes in chunks: `add` each, `close` at the end. What they answer is, joined, what `redact` makes of
    the whole, however it was cut. Held back is what may still turn out to be a secret, at most some hundred characters.
    """

    def __init__(self) -> None:
        self._before = ""
        self._held = ""
        self._tail: Optional[re.Pattern[str]] = None
        self._ahead = 1

    def add(self, chunk: str) -> str:
        """What may leave, now that this has come."""
        return self._released(chunk, False)

    def close(self, chunk: str = "") -> str:
        """What was held back, with a last chunk that has come."""
        return self._released(chunk, True)

    def _released(self, chunk: str, final: bool) -> str:
        text = self._before + self._held + chunk
        at = self._past_tail(text, len(self._before), final)
        return self._scanned(text, at, [] if self._tail else _candidates(text, at, final), final)

    def _scanned(self, text: str, at: int, candidates: Candidates, final: bool) -> str:
        done: list[str] = []
        hold = len(text) if final or self._tail else _begun(text, at)
        for start, look in candidates:
            if start < at:
                continue
            try:
                found = look(text, start, final)
            except More:
                hold = min(hold, start)
                break
            if found is not None:
                done += (text[at : found.start], MARKER, found.kind, "]")
                self._tail, self._ahead = found.tail, found.ahead
                at = self._past_tail(text, found.end, final)
                if self._tail:
                    break
        if not self._tail:
            hold = max(hold, at)
            done.append(text[at:hold])
            at = hold
        self._before, self._held = text[max(0, at - BEFORE - len(MARKER)) : at], text[at:]
        return "".join(done)

    def _past_tail(self, text: str, at: int, final: bool) -> int:
        """Where the rest of a secret ends. It may look one character ahead, so the last one waits for the next; a piece waits
        until all that tells it is there."""
        if self._tail is None:
            return at
        if self._ahead > 1:
            while final or at + self._ahead <= len(text):
                piece = self._tail.match(text, at)
                if piece is None:
                    self._tail = None
                    return at
                at = piece.end()
            return at
        if self._tail.pattern:
            match = self._tail.match(text, at)
            end = match.end() if match else at
            if end >= len(text) - 1 and not final:
                return max(at, min(end, len(text) - 1))
            at = end
        self._tail = None
        return at


def _candidates(text: str, begin: int, final: bool) -> Candidates:
    """Where a rule may find something, in order. Cheap where there is nothing: a search for each of a few anchors, and for
    the others one for as many characters in a row as they all need (unless more may come)."""
    plain = text.encode("ascii", "replace")  # a byte a character, so that places stay the same
    lowered = plain.lower()
    found: Candidates = []
    for root, words in _ROOTS.items():
        if lowered.find(root, begin) >= 0:
            for word, look in words:
                _find_all(lowered, word, begin, look, found)
    for mark, look in (*_MARKS, (_MARKER, leave_marker)):
        _find_all(plain, mark, begin, look, found)
    if final:
        _find_by_runs(text, plain.translate(_AS_RUNS), begin, found)
    else:
        _find_prefixes(text, begin, len(text), found)
        found += ((match.start(), HIGH_ENTROPY) for match in _ASSIGNS.finditer(text, begin))
    found.sort(key=_start)
    return found


def _find_all(text: bytes, anchor: bytes, begin: int, look: Look, found: Candidates) -> None:
    at = text.find(anchor, begin)
    while at >= 0:
        found.append((at, look))
        at = text.find(anchor, at + 1)


def _find_by_runs(text: str, runs: bytes, begin: int, found: Candidates) -> None:
    """What needs many key characters in a row, by where those are."""
    start, before = runs.find(_LONG_RUN, begin), begin
    while start >= 0:
        end = runs.find(b" ", start)
        end = len(runs) if end < 0 else end
        _find_prefixes(text, max(before, start - _BEFORE_RUN), end, found)
        assigned = _ASSIGNED.search(text, max(before, start - _BEFORE_RUN), start)
        if assigned:
            found.append((assigned.start(), HIGH_ENTROPY))
        start, before = runs.find(_LONG_RUN, end), end


def _find_prefixes(text: str, begin: int, end: int, found: Candidates) -> None:
    match = _PREFIX.search(text, begin, end)
    while match:
        found.append((match.start(), _PREFIXES[match.group()]))
        match = _PREFIX.search(text, match.start() + 1, end)


def _start(candidate: tuple[int, Look]) -> int:
    return candidate[0]


def _begun(text: str, at: int) -> int:
    """Where an anchor begins whose end may come with the next chunk; the text's end where none does."""
    end = len(text)
    tail = text[max(at, end - _LONGEST_BEGUN) :]
    for start in range(len(tail)):
        if tail[start:] in _BEGUN or tail[start:].lower() in _BEGUN_WORDS:
            return end - len(tail) + start
    return end


def redact_struct(value: S) -> S:
    """The value with every free text in it redacted; the same object where there is nothing to redact. Ids, and what is of a
    fixed list, are no free text, and neither are the keys of a mapping."""
    apply = _applied(type(value))
    if apply is None:
        return value
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    apply(value, note)
    redacted = _redacted(texts)
    changed: S = apply(value, lambda text: redacted.get(text, text)) if redacted else value
    return changed


def _redacted(texts: Sequence[str]) -> dict[str, str]:
    """What becomes of those that hold a secret: only those in which a rule finds something are taken one by one."""
    return {text: new for text in _suspects(texts) if (new := redact(text)) != text}


def _suspects(texts: Sequence[str]) -> set[str]:
    """The texts in which a rule finds something: all of them searched as one. No anchor holds the end of a line, and no rule
    finds less in a text where other lines stand before and behind it."""
    together = "\n".join(texts)
    found = [at for at, look in _candidates(together, 0, True) if look(together, at, True)]
    if not found:
        return set()
    begins = list(itertools.accumulate((len(text) + 1 for text in texts), initial=0))
    return {texts[bisect.bisect_right(begins, at) - 1] for at in found}


@functools.cache
def _applied(kind: Any) -> Optional[Callable[[Any, Change], Any]]:
    """How a change is applied to the free texts of a type; None where it has none."""
    return _of(inspect.type_info(kind))


def _of(info: inspect.Type) -> Optional[Callable[[Any, Change], Any]]:
    if isinstance(info, inspect.StrType):
        return _to_text if info.pattern is None else None
    if isinstance(info, inspect.StructType):
        return _to_struct({field.name: apply for field in info.fields if (apply := _of(field.type))})
    if isinstance(info, inspect.ListType):
        return _to_list(_of(info.item_type))
    if isinstance(info, inspect.DictType):
        return _to_dict(_of(info.value_type))
    if isinstance(info, inspect.UnionType):
        some = [apply for apply in map(_of, info.types) if apply]
        if len(some) > 1:
            raise TypeError(f"no rule for the texts of {info}")
        return _to_optional(some[0]) if some else None
    return None


def _to_text(value: str, change: Change) -> str:
    new = change(value)
    return value if new == value else new


def _to_struct(fields: dict[str, Callable[[Any, Change], Any]]) -> Optional[Callable[[Any, Change], Any]]:
    def apply(value: Any, change: Change) -> Any:
        changed = {}
        for name, inner in fields.items():
            old = getattr(value, name)
            if old and (new := inner(old, change)) is not old:  # many are empty
                changed[name] = new
        return msgspec.structs.replace(value, **changed) if changed else value

    return apply if fields else None


def _to_list(inner: Optional[Callable[[Any, Change], Any]]) -> Optional[Callable[[Any, Change], Any]]:
    def apply(value: list[Any], change: Change) -> list[Any]:
        new = [inner(item, change) for item in value] if inner else value
        return new if any(one is not other for one, other in zip(new, value)) else value

    return apply if inner else None


def _to_dict(inner: Optional[Callable[[Any, Change], Any]]) -> Optional[Callable[[Any, Change], Any]]:
    def apply(value: dict[Any, Any], change: Change) -> dict[Any, Any]:
        new = {key: inner(item, change) for key, item in value.items()} if inner else value
        return new if any(new[key] is not item for key, item in value.items()) else value

    return apply if inner else None


def _to_optional(inner: Callable[[Any, Change], Any]) -> Callable[[Any, Change], Any]:
    return lambda value, change: None if value is None else inner(value, change)
