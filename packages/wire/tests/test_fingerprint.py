"""A content is the same before and after its type grew, and another one where anything in it differs."""

import pytest
from msgspec import Struct, structs

from fleet_wire.fingerprint import fingerprint, is_of, whole


class OldPart(Struct, frozen=True, kw_only=True):
    name: str
    score: float = 0.0


class OldEvent(Struct, frozen=True, kw_only=True):
    id: str
    parts: list[OldPart] = []
    by_name: dict[str, OldPart] = {}


class NewPart(Struct, frozen=True, kw_only=True):
    name: str
    names: list[str] = []
    score: float = 0.0
    place: int = 7


class NewEvent(Struct, frozen=True, kw_only=True):
    schema: str = "x"
    id: str
    parts: list[NewPart] = []
    by_name: dict[str, NewPart] = {}
    flags: dict[str, int] = {}


class This(Struct, frozen=True, tag="this"):
    id: str


class That(Struct, frozen=True, tag="that"):
    id: str


OLD = OldEvent(id="1", parts=[OldPart(name="a", score=1.0), OldPart(name="b")], by_name={"c": OldPart(name="c")})
NEW = NewEvent(id="1", parts=[NewPart(name="a", score=1.0), NewPart(name="b")], by_name={"c": NewPart(name="c")})


def test_a_type_that_grew_by_fields_with_defaults_leaves_what_was_kept_before_the_same() -> None:
    assert is_of(fingerprint(OLD), NEW) and is_of(fingerprint([OLD]), [NEW])
    assert whole(OLD) != whole(NEW)


@pytest.mark.parametrize(
    "other",
    [
        structs.replace(NEW, id="2"),
        structs.replace(NEW, flags={"x": 0}),
        structs.replace(NEW, parts=NEW.parts[:1]),
        structs.replace(NEW, parts=NEW.parts[::-1]),
        structs.replace(NEW, parts=[structs.replace(NEW.parts[0], place=8), *NEW.parts[1:]]),
        structs.replace(NEW, by_name={"d": NEW.by_name["c"]}),
    ],
)
def test_any_difference_makes_another_content(other: NewEvent) -> None:
    assert not is_of(fingerprint(NEW), other) and not is_of(whole(NEW), other)


def test_what_an_earlier_release_kept_of_all_fields_is_known_still() -> None:
    assert is_of(whole(NEW), NEW) and fingerprint(NEW) != whole(NEW)


def test_kinds_are_told_apart_and_what_has_no_defaults_is_as_it_always_was() -> None:
    assert fingerprint(This("1")) != fingerprint(That("1"))
    assert fingerprint([This("1"), "x"]) == whole([This("1"), "x"])
