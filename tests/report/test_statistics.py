"""Numbers of printed tables."""

import math

import pytest

from seglab.report import statistics


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    # Two-sided critical values of Student's distribution, as in any table of it.
    [
        (12.706, 1, 0.05),
        (4.303, 2, 0.05),
        (3.182, 3, 0.05),
        (2.776, 4, 0.05),
        (9.925, 2, 0.01),
        (2.042, 30, 0.05),
        (1.833, 9, 0.1),
        (0, 5, 1),
    ],
)
def test_p_is_that_of_the_printed_tables(t, freedom, p):
    assert statistics.student_p(t, freedom) == pytest.approx(p, abs=2e-4 if p < 1 else 0)
    assert statistics.student_p(-t, freedom) == statistics.student_p(t, freedom)


def test_p_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in range(1, 12):
        for t in (0.1, 1.0, 2.5, 8.0, 40.0):
            assert statistics.student_p(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-6, abs=1e-14)


def test_the_test_is_over_pairs_and_not_over_two_samples():
    # The seeds differ by far more than the rows do; their differences are 1.0, 1.1, 0.9: t = 10 * sqrt(3).
    ours, theirs = {0: 11.0, 1: 21.1, 2: 30.9}, {0: 10.0, 1: 20.0, 2: 30.0}
    found = statistics.differences(ours, theirs)
    assert statistics.paired_p(found) == pytest.approx(statistics.student_p(10 * math.sqrt(3), 2))


def test_only_common_seeds_are_compared():
    assert statistics.differences({0: 1.0, 2: 5.0, 3: 9.0}, {1: 7.0, 2: 4.0}) == [1.0]


@pytest.mark.parametrize("found", [[], [0.3], [0.1, 0.1, 0.1], [0.3 - 0.2, 0.2 - 0.1, 0.1]])
def test_no_p_without_two_differences_that_vary(found):
    assert statistics.paired_p(found) is None


def test_holm_multiplies_the_smallest_p_by_their_number_the_next_by_one_less_and_so_on():
    # 3 x 0.01, 2 x 0.02, 1 x 0.4, in the order in which they were given.
    assert statistics.holm([0.02, 0.4, 0.01]) == pytest.approx([0.04, 0.4, 0.03])


def test_holm_never_ranks_a_larger_p_below_a_smaller_one():
    # 4 x 0.01, 3 x 0.012 = 0.036, 2 x 0.03, 0.05: the second and the last are raised to the one before them.
    assert statistics.holm([0.01, 0.012, 0.03, 0.05]) == pytest.approx([0.04, 0.04, 0.06, 0.06])


def test_holm_gives_equal_p_values_the_same_value():
    assert statistics.holm([0.02, 0.5, 0.02]) == pytest.approx([0.06, 0.5, 0.06])


def test_a_p_adjusted_by_holm_is_never_above_1():
    assert statistics.holm([0.6, 0.5, 0.9]) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("missing", [None, math.nan])
def test_rows_without_p_do_not_count_for_holm(missing):
    assert statistics.holm([missing, 0.03, missing, 0.01]) == [None, 0.03, None, 0.02]
    assert statistics.holm([missing]) == [None]
    assert statistics.holm([]) == []


def test_holm_leaves_a_single_p_as_it_is():
    assert statistics.holm([0.03]) == [0.03]


def test_one_value_has_no_standard_deviation():
    assert statistics.sd([0.5]) is None
    assert statistics.sd([1.0, 3.0]) == pytest.approx(math.sqrt(2))
