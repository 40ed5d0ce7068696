"""By what a content is known again: a field that stands at its default counts as one that is not there, so that a fingerprint
kept before a type grew by a field is of the same content still. Not so one that a release before this rule kept, with all fields:
after its type grew, that content is another."""

import functools
import hashlib
from typing import Any

import msgspec


def fingerprint(value: object) -> str:
    """SHA-256 in hex of a value as JSON, without the fields of its structs that stand at their defaults."""
    return whole(_bare(value))


def whole(value: object) -> str:
    """SHA-256 in hex of a value as JSON, with all of its fields: what earlier releases kept as a fingerprint."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()


def is_of(kept: str, value: object) -> bool:
    """Whether a fingerprint that was kept, by this or by an earlier release, is of this value."""
    return kept == fingerprint(value) or kept == whole(value)


def _bare(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        tags, fields = _fields(type(value))
        found = dict(tags)
        for name, default in fields:
            held = getattr(value, name)
            if held != default:
                found[name] = _bare(held)
        return found
    if isinstance(value, (list, tuple)):
        return [_bare(item) for item in value]
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    return value


@functools.cache
def _fields(kind: type) -> tuple[dict[str, Any], tuple[tuple[str, Any], ...]]:
    """What tells the struct from others in its JSON, and its fields with their defaults, which nothing equals where there is
    none."""
    config = kind.__struct_config__  # type: ignore[attr-defined]
    tags = {config.tag_field: config.tag} if config.tag_field else {}
    fields = tuple(
        (field.name, field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory())
        for field in msgspec.structs.fields(kind)
    )
    return tags, fields
