"""Where the pool's actors are put."""

from hypothesis import given
from hypothesis import strategies as st

from fleet_executor.placing import MOST, placed


def settled(size: int, found: dict[str, str], nodes: list[str]) -> dict[str, str]:
    """What comes of it when everything is done as it says, until nothing is left to do."""
    for _ in range(4):
        places = placed("pool", size, found, nodes)
        assert len(places.names) <= MOST and not set(places.keep) & set(places.make)
        assert set(places.make.values()) <= set(nodes)
        found = {**{name: found[name] for name in places.keep}, **places.make}
    assert not placed("pool", size, found, nodes).make
    return found


def test_a_new_pool_has_its_size_spread_over_the_nodes() -> None:
    assert placed("pool", 2, {}, ["a"]).make == {"pool-0": "a", "pool-1": "a"}
    assert placed("pool", 3, {}, ["a", "b"]).make == {"pool-0": "a", "pool-1": "b", "pool-2": "a"}


def test_every_node_has_an_actor_also_above_the_size() -> None:
    assert sorted(settled(1, {}, ["a", "b", "c"]).values()) == ["a", "b", "c"]


def test_a_node_that_comes_later_gets_one_and_where_most_are_one_goes() -> None:
    found = settled(2, {"pool-0": "a", "pool-1": "a"}, ["a", "b"])
    assert sorted(found.values()) == ["a", "b"]


def test_one_that_ray_starts_anew_is_waited_for() -> None:
    places = placed("pool", 2, {"pool-0": "a", "pool-1": ""}, ["a", "b"])
    assert (places.keep, places.make) == (["pool-0", "pool-1"], {})


def test_one_on_a_node_that_is_gone_is_left_to_ray_or_out() -> None:
    assert placed("pool", 2, {"pool-0": "a", "pool-1": "gone"}, ["a"]).keep == ["pool-0", "pool-1"]
    assert placed("pool", 1, {"pool-0": "gone", "pool-1": "a"}, ["a"]).keep == ["pool-1"]


def test_without_a_node_nothing_is_made() -> None:
    assert placed("pool", 2, {}, []).names == []


@given(
    size=st.integers(1, 6),
    found=st.dictionaries(st.integers(0, 9).map("pool-{}".format), st.sampled_from("abcd")),
    nodes=st.lists(st.sampled_from("abcd"), unique=True, min_size=1).map(sorted),
)
def test_it_comes_to_rest_with_the_size_and_an_actor_on_every_node(
    size: int, found: dict[str, str], nodes: list[str]
) -> None:
    # What was on a node that is gone comes up again on another.
    found = {name: node if node in nodes else nodes[0] for name, node in found.items()}
    after = settled(size, found, nodes)
    assert len(after) == max(size, len(nodes))
    assert set(nodes) <= set(after.values())
