"""Text from models, plans and services is data: made harmless here before a terminal shows it.

What could move the cursor, change colours or the title, reorder the line or hide itself is made visible instead. Rich gets
such text as `Text` or through a console that reads no markup (`console()`), so that `[red]` stays the five characters it is.
"""

import json
import unicodedata
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.text import Text

HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's controls (among them ESC and the eight-bit CSI), invisible formats (bidirectional overrides, zero-width
characters, tags), surrogates, private and unassigned code points, line and paragraph separators."""


def safe(text: str, lines: bool = True) -> str:
    """The text as a terminal may show it. Line ends stay unless `lines` is False, then the text becomes one line.

    Control characters become their pictures (ESC is shown as U+241B), other invisible ones an escape such as `\\u202e`.
    """
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    if not lines:
        text = " ".join(text.split("\n"))
    return "".join(_visible(character) for character in text)


def line(text: str, width: int = 0) -> str:
    """The text on one line, runs of blanks made one, cut to `width` characters with an ellipsis (0: not cut)."""
    flat = " ".join(safe(text, lines=False).split())
    return flat if not width or len(flat) <= width else flat[: width - 1] + "…"


def text(value: str, style: str = "") -> Text:
    """`safe` as a Rich Text, for places that would read markup from a str."""
    return Text(safe(value), style=style)


def console(stderr: bool = False) -> Console:
    """A console that reads no markup, emoji names or highlights from what it prints."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def plain(message: Message) -> dict[str, Any]:
    """A protobuf message as plain values, under the names of its fields."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def json_line(value: Any) -> str:
    """A struct, protobuf message or plain value as one line of ASCII JSON: the rest is escaped, so the line is harmless."""
    if isinstance(value, Message):
        value = plain(value)
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=True).replace("\x7f", "\\u007f")


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\n" or (0x20 <= code < 0x7F):
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if unicodedata.category(character) in HIDDEN_CATEGORIES:
        return f"\\u{code:04x}"
    return character
