"""What is checked of an answer."""

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_executor.checks import NAMES, apart, checked, is_quick, lint, parse, policy, run_checks
from fleet_executor.checks.needed import may_hold, needed
from fleet_executor.jobs import CheckList
from fleet_wire.answers import code_blocks
from fleet_wire.errors import Invalid
from fleet_wire.events import Check


def fenced(language: str, text: str) -> str:
    return f"Here it is:\n```{language}\n{text}\n```\nThat is all."


def check(name: str, content: str, **asked: Any) -> Check:
    [found] = run_checks(content, CheckList(names=[name], **asked))
    assert found.name == name and (found.score is None) == (found.status == "not_run")
    return found


@pytest.mark.parametrize(
    ("language", "text", "status"),
    [
        ("python", "def f(x):\n    return x", "passed"),
        ("py", "def f(x) return x", "failed"),
        ("python3", "x = 1\n  y = 2", "failed"),
        ("json", '{"a": [1, 2]}', "passed"),
        ("JSON", "{'a': 1}", "failed"),
        ("yaml", "a:\n  - b\n  - c: 1", "passed"),
        ("yml", "a: b: c", "failed"),
        ("yaml", "a: 1\n---\nb: 2", "passed"),
        ("toml", "[a]\nb = 1", "passed"),
        ("toml", "[a\nb = 1", "failed"),
        ("rust", "fn main() {", "not_run"),
        ("", "def f(", "not_run"),
    ],
)
def test_blocks_parse_or_do_not(language: str, text: str, status: str) -> None:
    assert check("parse", fenced(language, text)).status == status


def test_the_score_of_parsing_is_the_share_of_blocks_and_the_detail_says_what_is_wrong() -> None:
    content = fenced("python", "x = 1") + fenced("json", "{}") + fenced("python", "y = = 2") + fenced("toml", "a = 1")
    found = check("parse", content)
    assert (found.status, found.score) == ("failed", 0.75)
    assert found.detail.startswith("3 of 4 blocks parse; python: ") and "(line 1)" in found.detail


HARD = {
    "brackets in YAML, which crash its parser in C": ("yaml", "[" * 60_000, None),
    "lists in YAML": ("yaml", "- " * 30_000, "failed"),
    "brackets in JSON": ("json", "[" * 60_000, "failed"),
    "tables in TOML": ("toml", "a=" + "{a=" * 20_000, "failed"),
    "aliases that make a billion": (
        "yaml",
        "\n".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9 if n else '1'}]" for n in range(9)),
        None,
    ),
    "a Python object in YAML": ("yaml", "!!python/object/apply:os.system [id]", "failed"),
    "signs in Python": ("python", "-" * 60_000 + "1", "failed"),
    "a long sum in Python": ("python", "+".join(["1"] * 30_000), None),
    "nulls in Python": ("python", "x = '\0'", "failed"),
    "half of a surrogate pair": ("python", "x = '\ud800'", None),
    "a number of many digits": ("json", "1" * 60_000, None),
    "a key of many parts in TOML": ("toml", "a." * 30_000 + "a = 1", None),
}


@pytest.mark.parametrize(("language", "text", "status"), HARD.values(), ids=HARD)
def test_what_is_made_to_break_a_parser_breaks_nothing_else(language: str, text: str, status: Any) -> None:
    begun = time.monotonic()
    found = check("parse", fenced(language, text))
    assert found.status == status if status else found.status in ("passed", "failed", "not_run")
    assert len(found.detail) <= 500
    assert time.monotonic() - begun < apart.SECONDS + 2


def test_a_parser_that_is_not_there_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_FROM_PACKAGES", ())  # so that no installed package is looked for
    assert check("parse", fenced("yaml", "a: [")).status == "not_run"
    assert check("parse", fenced("yaml", "a: [") + fenced("json", "1")).status == "passed"


def test_lint_finds_defects_and_leaves_style_alone() -> None:
    assert check("lint", fenced("python", "def f( x ):\n\n\n  return( x )")).status == "passed"
    found = check("lint", fenced("python", "import os\n\ndef f(x):\n    return y\n"))
    assert (found.status, found.score) == ("failed", pytest.approx(1 / 3))
    assert "line 1: F401" in found.detail and "line 4: F821" in found.detail
    assert "syntax" in check("lint", fenced("python", "def f(:\n    pass")).detail


def test_lint_reads_the_blocks_of_an_answer_as_one() -> None:
    assert (
        check("lint", fenced("python", "def f(x):\n    return x") + fenced("python", "print(f(1))")).status == "passed"
    )
    assert check("lint", fenced("json", "{}")).status == "not_run"
    assert check("lint", "no code").status == "not_run"


def test_lint_takes_no_configuration_from_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ruff.toml").write_text('lint.ignore = ["F401"]')
    monkeypatch.chdir(tmp_path)
    content = fenced("python", "import os  # noqa\nimport re")
    assert "F401 `re`" in check("lint", content).detail


def test_where_ruff_is_missing_or_does_not_answer_nothing_is_found_nor_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lint, "_ruff", lambda: None)
    assert check("lint", fenced("python", "x")).detail == "ruff is not installed here"
    monkeypatch.setattr(lint, "SECONDS", 1.0)
    ruff = tmp_path / "ruff"
    monkeypatch.setattr(lint, "_ruff", lambda: str(ruff))
    for program, says in {
        "exit 2": "ended with code 2",
        "exit 1": "no JSON: ''",
        "echo hm": "no JSON: 'hm",
        "exec /bin/sleep 9": "more than 1 s",
    }.items():
        ruff.write_text(f"#!/bin/sh\n{program}\n")
        ruff.chmod(0o755)
        found = check("lint", fenced("python", "x"))
        assert found.status == "not_run" and says in found.detail


RULES = {
    "required": [{"name": "a heading", "pattern": "^# "}],
    "forbidden": [{"name": "eval", "pattern": r"\beval\("}],
    "secrets": True,
    "min_bytes": 5,
    "max_bytes": 2000,
}


def test_an_answer_that_keeps_the_policy_passes() -> None:
    found = check("policy", "Text\n# Plan\nWe evaluate.", policy=json.dumps(RULES))
    assert (found.status, found.score) == ("passed", 1)


@pytest.mark.parametrize(
    ("content", "broken"),
    [
        ("no heading", "lacks a heading"),
        ("# x\neval(input())", "holds eval"),
        ("# ", "3 of at least 5 bytes"),
        ("# " + "ä" * 1000, "2002 of at most 2000 bytes"),
        ("# x\n-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEowIBAAKCAQEAx8Rv", "holds a private key"),
        ("# x\nAKIA" + "ABCDEFGHIJKLMNOP", "holds an AWS access key"),
        ("# x\npostgres://me:word@db/x", "holds a password in an address"),
    ],
)
def test_what_breaks_the_policy_is_named(content: str, broken: str) -> None:
    content = content if content != "# " else "# x"
    found = check("policy", content, policy=json.dumps(RULES))
    assert (found.status, found.detail) == ("failed", broken)
    assert found.score is not None and 0 < found.score < 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no policy"),
        ("{}", "no rule"),
        ('{"secrets": false}', "no rule"),
    ],
)
def test_a_policy_without_rules_is_not_passed(text: str, word: str) -> None:
    found = check("policy", "anything", policy=text)
    assert found.status == "not_run" and word in found.detail


@pytest.mark.parametrize(
    ("pattern", "characters"),
    [
        (r"(?:curl|wget)[^\n|]*\|\s*(?:sudo\s+)?(?:ba|z)?sh\b", "|sh"),
        (r"(?m)^\s*privileged:\s*true\b", "privlegd:tu"),
        ("(?i)x", ""),
        ("(?i:x)y", "y"),
        ("x|y", ""),
        ("(xy|yz)+q*", "y"),
        ("x{0,3}[yz]", ""),
        ("(?=x)y(?!z)", "y"),
        ("(" * 300 + "x" + ")" * 300, None),
    ],
)
def test_what_no_match_goes_without_is_read_off_a_pattern(pattern: str, characters: Optional[str]) -> None:
    if characters is None:
        assert needed(pattern) <= {"x"}
    else:
        assert needed(pattern) == frozenset(characters)


@given(
    pattern=st.recursive(
        st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "^", r"\b"]),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
            st.tuples(inner, st.sampled_from(["?", "*", "+?", "{2}", "{0,1}"])).map(
                lambda two: f"(?:{two[0]}){two[1]}"
            ),
            inner.map(lambda one: f"(?i:{one})"),
            inner.map(lambda one: f"(?!{one})"),
        ),
        max_leaves=6,
    ),
    text=st.text("abAB\n", max_size=8),
)
def test_no_text_that_a_pattern_is_found_in_goes_unsearched(pattern: str, text: str) -> None:
    assert may_hold(text, pattern) or re.search(pattern, text, re.MULTILINE) is None


def test_a_pattern_that_runs_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SECONDS", 1)
    rules = {"forbidden": [{"name": "slow", "pattern": "(a+)+$"}]}
    found = check("policy", "a" * 60 + "b", policy=json.dumps(rules))
    assert found.status == "not_run" and "1 s" in found.detail


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"unknown": 1}',
        '{"required": [{"name": "x"}]}',
        '{"required": [{"name": "x", "pattern": "("}]}',
        '{"max_bytes": -1}',
    ],
)
def test_a_bad_policy_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        policy.parsed(text)


def test_requirements_are_counted_by_their_content_words() -> None:
    wanted = ["The function must return the sum", "It never blocks"]
    found = check("requirements", "This function will return a sum.", requirements=wanted)
    assert (found.status, found.score) == ("passed", 0.5)
    assert check("requirements", "Nothing.", requirements=wanted).status == "failed"
    assert check("requirements", "Nothing.").status == "not_run"
    assert check("requirements", "Nothing.", requirements=["it must"]).status == "not_run"


def test_results_come_in_one_order_and_only_of_what_was_asked() -> None:
    names = [found.name for found in run_checks("text", CheckList(names=list(reversed(NAMES))))]
    assert tuple(names) == NAMES
    assert run_checks("text", CheckList(names=[])) == []


def test_prose_is_checked_at_once() -> None:
    prose = "The sum of all numbers is returned by the function, which never blocks its caller for long."
    asked = CheckList(names=list(NAMES), requirements=["The function must return the sum", "It never blocks"])
    assert is_quick(prose, asked)
    begun = time.perf_counter()
    for _ in range(200):
        is_quick(prose, asked)
        run_checks(prose, asked)
    assert (time.perf_counter() - begun) / 200 < 0.003  # ten times of what it takes
    assert not is_quick(fenced("python", "x"), asked)
    assert not is_quick(f"# {prose}", CheckList(names=["policy"], policy=json.dumps(RULES)))
    assert is_quick(prose, CheckList(names=["policy"], policy=json.dumps(RULES)))
    assert is_quick(prose, CheckList(names=["policy"], policy='{"secrets": true}'))
    assert is_quick(prose, CheckList(names=["policy"], policy='{"max_bytes": 9}'))
    assert is_quick(fenced("python", "x"), CheckList(names=["requirements"]))


async def test_the_loop_goes_on_while_code_is_checked() -> None:
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.005)
            beats += 1

    beating = asyncio.ensure_future(beat())
    slots = asyncio.Semaphore(1)
    found = await checked(fenced("python", "x = 1") + fenced("yaml", "a: 1"), CheckList(names=list(NAMES)), slots)
    beating.cancel()
    assert [each.status for each in found] == ["passed", "passed", "not_run", "not_run"]
    assert beats >= 5
    assert await checked("x", None, slots) == []


def test_blocks_of_other_languages_are_not_read() -> None:
    assert parse.check(code_blocks(fenced("text", "x"))).status == "not_run"
