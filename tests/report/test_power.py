"""Numbers of G*Power's tables and of scipy's noncentral t distribution."""

import math

import pytest

from seglab.report import power


@pytest.mark.parametrize(
    ("effect", "pairs"),
    # One-sample (paired) t test, two-sided, alpha 0.05, power 0.8: G*Power 3.1.
    [(0.2, 199), (0.3, 90), (0.5, 34), (0.8, 15), (1.0, 10), (1.2, 8), (1.5, 6), (2.0, 5), (3.0, 4), (5.0, 3)],
)
def test_the_seeds_needed_are_those_of_the_tables(effect, pairs):
    assert power.seeds_needed(effect, 1.0) == pairs
    assert power.power(pairs, effect) >= power.POWER > power.power(pairs - 1, effect)


def test_the_power_is_that_of_the_tables():
    assert power.power(5, 2.0) == pytest.approx(0.909, abs=5e-4)
    assert power.power(34, 0.5) == pytest.approx(0.808, abs=5e-4)


def test_the_power_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for pairs, effect in [(2, 0.5), (3, 1.0), (3, 3.0), (4, 2.0), (5, 1.5), (10, 1.0), (34, 0.5), (200, 0.2)]:
        freedom, shift = pairs - 1, math.sqrt(pairs) * effect
        reject = stats.t.ppf(1 - power.ALPHA / 2, freedom)
        expected = stats.nct.sf(reject, freedom, shift) + stats.nct.cdf(-reject, freedom, shift)
        assert power.power(pairs, effect) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("pairs", [2, 3, 5, 30, 1000])
def test_without_a_true_difference_the_power_is_the_level_of_the_test(pairs):
    assert power.power(pairs, 0.0) == pytest.approx(power.ALPHA, abs=1e-6)


def test_unit_and_sign_do_not_matter():
    assert power.seeds_needed(-0.012, 0.009) == power.seeds_needed(1.2, 0.9)
    assert power.power(4, -1.5) == pytest.approx(power.power(4, 1.5))


def test_two_seeds_are_the_fewest():
    assert power.seeds_needed(20.0, 1.0) == 2


def test_more_seeds_than_anybody_trains_are_not_counted():
    assert power.seeds_needed(0.0, 1.0) is None
    assert power.seeds_needed(1e-300, 1.0) is None
    assert power.seeds_needed(0.08, 1.0) is None
    least = power.detectable_effect(power.MOST_SEEDS)
    assert power.seeds_needed(1.0001 * least, 1.0) == power.MOST_SEEDS
    assert power.seeds_needed(0.9999 * least, 1.0) is None


@pytest.mark.parametrize("pairs", [2, 3, 4, 10])
def test_the_smallest_detectable_difference_is_that_which_needs_these_seeds(pairs):
    effect = power.detectable_effect(pairs)
    assert power.power(pairs, effect) == pytest.approx(power.POWER)
    assert power.seeds_needed(1.001 * effect, 1.0) == pairs
    assert power.seeds_needed(0.999 * effect, 1.0) == pairs + 1


def test_three_seeds_detect_differences_from_3_26_standard_deviations_on():
    assert power.detectable_effect(3) == pytest.approx(3.264, abs=1e-3)


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2, 4.303), (4, 2.776), (30, 2.042), (999, 1.962)])
def test_the_quantile_is_that_of_the_printed_tables(freedom, t):
    assert power.quantile(freedom) == pytest.approx(t, abs=5e-4)
