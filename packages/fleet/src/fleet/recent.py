"""A bounded memory of what was used last: what falls out of it is read again."""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key, at most `limit` in weight; the one used longest ago goes first. A value weighs 1 unless told otherwise."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._weight = 0

    def get(self, key: str) -> T | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: str, value: T, weight: int = 1) -> None:
        self.drop(key)
        self._values[key] = (value, weight)
        self._weight += weight
        while self._weight > self._limit:
            self.drop(next(iter(self._values)))

    def drop(self, key: str) -> None:
        found = self._values.pop(key, None)
        if found is not None:
            self._weight -= found[1]
