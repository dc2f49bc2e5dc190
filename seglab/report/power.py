"""Power of the paired t test: how many seeds detect a difference, and which difference the present seeds detect.

Where the differences of two rows at n common seeds are normal with mean m and standard deviation s, the statistic of
the test follows the noncentral t distribution with v = n - 1 degrees of freedom and noncentrality c = sqrt(n) m / s.
With q, the two-sided quantile of Student's distribution at level ALPHA, the power is

    P(|T'| > q) = int_0^inf f_v(u) [Phi(c - q u) + Phi(-c - q u)] du

    f_v(u) = 2 (v/2)^(v/2) / Gamma(v/2) u^(v - 1) exp(-v u^2 / 2)

where u is the sample standard deviation over s, f_v its density, and Phi the normal distribution (Johnson, Kotz and
Balakrishnan, Continuous Univariate Distributions 2, 1995, chapter 31). The integral is computed by Simpson's rule; it
agrees with G*Power's tables and with scipy.

Symbols: n ``pairs``, v ``freedom``, m/s ``effect``, c ``shift``, q ``quantile``, u ``ratio``.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

from seglab.report.statistics import student_p

ALPHA = 0.05
"""Level of the two-sided test."""
POWER = 0.8
"""Wanted probability that the test finds a difference which is there (Cohen 1988)."""
MOST_SEEDS = 1000
"""Nobody trains more; no larger number of seeds is searched for."""
INTERVALS = 400
"""Of Simpson's rule; with 800, powers change by less than 1e-6."""
BISECTIONS = 50
"""Halvings of an interval below 100: to 1e-13."""


def power(pairs: int, effect: float) -> float:
    """Probability that the paired t test finds p < ALPHA.

    Args:
        pairs: number of common seeds, at least 2.
        effect: true mean of the differences in units of their true standard deviation.
    """
    freedom, shift = pairs - 1, math.sqrt(pairs) * effect
    reject = quantile(freedom)
    width = 8 / math.sqrt(2 * freedom)  # some 8 standard deviations of the ratio, whose mean is about 1
    low, high = max(0.0, 1 - width), 1 + width
    factor = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)

    def integrand(ratio: float) -> float:
        density = math.exp(factor - freedom * ratio**2 / 2) * ratio ** (freedom - 1)
        return density * (normal(shift - reject * ratio) + normal(-shift - reject * ratio))

    step = (high - low) / INTERVALS
    inner = sum((4 if k % 2 else 2) * integrand(low + k * step) for k in range(1, INTERVALS))
    return min((integrand(low) + inner + integrand(high)) * step / 3, 1.0)


def seeds_needed(difference: float, sd: float) -> int | None:
    """The fewest common seeds with which a true difference is found with probability POWER.

    Args:
        difference: of two rows, in any unit and of either sign.
        sd: standard deviation of the differences at common seeds, in the same unit, above 0.

    Returns:
        At least 2; None where more than MOST_SEEDS are needed.

    Raises:
        ZeroDivisionError: the standard deviation is 0.
    """
    effect = abs(difference) / sd
    # The normal test needs fewer, always: its sd is known. The count is found a few steps above.
    normal_effect = NormalDist().inv_cdf(1 - ALPHA / 2) + NormalDist().inv_cdf(POWER)
    if math.sqrt(MOST_SEEDS) * effect < normal_effect:
        return None
    start = max(2, math.floor((normal_effect / effect) ** 2))
    return next((pairs for pairs in range(start, MOST_SEEDS + 1) if power(pairs, effect) >= POWER), None)


@cache
def detectable_effect(pairs: int) -> float:
    """The smallest true difference that is found with probability POWER, in standard deviations of the differences.

    Args:
        pairs: number of common seeds, at least 2.
    """
    low, high = 0.0, 1.0
    while power(pairs, high) < POWER:
        low, high = high, 2 * high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if power(pairs, middle) >= POWER else (middle, high)
    return high


@cache
def quantile(freedom: int) -> float:
    """q with P(|T| >= q) = ALPHA for Student's distribution; 4.303 for two degrees of freedom."""
    low, high = 0.0, 100.0  # it is 12.7 for one degree of freedom and falls from there
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if student_p(middle, freedom) <= ALPHA else (middle, high)
    return high


def normal(z: float) -> float:
    """Phi(z) of the standard normal distribution."""
    return math.erfc(-z / math.sqrt(2)) / 2
