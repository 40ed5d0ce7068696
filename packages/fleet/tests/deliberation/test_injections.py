"""Texts that try to steer a seat, in the real prompts of every phase: they stay data."""

import unicodedata
from pathlib import Path

import pytest
from injectionkit import ANSWERS, BLOCKS, CLEAN, Injection, asked, fences, injections, outside, written

from fleet.deliberation.requests import JobRequest
from fleet_wire.fence import harmless

DOCS = Path(__file__).resolve().parents[4] / "docs/injections.md"
ALL = injections()
CONTROL_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|channel|>",
    "<|message|>", "<|return|>", "<|start|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]", "[TOOL_CALLS]", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>",
    "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "[gMASK]", "<sop>", "[|system|]", "[|endofturn|]", "<think>", "</think>",
    "<tool_call>", "</tool_call>",
)  # fmt: skip
"""Of the templates of ChatML, harmony, Llama 2 and 3, Mistral, Gemma, Phi, DeepSeek, GLM, EXAONE and Qwen."""


def test_the_set_is_large_and_every_place_is_tried() -> None:
    assert len(ALL) >= 40
    assert len({it.name for it in ALL}) == len({it.text for it in ALL}) == len(ALL)
    assert {it.enters for it in ALL} == {*BLOCKS, *ANSWERS}


@pytest.mark.parametrize("injection", ALL, ids=lambda it: it.name)
def test_it_stays_in_its_fence_and_all_else_is_byte_for_byte_as_without_it(injection: Injection) -> None:
    text = injection.armed()
    pairs = list(zip(asked(injection.enters, text), asked(injection.enters, CLEAN), strict=True))
    assert {one.phase for one, _ in pairs} == {"propose", "tests", "critique", "revise", "judge"}
    reached = 0
    for one, other in pairs:
        assert without_messages(one) == without_messages(other)
        (_, system), (role, user) = one.messages
        assert (("system", system), role) == (other.messages[0], "user")
        before = other.messages[1][1]
        assert outside(user) == outside(before), "another seat's instructions"
        assert [kind for _, kind, _ in fences(user)] == [kind for _, kind, _ in fences(before)]
        for (marker, kind, body), (_, _, was) in zip(fences(user), fences(before), strict=True):
            lines = user.split("\n")
            assert (lines.count(f"--- {marker} {kind}"), lines.count(f"--- {marker} end")) == (1, 1)
            if body != was:
                reached += 1
                assert marker not in text, "a marker that could be foreseen"
                assert "".join(harmless(told(injection, text)).split()) in "".join(body.split()), kind
    assert reached, "it entered no prompt"


@pytest.mark.parametrize("injection", ALL, ids=lambda it: it.name)
def test_no_control_token_survives_also_for_a_tokenizer_that_normalises(injection: Injection) -> None:
    for request in asked(injection.enters, injection.armed()):
        content = request.messages[1][1]
        joined = "".join(letter for letter in content if unicodedata.category(letter) != "Cf")
        for text in (content, joined, unicodedata.normalize("NFKC", joined)):
            assert [token for token in CONTROL_TOKENS if token in text] == []


@pytest.mark.parametrize("place", sorted({*BLOCKS, *ANSWERS} - {"QA test"}))  # a test that long is left out
def test_all_of_them_at_once_in_one_place_stay_in_their_fence(place: str) -> None:
    text = "\n".join(it.armed() for it in ALL)
    for one, other in zip(asked(place, text), asked(place, CLEAN), strict=True):
        assert outside(one.messages[1][1]) == outside(other.messages[1][1])
        assert len(fences(one.messages[1][1])) == len(fences(other.messages[1][1]))


def test_what_happened_to_each_stands_in_the_docs() -> None:
    assert DOCS.read_text() == written(DOCS.read_text()), "python injectionkit.py ../../../../docs/injections.md"


def told(injection: Injection, text: str) -> str:
    """A tester's text reaches others as it stands in its test: cut, and as Python writes it."""
    return repr(text)[1:-1] if injection.enters == "QA test" else text


def without_messages(request: JobRequest) -> dict[str, object]:
    return {name: getattr(request, name) for name in request.__struct_fields__ if name != "messages"}
