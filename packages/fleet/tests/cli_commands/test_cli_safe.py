"""Text of others in the terminal."""

import io
import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from fleet.cli import safe


@given(st.text())
def test_nothing_that_could_steer_a_terminal_is_left(text: str) -> None:
    left = safe.safe(text)
    assert all(character == "\n" or unicodedata.category(character) not in safe.HIDDEN_CATEGORIES for character in left)
    left.encode("utf-8")  # raises where a surrogate is left


@given(st.text())
def test_one_line_is_one_line_and_no_wider_than_asked(text: str) -> None:
    assert len(safe.line(text).splitlines()) <= 1
    assert len(safe.line(text, 10)) <= 10


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert safe.safe(text) == text


def test_what_was_there_is_still_to_be_seen() -> None:
    assert safe.safe("\x1b[31mred\x07") == "␛[31mred␇"
    assert safe.safe("\x9b31m") == "\\u009b31m"
    assert safe.safe("a\u202eb\u2066c\u200bd") == "a\\u202eb\\u2066c\\u200bd"
    assert safe.safe("a\r\nb\rc\td") == "a\nb␍c    d"
    assert safe.safe("a\nb", lines=False) == "a b"
    assert safe.safe("größe → 東京 ✓") == "größe → 東京 ✓"


@given(st.text(st.sampled_from("[]/boldred link=\\\x1b:smile")))
def test_markup_is_shown_not_obeyed(text: str) -> None:
    out = io.StringIO()
    console = Console(file=out, markup=False, emoji=False, highlight=False, force_terminal=True, width=10_000)
    console.print(safe.text(text), end="")
    expected = io.StringIO()
    Console(file=expected, force_terminal=True, width=10_000).print(Text(safe.safe(text)), end="")
    assert out.getvalue() == expected.getvalue() and "\x1b" not in out.getvalue()


def test_a_console_reads_no_markup() -> None:
    console = safe.console()
    with console.capture() as capture:
        console.print("[bold]x[/bold] :smile:")
    assert capture.get() == "[bold]x[/bold] :smile:\n"


@given(st.text())
def test_a_json_line_is_printable_ascii_and_reads_back(text: str) -> None:
    line = safe.json_line({"text": text})
    assert all(0x20 <= ord(character) < 0x7F for character in line)
    assert json.loads(line) == {"text": text}
