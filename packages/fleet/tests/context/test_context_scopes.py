"""The policy of scopes: what is shipped, what is refused, and what ValidateScope says of it."""

from pathlib import Path

import pytest
import yaml

from fleet.context import domain, scopes
from fleet_wire import ids
from fleet_wire.errors import Invalid

SHIPPED = (Path(scopes.__file__).parent / "scopes.yaml").read_text()


def changed(role: str, phase: str, **keys: object) -> str:
    """The shipped policy with another scope for one role and phase; a key that is None is taken out."""
    policy = yaml.safe_load(SHIPPED)
    scope = {**policy[role][phase], **keys}
    policy[role] = {**policy[role], phase: {key: value for key, value in scope.items() if value is not None}}
    return yaml.safe_dump(policy)


def without(role: str, phase: str = "") -> str:
    policy = yaml.safe_load(SHIPPED)
    if phase:
        policy[role] = {name: scope for name, scope in policy[role].items() if name != phase}
    else:
        del policy[role]
    return yaml.safe_dump(policy)


def test_the_shipped_policy_covers_every_role_in_every_phase() -> None:
    policy = scopes.load()
    assert set(policy) == {(role, phase) for role in ids.ROLES for phase in domain.PHASES}
    for scope in policy.values():
        assert {"task", "story", "constraint", "decision", "role"} <= set(scope.kinds)
        assert set(scope.depends_on) == set(ids.ROLES)
        assert "ARCHITECT" in scope.affects


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no YAML"),
        ("[]", "must hold the roles DEV, QA"),
        (without("QA"), "leaves out QA"),
        (without("QA", "test"), "policy: QA leaves out test"),
        (SHIPPED + "\nqa: {}\n", "names 'qa', which is none of the roles"),
        (
            SHIPPED.replace("  build: *dev\n", "  BUILD: *dev\n"),
            "policy: DEV names 'BUILD', which is none of the phases",
        ),
        (
            changed("DEV", "build", kinds=["task", "secret"]),
            "policy: DEV.build.kinds names 'secret', which is none of task,",
        ),
        (changed("DEV", "build", kinds=["task", "task"]), "policy: DEV.build.kinds names one twice"),
        (changed("DEV", "build", kinds=["story"]), "policy: DEV.build.kinds leaves out task"),
        (changed("DEV", "build", kinds=None), "policy: DEV.build is no scope: .*kinds"),
        (changed("DEV", "build", sees=["task"]), "policy: DEV.build is no scope: .*sees"),
        (changed("DEV", "build", affects=["dev"]), "policy: DEV.build.affects names 'dev', which is none of DEV,"),
        (changed("DEV", "build", depends_on=["X"]), "policy: DEV.build.depends_on names 'X'"),
        (changed("DEV", "build", depends_on="DEV"), "policy: DEV.build is no scope"),
    ],
)
def test_a_wrong_policy_is_refused_with_what_is_wrong_in_it(text: str, sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        scopes.read("policy", text)


def test_a_policy_of_ones_own_takes_the_place_of_the_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(changed("DEV", "build", kinds=["task", "role"]))
    assert scopes.load(path)["DEV", "build"].kinds == ("task", "role")
    with pytest.raises(Invalid, match=r"SCOPES_FILE names .*nothing.yaml, which cannot be read"):
        scopes.load(tmp_path / "nothing.yaml")


def test_kinds_are_compared_with_what_may_be_seen() -> None:
    scope = domain.Scope(kinds=("role", "task", "story"))
    found = scopes.compared(scope, ["task", "plan", "summary"])
    assert found == scopes.Verdict(False, ("task", "story", "role"), ("story", "role"), ("plan", "summary"))
    assert scopes.compared(scope, ["story", "role", "task"]) == scopes.Verdict(True, ("task", "story", "role"), (), ())
    assert scopes.compared(scope, []).allowed
    with pytest.raises(Invalid, match=r"^kinds must be of task, .* not 'requirement'"):
        scopes.compared(scope, ["task", "requirement"])


@pytest.mark.parametrize(("role", "phase", "field"), [("dev", "build", "role"), ("DEV", "BUILD", "phase")])
def test_roles_and_phases_have_one_spelling(role: str, phase: str, field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field} must be one of"):
        domain.scope_of(role, phase, scopes.load())
