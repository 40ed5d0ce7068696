"""The rules that a council's proposals are checked against by `policy`, one YAML file a role: `DEV.yaml` and its siblings here,
or in the folder that POLICY_DIR names, where a role without a file keeps the one from here.

    required:                              # each must be found in the answer
      - {name: a heading, pattern: '(?m)^# '}
    forbidden:                             # none may be
      - {name: a shell pipe, pattern: 'curl[^\\n]*\\|\\s*sh'}
    secrets: true                          # nothing that looks like a key or a password
    min_bytes: 1                           # of the answer in UTF-8; 0 sets no limit
    max_bytes: 65536

Patterns are Python's, searched for anywhere in the answer. The check itself runs where the answer is made.
"""

import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
import yaml
from msgspec import Meta, Struct

from fleet_wire import ids
from fleet_wire.errors import Invalid

# The worker's own limits: what it would refuse ends the process here instead.
MAX_NAME = 80
MAX_PATTERN = 1000
MAX_RULES = 100


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pattern by the name that an operator knows it under."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN)]


Rules = Annotated[list[Rule], Meta(max_length=MAX_RULES)]


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in a file."""

    required: Rules = []
    forbidden: Rules = []
    secrets: bool = True
    min_bytes: int = 0
    max_bytes: int = 0


def load(directory: Path | None = None) -> dict[str, str]:
    """The rules by role, as the JSON text that goes with a job. Raises Invalid naming the file and the key that is wrong."""
    shipped = files(__name__)
    found = {role: read(f"{role}.yaml", (shipped / f"{role}.yaml").read_text("utf-8")) for role in ids.ROLES}
    if directory is None:
        return found
    if not directory.is_dir():
        raise Invalid(f"POLICY_DIR names {directory}, which is no folder")
    for path in sorted([*directory.glob("*.yaml"), *directory.glob("*.yml")]):
        if path.name not in {f"{role}.yaml" for role in ids.ROLES}:
            raise Invalid(
                f"{path} in POLICY_DIR names no role: files there are {', '.join(ids.ROLES)}, each with .yaml"
            )
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"{path} in POLICY_DIR cannot be read: {error}") from error
        found[path.stem] = read(str(path), text)
    return found


def read(name: str, text: str) -> str:
    """The rules in a file's text as JSON; raises Invalid naming file and key."""
    try:
        policy = msgspec.convert(yaml.safe_load(text) or {}, Policy)
    except yaml.YAMLError as error:
        raise Invalid(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    except msgspec.ValidationError as error:
        raise Invalid(f"{name} is no policy: {error}") from error
    for key, rules in (("required", policy.required), ("forbidden", policy.forbidden)):
        for place, rule in enumerate(rules):
            try:
                re.compile(rule.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise Invalid(f"{name}: {key}[{place}].pattern {rule.pattern!r} is no pattern: {error}") from error
    for key, value in (("min_bytes", policy.min_bytes), ("max_bytes", policy.max_bytes)):
        if value < 0:
            raise Invalid(f"{name}: {key} must be 0 or more, not {value}")
    if 0 < policy.max_bytes < policy.min_bytes:
        raise Invalid(f"{name}: min_bytes ({policy.min_bytes}) is above max_bytes ({policy.max_bytes})")
    return msgspec.json.encode(policy).decode()
