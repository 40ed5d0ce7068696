"""What people and services may change in the memory, each kind with its rules. Pure.

A ruling (an override, a constraint, the word that a decision affects another story) needs a person; a summary or a milestone may
come from anybody who says who it is. Texts are taken in redacted, as all that enters.
"""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import Struct

from fleet.deliberation.plan_rules import MAX_TITLE, check_text
from fleet.people import MAX_PERSON, MAX_REASON, check_person
from fleet_wire import events, ids
from fleet_wire import fingerprint as fingerprints
from fleet_wire.errors import AlreadyExists, FleetError, Invalid, NotFound, Precondition
from fleet_wire.redaction import redact, redact_struct

MAX_CHANGES = 100
"""Changes in one request at most."""
A_RULING = "a ruling is a person's"


class Override(Struct, frozen=True, kw_only=True, tag="override"):
    """A person decides otherwise than a council, or than a person before."""

    decision_id: events.Id
    title: str
    content: str
    reason: str


class Constraint(Struct, frozen=True, kw_only=True, tag="constraint"):
    """A person binds the work on a story, or on one task of it."""

    story_id: events.Id
    plan_id: events.OptionalId
    task_id: events.OptionalId
    title: str
    text: str
    reason: str


class Affects(Struct, frozen=True, kw_only=True, tag="affects"):
    """A person says that a decision concerns a story other than its own."""

    decision_id: events.Id
    story_id: events.Id
    reason: str


class Summary(Struct, frozen=True, kw_only=True, tag="summary"):
    """Where a story stands."""

    story_id: events.Id
    text: str


class Milestone(Struct, frozen=True, kw_only=True, tag="milestone"):
    """What a story has reached."""

    story_id: events.Id
    text: str


class Nothing(Struct, frozen=True, kw_only=True, tag="nothing"):
    """A change of a kind that is not known here."""


Change = Override | Constraint | Affects | Summary | Milestone | Nothing
C = TypeVar("C", bound=Change)


class Version(Struct, frozen=True):
    """The version that a change gave a story."""

    story_id: events.Id
    version: int


class Result(Struct, frozen=True, kw_only=True):
    """What became of a change: applied, with the id of what it made (of the decision, for `affects`), or `code` and `message`
    say why not. `superseded` and `flagged` are as `context.updated` says them, `flagged_in` by story as in `Ruled`, `stories`
    those whose version it raised, the change's own first."""

    id: str = ""
    code: str = ""
    message: str = ""
    plan_id: str = ""
    superseded: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()
    flagged_in: dict[str, tuple[str, ...]] | None = None
    stories: tuple[Version, ...] = ()

    @property
    def applied(self) -> bool:
        return not self.code


CODES: dict[type[FleetError], str] = {
    Invalid: "invalid",
    NotFound: "not_found",
    Precondition: "precondition",
    AlreadyExists: "already_exists",
}
"""Why a change was not applied, by the error that says it. Any other is none of a change's: the whole call fails with it."""


def refused(error: FleetError) -> Result:
    """The result of a change that cannot be applied; raises the error where it says nothing of the change."""
    for kind, code in CODES.items():
        if isinstance(error, kind):
            return Result(code=code, message=redact(str(error)))
    raise error


def check_request(request_id: str, actor: str, changes: Sequence[Change]) -> None:
    """Raises Invalid for a request that cannot even be looked at change by change."""
    ids.check_id("request_id", request_id)
    check_text("actor", actor, MAX_PERSON, needed=True)
    if not 1 <= len(changes) <= MAX_CHANGES:
        raise Invalid(f"changes must hold 1 to {MAX_CHANGES}, not {len(changes)}")


def fingerprint(actor: str, changes: Sequence[Change]) -> str:
    """What a request is known by: SHA-256 in hex of who asks for what."""
    return fingerprints.fingerprint([actor, *changes])


def checked(change: C, actor: str) -> C:
    """The change as it is written, without the secrets in it; raises Invalid naming the first field that is wrong."""
    match change:
        case Override():
            check_person("actor", actor, A_RULING)
            ids.check_id("decision_id", change.decision_id)
            check_text("title", change.title, MAX_TITLE, needed=True)
            _check_content("content", change.content)
            _check_reason(change.reason)
        case Constraint():
            check_person("actor", actor, A_RULING)
            ids.check_id("story_id", change.story_id)
            if bool(change.plan_id) != bool(change.task_id):
                raise Invalid("task_id: plan_id and task_id name a task together, or neither is given")
            if change.task_id:
                ids.check_id("plan_id", change.plan_id)
                ids.check_id("task_id", change.task_id)
            check_text("title", change.title, MAX_TITLE, needed=True)
            _check_content("text", change.text)
            _check_reason(change.reason)
        case Affects():
            check_person("actor", actor, A_RULING)
            ids.check_id("decision_id", change.decision_id)
            ids.check_id("story_id", change.story_id)
            _check_reason(change.reason)
        case Summary() | Milestone():
            ids.check_id("story_id", change.story_id)
            _check_content("text", change.text)
    return redact_struct(change)


def _check_content(field: str, text: str) -> None:
    if not text.strip():
        raise Invalid(f"{field} must not be empty")
    if events.cut(text) != (text, False):
        raise Invalid(f"{field} has more than {events.MAX_CONTENT_BYTES} bytes as JSON, or an unpaired surrogate")


def _check_reason(reason: str) -> None:
    check_text("reason", reason, MAX_REASON, needed=True)
