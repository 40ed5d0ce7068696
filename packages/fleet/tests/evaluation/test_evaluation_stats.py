"""The report card's statistics, against published values and against what they must keep."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.evaluation import stats


@pytest.mark.parametrize(
    ("solved", "tasks", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # R. G. Newcombe, Statistics in Medicine 17, 857 (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_score_interval_has_the_published_values(solved: int, tasks: int, low: float, high: float) -> None:
    assert stats.wilson(solved, tasks) == pytest.approx((low, high), abs=5e-5)


def test_an_exact_interval_has_the_closed_form_where_there_is_one() -> None:
    # With no hit the upper end is 1 - (level / 2) ** (1 / n).
    assert stats.clopper_pearson(0, 10) == pytest.approx((0.0, 1 - 0.025**0.1))
    assert stats.clopper_pearson(10, 10) == pytest.approx((0.025**0.1, 1.0))
    low, high = stats.clopper_pearson(81, 263)  # the same table, method 5
    assert (low, high) == pytest.approx((0.2527, 0.3676), abs=5e-5)


def test_the_sign_test_counts_both_tails() -> None:
    assert stats.sign_test(0, 5) == pytest.approx(2 / 32)
    assert stats.sign_test(6, 0) == pytest.approx(2 / 64)
    assert stats.sign_test(1, 9) == pytest.approx(2 * 11 / 1024)
    assert stats.sign_test(3, 3) == 1.0


def test_five_of_five_do_not_show_a_difference_and_six_of_six_do() -> None:
    assert not stats.compare([True] * 5, [False] * 5).shown
    found = stats.compare([True] * 6 + [True, False], [False] * 6 + [True, False])
    assert found.shown and (found.more, found.fewer) == (6, 0)
    assert found.difference == pytest.approx(0.75) and found.interval[1] == pytest.approx(0.75)
    assert not stats.compare([True] * 6, [False] * 6, stats.LEVEL / 3).shown


def test_the_same_outcomes_show_no_difference_and_the_fewer_they_are_the_less_they_rule_out() -> None:
    found = stats.compare([True, False, True], [True, False, True])
    assert (found.difference, found.p_value, found.shown) == (0.0, 1.0, False)
    assert found.interval == pytest.approx((-0.7076, 0.7076), abs=1e-4)  # 1 - 0.025 ** (1 / 3)
    assert stats.compare([True] * 100, [True] * 100).interval == pytest.approx((-0.0362, 0.0362), abs=1e-4)
    assert stats.compare([], []).interval == (-1.0, 1.0)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30), st.sampled_from([0.05, 0.01, 0.0125]))
def test_test_and_interval_never_contradict_each_other(more: int, fewer: int, same: int, level: float) -> None:
    first = [True] * more + [False] * fewer + [True] * same
    other = [False] * more + [True] * fewer + [True] * same
    found = stats.compare(first, other, level)
    low, high = found.interval
    assert low <= found.difference <= high
    if not math.isclose(found.p_value, level):
        assert found.shown == (found.p_value < level)
    mirrored = stats.compare(other, first, level)
    assert mirrored.interval == pytest.approx((-high, -low), abs=1e-9)


@given(st.integers(1, 200).flatmap(lambda tasks: st.tuples(st.integers(0, tasks), st.just(tasks))))
def test_the_score_interval_holds_the_share_within_0_and_1(counts: tuple[int, int]) -> None:
    solved, tasks = counts
    low, high = stats.wilson(solved, tasks)
    assert 0 <= low <= solved / tasks <= high <= 1


def test_the_interval_of_a_mean_is_the_same_for_the_same_seed() -> None:
    values = [1.0, 2.0, 3.0, 10.0]
    mean, (low, high) = stats.mean_interval(values, 7)
    assert mean == 4.0 and 1 <= low < mean < high <= 10
    assert stats.mean_interval(values, 7) == (mean, (low, high))
    assert stats.mean_interval([5.0, 5.0], 7) == (5.0, (5.0, 5.0))
    assert stats.mean_interval([], 7) == (0.0, (0.0, 0.0))
    assert stats.wilson(0, 0) == (0.0, 1.0)
