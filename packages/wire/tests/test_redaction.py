import datetime as dt
import json
import re
import string

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_redaction_corpus import PLAIN

from fleet_wire import events, redaction
from fleet_wire.redaction import Redactor, forms_in, redact, redact_all, redact_struct
from fleet_wire.secretrules import MARKS, PREFIXES, REACH, WORDS

KEY = "h8RvT2mXwLb7NcYs9JdFkQz4GpAe3UoKi1BtMxQw"
ANCHORS = [anchor for anchor, _ in (*WORDS, *MARKS, *PREFIXES)]
GITHUB = "gh" + "p_4kQz8RvT2mXwLb7NcYs9JdFhGpAe3UoKi1Bt"
PIECES = st.one_of(
    st.sampled_from(PLAIN),
    st.sampled_from(ANCHORS),
    st.sampled_from(
        "= : ' \\ \\n . - -- @ / ] [ & ? ( => b' api_ name é İ 🔑 basic Basic hunter2 a1! [redacted:key]".split(" ")
    ),
    st.sampled_from(
        [" ", "\t", "\n", ' = "', '": "', " := ", ": str = ", "PRIVATE KEY-----", "-----END PRIVATE KEY-----"]
    ),
    st.sampled_from(['\\n"\n  "', '", "', "' + '", '\\"', "\\\\n", "\\u000a", "\nVersion: 1\n", "Comment: a b\\n"]),
    st.sampled_from(
        [KEY, KEY[:20], KEY * 3, f".eyJ{KEY}", "8f14e45fceea167a5a36dedd4bea2543", "MIIEowIBAAKCAQEAx8RvT2mX"]
    ),
    st.text(string.ascii_letters + string.digits + "_-.=:/@\"' \n", max_size=12),
    st.text(max_size=3),
)
TEXTS = st.lists(PIECES, max_size=14).map("".join)
# The examples below are half of what a change should see: all of this is run on two Pythons, each with examples of its own.


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.data())
def test_a_stream_says_what_the_whole_text_would_however_it_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    redactor = Redactor()
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
    said = [redactor.add(chunk) for chunk in chunks]
    assert "".join([*said, redactor.close()]) == redact(text)
    redactor = Redactor()
    said = [redactor.add(chunk) for chunk in chunks[:-1]]
    assert "".join([*said, redactor.close(*chunks[-1:])]) == redact(text)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_a_stream_of_single_characters_says_what_the_whole_text_would(text: str) -> None:
    redactor = Redactor()
    assert "".join([*map(redactor.add, text), redactor.close()]) == redact(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(TEXTS, PIECES), max_size=6))
@example(["page", f"token={KEY}"])
@example(["pwd: hunter2", "= none"])
@example(["-----BEGIN PRI" + "VATE KEY-----\nMIIEowIBAAKCAQEA", "", "Version: 1"])
def test_what_a_text_loses_depends_on_no_other_text_beside_it(texts: "list[str]") -> None:
    assert redact_all(texts) == [redact(text) for text in texts]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PLAIN), max_size=6), st.sampled_from(["\n", " ", ", "]))
@example([f"{GITHUB}: 8f14e45fceea167a5a36dedd4bea2543"], " ")
@example([f"https://{GITHUB}@host"], " ")
@example([f"token={KEY}_id = {KEY}"], " ")
def test_what_is_redacted_is_not_changed_again(texts: "list[str]", between: str) -> None:
    once = redact(between.join(texts))
    assert redact(once) == once


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["password", "token", "api_key", "name"]), st.one_of(TEXTS, st.integers(), st.none())
    )
)
def test_json_stays_json(value: object) -> None:
    json.loads(redact(json.dumps(value)))


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("after", ['" and more', "", '", "name": "x', "\\n", "/ \t", "\n\nend of it"])
def test_json_in_json_with_a_key_that_was_cut_off_stays_json(levels: int, after: str) -> None:
    text = 'He wrote "-----BEGIN PRI' + f"VATE KEY-----\n{KEY}\n{KEY}{after}"
    for _ in range(levels):
        text = json.dumps({"text": text, "name": "stays"})
    text = redact(text)
    for _ in range(levels):
        value = json.loads(text)
        assert value["name"] == "stays"
        text = value["text"]
    assert KEY not in text


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 30))
def test_a_stream_holds_back_a_bounded_part(text: str, size: int) -> None:
    redactor = Redactor()
    for start in range(0, len(text), size):
        redactor.add(text[start : start + size])
        assert len(redactor._held) <= REACH + 64


def test_plain_text_leaves_at_once() -> None:
    redactor = Redactor()
    words = "The council decides that one worker is enough, as in v2.1; it is done. ".split(" ")
    assert [redactor.add(f"{word} ") for word in words] == [f"{word} " for word in words]


@pytest.mark.parametrize("size", range(1, 9))
def test_a_secret_split_over_chunks_never_leaves(size: int) -> None:
    text = f'He wrote: client = Client(api_key="{KEY}") and went on.'
    redactor = Redactor()
    seen = [redactor.add(text[start : start + size]) for start in range(0, len(text), size)]
    assert not any(KEY[start : start + 8] in "".join(seen) for start in range(len(KEY) - 8))
    assert "".join(seen) + redactor.close() == 'He wrote: client = Client(api_key="[redacted:key]") and went on.'


def test_a_private_key_of_any_length_goes_without_being_held() -> None:
    redactor, held, shown = Redactor(), 0, ""
    body = "MIIEowIBAAKCAQEAx8RvT2mXwLb7NcYs9JdFkQz4GpAe3UoKi1BtMxQwZr5VnLyC\n" * 2000
    for part in (
        "-----BEGIN RSA PRI" + "VATE KEY-----\n",
        *(body[at : at + 50] for at in range(0, len(body), 50)),
        "-----END",
    ):
        shown += redactor.add(part)
        held = max(held, len(redactor._held))
    assert shown + redactor.close() == "-----BEGIN RSA PRI" + "VATE KEY-----\n[redacted:private-key]-----END"
    assert held < 100


@pytest.mark.parametrize(
    "unit",
    [
        "password=",
        "password: str = ",
        "-----BEGIN ",
        "://",
        "a://a:b@",
        "eyJ.",
        "sk-",
        "a:",
        "api_key=",
        "--token ",
        "bearer a1.",
        "\\",
        '"',
        "x='",
        f"{KEY[:24]}=",
        "İpassword=",
        "[redacted:",
        "secret=aaaaaaaa1/",
        "token: \t ",
        "-----",
        "a",
        "=",
    ],
)
def test_a_longer_text_costs_no_more_for_a_character(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: how many characters the rules read."""
    from fleet_wire import secretrules

    read = 0
    plain = secretrules._run

    def counted(pattern: "re.Pattern[str]", text: str, at: int, final: bool) -> int:
        nonlocal read
        end = plain(pattern, text, at, final)
        read += end - at + 1
        return end

    monkeypatch.setattr(secretrules, "_run", counted)
    costs = []
    for length in (5_000, 50_000):
        read = 0
        redact_all([(unit * length)[:length]])
        costs.append(read / length)
    assert costs[1] <= costs[0] * 1.5 + 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("AKI" + "AQ3EGRJ7XW2LZ9KFP", "an AWS access key"),
        (GITHUB, "a GitHub token"),
        ("6104857316:A" + "AH8RvT2mXwLb7NcYs9JdFkQz4GpAe3UoKi", "a Telegram token"),
        ("-----BEGIN PRI" + "VATE KEY-----\n" + "MIIEvQIBADANBgkqhkiG9w0BAQ", "a private key"),
        ("nats://svc:h8RvT2@nats:4222", "a password in an address"),
    ],
)
def test_what_has_a_form_is_named_wherever_it_stands_and_gone_once_redacted(text: str, says: str) -> None:
    assert forms_in(f"Take {text} for it") == forms_in(f'api_key = "{text}"') == [says]
    assert forms_in(redact(text)) == []


def test_what_is_a_secret_by_its_name_only_has_no_form() -> None:
    assert forms_in(f'password = "hunter2"; api_key = "{KEY}"') == []


NOW = dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)
RESULT = events.AgentResult(
    job_id="job-1",
    deliberation_id="delib-1",
    task_id="task-1",
    agent_id="agent-DEV-001",
    role="DEV",
    phase="propose",
    attempt=1,
    status="completed",
    content='password = "hunter2"',
    checks=[
        events.Check(name="policy", status="failed", detail=f"Bearer {KEY}"),
        events.Check(name="lint", status="passed"),
    ],
    error=events.JobError(kind="http", message="http://u:p4ss@model refused", retryable=True),
)


def test_every_text_of_an_event_is_redacted_where_it_is_encoded() -> None:
    event = events.decode(RESULT.subject(), events.encode(RESULT))
    assert isinstance(event, events.AgentResult)
    assert event.content == 'password = "[redacted:password]"'
    assert [check.detail for check in event.checks] == ["Bearer [redacted:bearer]", ""]
    assert event.error is not None
    assert event.error.message == "http://u:[redacted:url-password]@model refused"
    assert event.message_id() == RESULT.message_id()


def test_an_event_that_comes_again_has_the_same_bytes() -> None:
    body = events.encode(RESULT)
    assert events.encode(RESULT) == body
    received = events.decode(RESULT.subject(), body)
    assert redact_struct(received) is received


def test_ids_are_left_even_where_they_look_like_keys() -> None:
    key = "AKI" + "AQ3EGRJ7XW2LZ9KFP"
    event = msgspec.structs.replace(RESULT, job_id=key, content=key)
    assert redact_struct(event).job_id == key
    assert redact_struct(event).content == "[redacted:aws-key]"


def test_an_event_without_secrets_is_the_same_object() -> None:
    event = msgspec.structs.replace(RESULT, content="The token is renewed.", checks=[], error=None)
    assert redact_struct(event) is event


def test_a_text_is_not_taken_by_itself_for_a_word_that_names_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(redaction, "redact", lambda text: taken.append(text) or redact(text))
    words = "It took 864 tokens in 3 calls to the model, and no password: there is none"
    assert redact_all([words, "so it is said"]) == [words, "so it is said"]
    assert taken == []
    assert redact_all([words, 'password = "hunter2"'])[1] == 'password = "[redacted:password]"'
    assert taken == ['password = "hunter2"']


def test_what_is_said_to_be_redacted_is_encoded_as_it_is() -> None:
    assert events.encode(redact_struct(RESULT), redacted=True) == events.encode(RESULT)
    assert events.decode(RESULT.subject(), events.encode(RESULT, redacted=True)) == RESULT
