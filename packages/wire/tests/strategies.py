"""Valid values of any event type, made from the type itself, so that a new field is covered without a change here."""

import datetime as dt
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

ID_TEXT = st.text("abcXYZ019_-", min_size=1, max_size=64)
TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40)


def values(kind: Any) -> "st.SearchStrategy[Any]":
    """A strategy for a type as msgspec sees it."""
    return _of(inspect.type_info(kind))


def _of(info: inspect.Type) -> "st.SearchStrategy[Any]":
    if isinstance(info, inspect.StrType):
        if info.pattern is None:
            return TEXT
        return st.one_of(ID_TEXT, st.just("")) if "{0," in info.pattern else ID_TEXT
    if isinstance(info, inspect.IntType):
        low = info.ge if info.ge is not None else -(2**31)
        return st.integers(min_value=low, max_value=2**31)
    if isinstance(info, inspect.FloatType):
        return st.floats(min_value=info.ge, max_value=info.le, allow_nan=False, allow_infinity=False)
    if isinstance(info, inspect.BoolType):
        return st.booleans()
    if isinstance(info, inspect.NoneType):
        return st.none()
    if isinstance(info, inspect.LiteralType):
        return st.sampled_from(info.values)
    if isinstance(info, inspect.DateTimeType):
        return st.datetimes(timezones=st.just(dt.timezone.utc))
    if isinstance(info, inspect.ListType):
        return st.lists(_of(info.item_type), max_size=3)
    if isinstance(info, inspect.DictType):
        return st.dictionaries(_of(info.key_type), _of(info.value_type), max_size=3)
    if isinstance(info, inspect.UnionType):
        return st.one_of([_of(one) for one in info.types])
    if isinstance(info, inspect.StructType):
        fields = {field.name: _of(field.type) for field in info.fields}
        return st.builds(info.cls, **fields)
    raise AssertionError(f"no strategy for {info}: add one here")
