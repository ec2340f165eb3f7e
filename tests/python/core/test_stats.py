"""Medians and their intervals."""

import random

import pytest

from kernel_pytorch.core.stats import median, median_interval


def test_median():
    assert median([3.0]) == 3.0
    assert median([4.0, 1.0, 3.0]) == 3.0
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5
    with pytest.raises(ValueError, match="median of no values"):
        median([])


def test_ranks_of_the_interval():
    # The textbook's ranks for 95%: 10 values: 2nd and 9th; 20: 6th and 15th; 100: 40th and 61st.
    for count, low, high in ((6, 1, 6), (10, 2, 9), (20, 6, 15), (100, 40, 61)):
        found = median_interval([float(i) for i in range(1, count + 1)])
        assert (found.low, found.high) == (low, high)


def test_few_values_give_the_extremes():
    assert median_interval([2.0, 1.0, 3.0]) == (2.0, 1.0, 3.0)
    assert median_interval([5.0]) == (5.0, 5.0, 5.0)


def test_the_interval_holds_the_true_median_as_often_as_promised():
    source = random.Random(7)
    hits = 0
    for _ in range(400):
        found = median_interval([source.expovariate(1.0) for _ in range(31)])
        hits += found.low <= 0.693147 <= found.high
    assert hits >= 0.93 * 400
