"""Fenced blocks of a model's answer."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_wire.answers import Block, code_blocks


@pytest.mark.parametrize(
    ("answer", "blocks"),
    [
        ("no block", []),
        ("", []),
        ("```python\nx = 1\n```", [("python", "x = 1")]),
        ("text\n```\nx\ny\n```\nmore\n```JSON\n{}\n```\n", [("", "x\ny"), ("json", "{}")]),
        ("```py title=a.py\nx\n```", [("py", "x")]),
        ("```{.python}\nx\n```", [("python", "x")]),
        ("~~~python\n```\n~~~", [("python", "```")]),
        ("````md\n```python\nx\n```\n````", [("md", "```python\nx\n```")]),
        ("```python\nx = 1", [("python", "x = 1")]),
        ("```python\r\nx = 1\r\n```\r\n", [("python", "x = 1")]),
        ("1. so:\n   ```python\n   if x:\n       y\n   ```", [("python", "if x:\n    y")]),
        ("inline ```x``` only", []),
        ("```x``` is inline too", []),
        ("```\n```python\n```", [("", "```python")]),
        ("```\x0b\na\x0cb\u2028c\n```", [("", "a\x0cb\u2028c")]),
    ],
)
def test_blocks_are_found_with_their_language(answer: str, blocks: "list[tuple[str, str]]") -> None:
    assert code_blocks(answer) == blocks


def test_endless_fences_take_no_time() -> None:
    begun = time.process_time()
    code_blocks(("```" + "a" * 20_000 + " " * 20_000 + "`") * 30)
    code_blocks("```\n" * 20_000)
    code_blocks("`" * 200_000)
    assert time.process_time() - begun < 1


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("`~\n\r \tpython")), max_size=200))
def test_any_answer_has_blocks_made_of_its_own_text(answer: str) -> None:
    for block in code_blocks(answer):
        assert isinstance(block, Block)
        for line in block.text.split("\n"):
            assert line in answer


@given(st.text(max_size=100).filter(lambda text: "`" not in text and "\r" not in text))
def test_what_is_fenced_is_read_back(text: str) -> None:
    assert code_blocks(f"before\n```python\n{text}\n```\nafter") == [("python", text)]
