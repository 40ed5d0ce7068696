"""What may be changed in the memory, by the rules of each kind."""

import msgspec
import pytest

from fleet.context import changes
from fleet.context.changes import Affects, Change, Constraint, Milestone, Override, Summary
from fleet_wire.errors import AlreadyExists, Invalid, NotFound, Precondition, Unavailable
from fleet_wire.events import MAX_CONTENT_BYTES

OVERRIDE = Override(decision_id="dec-1", title="Use bcrypt", content="bcrypt, cost 12", reason="the audit says so")
CONSTRAINT = Constraint(
    story_id="s1", plan_id="p1", task_id="api", title="No new tables", text="The schema is frozen.", reason="release"
)
AFFECTS = Affects(decision_id="dec-1", story_id="s2", reason="both use the store")
SUMMARY = Summary(story_id="s1", text="Half of it is built.")
MILESTONE = Milestone(story_id="s1", text="The store is chosen.")
ALL: tuple[Change, ...] = (OVERRIDE, CONSTRAINT, AFFECTS, SUMMARY, MILESTONE)
RULINGS: tuple[Change, ...] = (OVERRIDE, CONSTRAINT, AFFECTS)


@pytest.mark.parametrize("change", ALL)
def test_a_good_change_stays_as_it_is(change: Change) -> None:
    assert changes.checked(change, "ada") == change


@pytest.mark.parametrize("change", RULINGS)
@pytest.mark.parametrize("actor", ["agent-DEV-001", "unknown", " unknown ", " agent-QA-002"])
def test_a_ruling_needs_a_person(change: Change, actor: str) -> None:
    with pytest.raises(Invalid, match=r"^actor must name a person"):
        changes.checked(change, actor)


@pytest.mark.parametrize("change", [SUMMARY, MILESTONE])
def test_a_summary_and_a_milestone_may_come_from_an_agent(change: Change) -> None:
    assert changes.checked(change, "agent-DEV-001") == change


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        (OVERRIDE, "decision_id", ""),
        (OVERRIDE, "title", " "),
        (OVERRIDE, "title", "t" * 201),
        (OVERRIDE, "content", ""),
        (OVERRIDE, "content", "c" * MAX_CONTENT_BYTES),
        (OVERRIDE, "reason", ""),
        (OVERRIDE, "reason", "r" * 2001),
        (CONSTRAINT, "story_id", "a b"),
        (CONSTRAINT, "plan_id", "a/b"),
        (CONSTRAINT, "task_id", "a/b"),
        (CONSTRAINT, "task_id", ""),
        (CONSTRAINT, "title", ""),
        (CONSTRAINT, "text", "\n"),
        (CONSTRAINT, "reason", ""),
        (AFFECTS, "decision_id", "x" * 65),
        (AFFECTS, "story_id", ""),
        (AFFECTS, "reason", ""),
        (SUMMARY, "story_id", ""),
        (SUMMARY, "text", ""),
        (MILESTONE, "story_id", ""),
        (MILESTONE, "text", "c" * MAX_CONTENT_BYTES),
    ],
)
def test_a_bad_field_is_named(change: Change, field: str, value: str) -> None:
    bad = msgspec.structs.replace(change, **{field: value})
    with pytest.raises(Invalid, match=f"^{field}[ :]"):
        changes.checked(bad, "ada")


def test_a_constraint_may_bind_the_whole_story() -> None:
    whole = msgspec.structs.replace(CONSTRAINT, plan_id="", task_id="")
    assert changes.checked(whole, "ada") == whole


def test_what_enters_is_redacted_and_ids_are_not() -> None:
    secret = "password: Hunter2-zq8"
    told = msgspec.structs.replace(OVERRIDE, title=secret, content=secret, reason=secret, decision_id="dec-password")
    found = changes.checked(told, "ada")
    assert "Hunter2" not in found.title + found.content + found.reason
    assert found.decision_id == "dec-password"


@pytest.mark.parametrize(
    ("request_id", "actor", "count", "field"),
    [
        ("", "ada", 1, "request_id"),
        ("r1", " ", 1, "actor"),
        ("r1", "a" * 201, 1, "actor"),
        ("r1", "ada", 101, "changes"),
    ],
)
def test_a_request_that_cannot_be_looked_at_names_its_field(
    request_id: str, actor: str, count: int, field: str
) -> None:
    with pytest.raises(Invalid, match=f"^{field} "):
        changes.check_request(request_id, actor, [SUMMARY] * count)
    with pytest.raises(Invalid, match=r"^changes "):
        changes.check_request("r1", "ada", [])


def test_the_fingerprint_is_of_all_that_was_asked() -> None:
    prints = [
        changes.fingerprint("ada", [SUMMARY]),
        changes.fingerprint("bob", [SUMMARY]),
        changes.fingerprint("ada", [SUMMARY, MILESTONE]),
        changes.fingerprint("ada", [MILESTONE, SUMMARY]),
        changes.fingerprint("ada", [Milestone(story_id=SUMMARY.story_id, text=SUMMARY.text)]),
    ]
    assert len(set(prints)) == len(prints)
    assert changes.fingerprint("ada", [msgspec.structs.replace(SUMMARY)]) == prints[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("title must not be empty"), "invalid"),
        (NotFound("no decision"), "not_found"),
        (Precondition("superseded"), "precondition"),
        (AlreadyExists("another content"), "already_exists"),
    ],
)
def test_a_refusal_says_its_kind_and_sentence(error: Exception, code: str) -> None:
    assert isinstance(error, Invalid | NotFound | Precondition | AlreadyExists)
    found = changes.refused(error)
    assert (found.applied, found.code, found.message) == (False, code, str(error))


def test_an_outage_is_no_answer_to_a_change() -> None:
    with pytest.raises(Unavailable):
        changes.refused(Unavailable("the graph is away"))
