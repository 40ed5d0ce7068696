"""Who may see what: one policy for all roles and phases, `scopes.yaml` here or the file that SCOPES_FILE names.

    DEV:                                        # each role
      design:                                   # and each phase of a story
        kinds: [task, story, decision, role]    # of the blocks that it sees
        depends_on: [ARCHITECT, DEV]            # whose decisions it sees where its task depends on them
        affects: [ARCHITECT]                    # and where they affect its story without that

A file that leaves out a role or a phase, or names one that does not exist, ends the process with a sentence that says so.
"""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from fleet.context.domain import KINDS, PHASES, Scope, Scopes
from fleet_wire import ids
from fleet_wire.errors import Invalid


class Verdict(Struct, frozen=True):
    """How kinds that are asked for compare with what may be seen: what would be seen too, and what may not be."""

    allowed: bool
    allowed_kinds: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def load(path: Path | None = None) -> Scopes:
    """The policy; raises Invalid naming the file and what is wrong in it."""
    if path is None:
        return read("scopes.yaml", (files("fleet.context") / "scopes.yaml").read_text("utf-8"))
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"SCOPES_FILE names {path}, which cannot be read: {error}") from error
    return read(str(path), text)


def read(name: str, text: str) -> Scopes:
    """The policy in a file's text; raises Invalid naming the file and what is wrong in it."""
    try:
        roles = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Invalid(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    found = {}
    _same(name, "roles", roles, ids.ROLES)
    for role in ids.ROLES:
        _same(f"{name}: {role}", "phases", roles[role], PHASES)
        for phase in PHASES:
            found[role, phase] = _scope(f"{name}: {role}.{phase}", roles[role][phase])
    return found


def compared(scope: Scope, kinds: Iterable[str]) -> Verdict:
    """Whether all of the kinds may be seen. Raises Invalid for one that does not exist."""
    asked = set(kinds)
    if unknown := sorted(asked - set(KINDS)):
        raise Invalid(f"kinds must be of {', '.join(KINDS)}, not {unknown[0][:80]!r}")
    may = set(scope.kinds)
    return Verdict(
        allowed=asked <= may,
        allowed_kinds=_ordered(may),
        missing=_ordered(may - asked),
        extra=_ordered(asked - may),
    )


def _ordered(kinds: set[str]) -> tuple[str, ...]:
    return tuple(kind for kind in KINDS if kind in kinds)


def _scope(name: str, found: Any) -> Scope:
    try:
        scope = msgspec.convert(found, Scope)
    except msgspec.ValidationError as error:
        raise Invalid(f"{name} is no scope: {error}") from error
    for key, values, known in (
        ("kinds", scope.kinds, KINDS),
        ("depends_on", scope.depends_on, ids.ROLES),
        ("affects", scope.affects, ids.ROLES),
    ):
        if unknown := [value for value in values if value not in known]:
            raise Invalid(f"{name}.{key} names {unknown[0][:80]!r}, which is none of {', '.join(known)}")
        if len(set(values)) < len(values):
            raise Invalid(f"{name}.{key} names one twice")
    if "task" not in scope.kinds:
        raise Invalid(f"{name}.kinds leaves out task: no role can work on what it does not see")
    return scope


def _same(name: str, what: str, found: Any, wanted: tuple[str, ...]) -> None:
    if not isinstance(found, dict):
        raise Invalid(f"{name} must hold the {what} {', '.join(wanted)}")
    if unknown := [key for key in found if key not in wanted]:
        raise Invalid(f"{name} names {str(unknown[0])[:80]!r}, which is none of the {what} {', '.join(wanted)}")
    if missing := [key for key in wanted if key not in found]:
        raise Invalid(f"{name} leaves out {', '.join(missing)}: what is seen must be said for each of the {what}")
