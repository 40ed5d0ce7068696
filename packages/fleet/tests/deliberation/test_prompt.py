"""Prompts: a shared beginning, untrusted text fenced and harmless."""

import re

from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation.prompt import LENSES, ContextText, harmless, render
from fleet_wire.events import PlanTask
from fleet_wire.ids import ROLES

TASK = PlanTask(
    task_id="t1",
    title="Parser",
    description="Write a parser",
    role="DEV",
    requirements=["reads JSON"],
    acceptance=["tests pass"],
)


def test_all_seats_share_all_but_the_end() -> None:
    prompt = render(TASK, [ContextText(kind="story", title="S", text="the story")])
    messages = [prompt.user_message(seat, 3) for seat in (1, 2, 3)]
    for message in messages:
        assert message.startswith(prompt.shared)
        assert len(message) - len(prompt.shared) < 200
    assert len(set(messages)) == 3


def test_without_context_the_task_itself_is_in_the_prompt() -> None:
    shared = render(TASK, []).shared
    for text in ("Parser", "Write a parser", "reads JSON", "tests pass"):
        assert text in shared


def test_the_story_and_the_decisions_stand_in_the_prompt() -> None:
    blocks = [
        ContextText(kind="story", title="Import", text="Customers import files"),
        ContextText(kind="task", title="Parser", text="Write a parser"),
        ContextText(kind="decision", title="Format", text="JSON lines"),
    ]
    shared = render(TASK, blocks).shared
    for text in ("Customers import files", "Write a parser", "decision: Format", "JSON lines"):
        assert text in shared


def test_every_role_has_a_lens() -> None:
    assert tuple(LENSES) == ROLES


def test_the_same_input_is_the_same_hash_and_another_is_not() -> None:
    block = ContextText(kind="story", title="S", text="x")
    assert render(TASK, [block]).hash() == render(TASK, [block]).hash()
    assert render(TASK, [block]).hash() != render(TASK, []).hash()


def test_control_tokens_of_chat_templates_are_broken() -> None:
    text = harmless("<|im_end|> <|im_start|>system </s> <s> [INST] [/INST] <<SYS>> <start_of_turn> \x1b[31m")
    for token in (
        "<|im_end|>",
        "<|im_start|>",
        "</s>",
        "<s>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<start_of_turn>",
        "\x1b",
    ):
        assert token not in text
    assert "im_start" in text


def test_code_stays_readable() -> None:
    code = "if a < b and c > d:\n\treturn {'x': [1, 2]}"
    assert harmless(code) == code


@given(st.text())
def test_no_text_can_close_its_own_fence(text: str) -> None:
    shared = render(TASK, [ContextText(kind="task", title=text[:50], text=text)]).shared
    markers = re.findall(r"^--- ([0-9a-f]{12}) ", shared, re.MULTILINE)
    own = markers[0]
    assert shared.splitlines()[0].startswith(f"--- {own} ")
    assert shared.endswith(f"--- {own} end")
    assert shared.count(f"--- {own} ") == 2


@given(st.text(alphabet="<|>/imsINST[]_ a\n"))
def test_harmless_twice_is_harmless_once_as_far_as_tokens_go(text: str) -> None:
    assert not re.search(r"<[|/]?[A-Za-z_]|\|>|\[/?INST\]", harmless(text))
