"""How much redaction finds, and how much it takes that is none: measured on texts that were written for it."""

import re
from pathlib import Path

import pytest

from fleet_wire import events
from fleet_wire.redaction import redact, redact_all, redact_struct

LINES = (Path(__file__).with_name("redaction_corpus.txt")).read_text("utf-8").splitlines()
TEXTS = [
    re.sub(r"\\(\\|n)", lambda match: "\n" if match.group(1) == "n" else "\\", line.replace("·", ""))
    for line in LINES
    if line and not line.startswith("#")
]
PLAIN = [text.replace("«", "").replace("»", "") for text in TEXTS]
WITH_SECRET = [text for text in TEXTS if "«" in text]
WITHOUT = [text for text in TEXTS if "«" not in text]


def shown(marked: str) -> str:
    """What is to be left of a text."""
    return re.sub("«[^»]*»", "[redacted]", marked)


def redacted(marked: str) -> str:
    plain = redact(marked.replace("«", "").replace("»", ""))
    return plain if "«" not in marked else re.sub(r"\[redacted:[a-z-]+\]", "[redacted]", plain)


def test_nearly_all_secrets_go_and_nearly_all_else_stays(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(WITH_SECRET) >= 60
    assert len(WITHOUT) >= 60
    missed = [text for text in WITH_SECRET if redacted(text) != shown(text)]
    wrong = [text for text in WITHOUT if redacted(text) != text]
    found = len(WITH_SECRET) - len(missed)
    recall, precision = found / len(WITH_SECRET), found / (found + len(wrong))
    with capsys.disabled():
        print(
            f"\nredaction: recall {recall:.3f} of {len(WITH_SECRET)}, precision {precision:.3f} beside {len(WITHOUT)}"
        )
        for text in missed:
            print(f"  missed: {text!r}\n     made: {redacted(text)!r}")
        for text in wrong:
            print(f"  taken:  {text!r}\n     made: {redacted(text)!r}")
    assert recall >= 0.98
    assert precision >= 0.98


def test_what_is_found_in_a_text_is_found_in_the_texts_of_a_value() -> None:
    alone = [redact(text) for text in PLAIN]
    together = redact_struct(events.StoryText(title="", brief=PLAIN[0], acceptance=PLAIN))
    assert (together.brief, together.acceptance) == (alone[0], alone)
    assert redact_all(PLAIN) == alone
