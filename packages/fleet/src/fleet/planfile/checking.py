"""Everything that is wrong with a plan, each with its place: the form by the types of `shape`, then what no type can say."""

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec
from msgspec import Struct

from fleet.deliberation import protocols
from fleet.deliberation.plan_rules import cycle_of
from fleet.planfile.shape import Budget
from fleet.planfile.source import NotYaml, Path, Place, Source
from fleet.planmessages import check_budget, check_entry_point, check_numbers
from fleet_wire.errors import Invalid, Problems
from fleet_wire.events import StoryPhase
from fleet_wire.ids import ID_PATTERN, ROLES

Kind = TypeVar("Kind", bound=Struct)


class Problem(Struct, frozen=True):
    """What is wrong with the value at a path, in a sentence that names it; `on_key` where the key itself is."""

    path: Path
    what: str
    on_key: bool = False


def read_yaml(text: str, name: str, kind: type[Kind]) -> Kind:
    """A text as that kind of value; `name` stands in the errors. Raises Problems."""
    try:
        source = Source(text)
    except NotYaml as error:
        raise Problems((located(name, error.place, str(error)),)) from error
    repeated = [(place, f"the key {key[:80]!r} stands here a second time") for key, place in source.repeated]
    return checked(source.data, name, kind, source.place, repeated)


def checked(
    data: object,
    name: str,
    kind: type[Kind],
    place: Callable[[Path, bool], Place] | None = None,
    before: Sequence[tuple[Place, str]] = (),
) -> Kind:
    """Plain values as that kind. `place` tells where a value or key stands; `before` is what is known to be wrong already.
    Raises Problems, in the order of their places."""
    found = problems(data, kind)
    if place is None:
        lines = tuple(f"{name}: {one.what}" for one in found)
    else:
        told = [*before, *((place(one.path, one.on_key), one.what) for one in found)]
        lines = tuple(located(name, at, what) for at, what in sorted(told))
    if lines:
        raise Problems(lines)
    return msgspec.convert(data, kind)


def located(name: str, place: Place, what: str) -> str:
    """The sentence as compilers write it."""
    return f"{name}:{place.line}:{place.column}: {what}"


def problems(data: object, kind: type[Struct]) -> list[Problem]:
    """All that is wrong with plain values that are to be of this kind: a plan's file, or a part of one."""
    found = list(_form(data, kind, ()))
    if isinstance(data, dict):
        fields = [field.encode_name for field in msgspec.structs.fields(kind)]
        if "tasks" in fields:
            found += _either(data, "roles" in fields)
        found += _roles(data)
        found += _tasks(data)
        found += _budget("budget", ("budget",), data.get("budget"))
    return found


def _form(value: object, kind: Any, path: Path) -> Iterator[Problem]:
    """Where a value is not of its type."""
    bare, *metas = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    if isinstance(bare, type) and issubclass(bare, Struct) and isinstance(value, dict):
        yield from _keys(value, bare, path)
        for field in msgspec.structs.fields(bare):
            if field.encode_name in value:
                yield from _form(value[field.encode_name], field.type, (*path, field.encode_name))
        return
    if get_origin(bare) is list and isinstance(value, list):
        (inner,) = get_args(bare)
        yield from _leaf(value, list[Any], metas, path)
        for index, item in enumerate(value):
            yield from _form(item, inner, (*path, index))
    elif get_origin(bare) is dict and isinstance(value, dict):
        _, inner = get_args(bare)
        yield from _leaf(value, dict[Any, Any], metas, path)
        for key, item in value.items():
            yield from _form(item, inner, (*path, key))
    else:
        yield from _leaf(value, bare, metas, path)


def _leaf(value: object, bare: Any, metas: Sequence[Any], path: Path) -> Iterator[Problem]:
    kind = Annotated[(bare, *metas)] if metas else bare
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        yield Problem(path, _said(path, _sentence(str(error), path)))


def _keys(value: Mapping[Any, object], kind: type[Struct], path: Path) -> Iterator[Problem]:
    fields = msgspec.structs.fields(kind)
    known = [field.encode_name for field in fields]
    for key in value:
        if key not in known:
            meant = nearest(str(key), known) or f"; there are {', '.join(known)}"
            what = f"unknown key `{str(key)[:80]}`{meant}"
            yield Problem((*path, key), _said(path, what), on_key=True)
    for field in fields:
        if field.required and field.encode_name not in value:
            yield Problem(path, _said(path, f"missing key `{field.encode_name}`"))


def nearest(name: str, known: Collection[str]) -> str:
    """Asks whether a known name was meant; empty where none is like it."""
    found = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    return f"; did you mean `{found[0]}`?" if found else ""


def _either(data: Mapping[str, Any], roles_too: bool) -> Iterator[Problem]:
    tasks, roles = data.get("tasks", []), data.get("roles", []) if roles_too else []
    if not (isinstance(tasks, list) and isinstance(roles, list)):
        return
    if tasks and roles:
        yield Problem(("roles",), "it has both tasks and roles; give one of them", on_key=True)
    elif not tasks and not roles and (roles_too or "tasks" in data):
        have = "neither tasks nor roles; give one of them" if roles_too else "no tasks"
        yield Problem((), f"it has {have}")


def _roles(data: Mapping[str, Any]) -> Iterator[Problem]:
    roles = data.get("roles")
    if isinstance(roles, list):
        for index, role in enumerate(roles):
            if role in roles[:index]:
                yield Problem(("roles", index), f"roles names {role} more than once")


def _tasks(data: Mapping[str, Any]) -> Iterator[Problem]:
    given = data.get("tasks")
    tasks = given if isinstance(given, list) else []
    for index, task in enumerate(tasks):
        if isinstance(task, dict):
            yield from _how(f"tasks[{index}]", ("tasks", index), task)
    if all(_is_named(task) for task in tasks):
        yield from _order(tasks)


def _is_named(task: object) -> bool:
    """Whether a task has what its place in the order of tasks depends on."""
    needs = task.get("depends_on", []) if isinstance(task, dict) else None
    return (
        isinstance(task, dict)
        and isinstance(task.get("task_id"), str)
        and isinstance(needs, list)
        and all(isinstance(one, str) for one in needs)
    )


def _order(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, task in enumerate(tasks):
        name, needs = task["task_id"], task.get("depends_on", [])
        if name in first:
            what = f"tasks[{index}].task_id: {name[:80]!r} stands in it more than once, first at tasks[{first[name]}]"
            yield Problem(("tasks", index, "task_id"), what)
        first.setdefault(name, index)
        for at, need in enumerate(needs):
            if need in needs[:at]:
                what = f"tasks[{index}].depends_on names {need[:80]!r} more than once"
                yield Problem(("tasks", index, "depends_on", at), what)
    needs_of = {task["task_id"]: task.get("depends_on", []) for task in tasks}
    unknown = False
    for index, task in enumerate(tasks):
        for at, need in enumerate(task.get("depends_on", [])):
            if need not in needs_of:
                unknown = True
                what = f"tasks[{index}].depends_on names {need[:80]!r}, which is no task of this plan{nearest(need, needs_of)}"
                yield Problem(("tasks", index, "depends_on", at), what)
    cycle = () if unknown else cycle_of(needs_of)
    if cycle:
        what = f"tasks wait for each other in a cycle of depends_on: {' → '.join(cycle)}"
        yield Problem(("tasks", first[cycle[0]], "depends_on"), what, on_key=True)


def _how(at: str, path: Path, task: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with protocol, numbers, budget and entry point, as far as their form is right: `planmessages.check_how`,
    place by place."""
    protocol, numbers, entry_point = task.get("protocol"), task.get("numbers"), task.get("entry_point")
    known = False
    if isinstance(protocol, str):
        refused = list(_refused((*path, "protocol"), protocols.check_protocol, f"{at}.protocol", protocol))
        known = not refused
        yield from refused
    for name, value in numbers.items() if isinstance(numbers, dict) else ():
        if not isinstance(name, str) or any(_form(value, float, ())):
            continue
        where, one = (*path, "numbers", name), {name: value}
        refused = list(_refused(where, check_numbers, f"{at}.numbers", one))
        if not refused and known:
            refused = list(_refused(where, protocols.check_numbers, f"{at}.numbers", protocol, one))
        elif not refused and not protocol:
            refused = list(_refused(where, protocols.check_any_numbers, f"{at}.numbers", one))
        yield from refused
    yield from _budget(f"{at}.budget", (*path, "budget"), task.get("budget"))
    if isinstance(entry_point, str):
        yield from _refused((*path, "entry_point"), check_entry_point, f"{at}.entry_point", entry_point)


def _budget(at: str, path: Path, value: object) -> Iterator[Problem]:
    if isinstance(value, dict) and not any(_form(value, Budget, ())):
        yield from _refused(path, check_budget, at, msgspec.convert(value, Budget))


def _refused(path: Path, check: Callable[..., Any], *arguments: Any) -> Iterator[Problem]:
    """What a check says that raises Invalid with a sentence that names the field."""
    try:
        check(*arguments)
    except Invalid as error:
        yield Problem(path, str(error))


def _said(path: Path, what: str) -> str:
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
    return f"{where}: {what}" if where else what


def _sentence(problem: str, path: Path) -> str:
    """What msgspec says of a value (`Expected `str`, got `int``) in the words of a plan file."""
    what = _LENGTH.sub(lambda found: _LENGTHS[found[1]].format(found[2]), problem.partition(" - at `")[0])
    for theirs, ours in _WORDS.items():
        what = what.replace(theirs, ours)
    for key, values in (("role", ROLES), ("phase", get_args(StoryPhase))):
        if what.startswith("Invalid enum value") and any(str(step).startswith(key) for step in path):
            what = what.replace("Invalid enum value", "unknown value") + f"; take one of {', '.join(values)}"
    if what.startswith(("expected text, got a number", "expected text, got a truth value")):
        what += " (put it in quotes)"
    return what


_LENGTH = re.compile(r"Expected `(str|array|object)` of length <= (\d+)")
_LENGTHS = {
    "str": "must have at most {} characters",
    "array": "must hold at most {} entries",
    "object": "must hold at most {} entries",
}
_WORDS = {
    "Expected `str` matching regex '\\\\S'": "must not be empty",
    f"Expected `str` matching regex {ID_PATTERN!r}": "must match [A-Za-z0-9_-]{1,64}",
    "Expected `str` of length >= 1": "must not be empty",
    "Expected `int` >= 0": "must be 0 or more",
    "Expected `float` >= 0.0": "must be 0 or more",
    "Expected `int`": "expected a whole number",
    "Expected `float`": "expected a number",
    "Expected `object`": "expected keys with values",
    "Expected `array`": "expected a list",
    "Expected `str | null`": "expected text",
    "Expected `str`": "expected text",
    "got `object`": "got keys with values",
    "got `array`": "got a list",
    "got `str`": "got text",
    "got `int`": "got a number",
    "got `float`": "got a number",
    "got `bool`": "got a truth value",
    "got `null`": "got nothing",
}
