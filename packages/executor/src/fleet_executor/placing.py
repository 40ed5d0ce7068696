"""Which actors the pool has, and on which nodes. Pure."""

import collections
from collections.abc import Mapping, Sequence

import msgspec

from fleet_executor.config import actor_name

MOST = 256
"""Actors of a pool, on however many nodes."""


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """`keep` are names of actors that exist; `make` those to be made, by name, and the node for each."""

    keep: list[str]
    make: dict[str, str]

    @property
    def names(self) -> list[str]:
        return sorted([*self.keep, *self.make])


def placed(pool: str, size: int, found: Mapping[str, str], nodes: Sequence[str]) -> Places:
    """The pool as it should be: at least `size` actors, at least one on every node, spread, and at most MOST.

    `found` are the pool's actors and the node of each, "" where that is not known yet. One whose node is gone is kept until Ray
    gives it up, when it is found no more, and another is made. What is above the number wanted is left out: first what
    was on nodes that are gone, then from where most are.
    """
    wanted = min(MOST, max(size, len(nodes)))
    by_node: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(found):
        by_node[found[name]].append(name)
    while sum(map(len, by_node.values())) > wanted:
        most = max(sorted(by_node), key=lambda node: (bool(node) and node not in nodes, len(by_node[node])))
        by_node[most].pop()
    keep = [name for names in by_node.values() for name in names]
    counts = collections.Counter({node: len(by_node.get(node, ())) for node in nodes})
    free = iter(number for number in range(MOST * 2) if actor_name(pool, number) not in found)
    make: dict[str, str] = {}
    # One whose node is not known may come back on any that seems empty.
    empty = max(0, sum(1 for node in nodes if not counts[node]) - len(by_node.get("", ())))
    for _ in range(min(MOST, max(wanted, len(keep) + empty)) - len(keep) if nodes else 0):
        node = min(nodes, key=lambda each: (counts[each], each))
        make[actor_name(pool, next(free))] = node
        counts[node] += 1
    return Places(keep=sorted(keep), make=make)
