"""Mean, sample standard deviation, the paired t test over seeds, and Holm's correction for several tests.

The test takes the differences d of two rows at common seeds (the same seed gives the same order and crops, so that
chance is partly shared) and asks whether their mean differs from zero:

    t = mean(d) / (sd(d) / sqrt(n)),   p = P(|T| >= |t|),   T of Student's distribution with n - 1 degrees of freedom

It assumes that the differences are independent and about normal, which nobody can check with three seeds; and with
three it has little power: a difference must be 2.5 times its own standard deviation for p < 0.05. A large p is no
evidence that two rows are equal. Among many rows some p is small by chance: :func:`holm` corrects for their number,
and :mod:`seglab.report.power` says which differences the test detects.

The distribution for a whole number of degrees of freedom is the finite sum of Abramowitz and Stegun, Handbook of
Mathematical Functions (1964), 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return statistics.fmean(values)


def sd(values: Sequence[float]) -> float | None:
    """Sample standard deviation (n - 1); None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def differences(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Ours minus theirs at the seeds that both have."""
    return [value - theirs[seed] for seed, value in sorted(ours.items()) if seed in theirs]


def paired_p(found: Sequence[float]) -> float | None:
    """Two-sided p of the paired t test; None for fewer than two differences or where they do not vary."""
    spread = sd(found)
    # Rounding alone spreads equal differences by some 1e-16.
    if spread is None or spread <= 1e-12 * max(1.0, *map(abs, found)):
        return None
    return student_p(mean(found) / (spread / math.sqrt(len(found))), len(found) - 1)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for their number by Holm's step-down procedure (Holm 1979, Scand. J. Statist. 6, 65-70).

    With the m known p values in ascending order, p_(1) <= ... <= p_(m),

        adjusted_(k) = max over j <= k of min(1, (m - j + 1) p_(j))

    Rejecting where the adjusted p is at most alpha keeps the probability of any false rejection at or below alpha,
    however the tests depend on each other: here they share a baseline.

    Args:
        values: in any order; None or NaN where there was no test, which does not count.

    Returns:
        In the same order; None where there was no test.
    """
    known = [(p, k) for k, p in enumerate(values) if p is not None and not math.isnan(p)]
    adjusted: list[float | None] = [None] * len(values)
    largest = 0.0
    for done, (p, k) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, (len(known) - done) * p))
        adjusted[k] = largest
    return adjusted


def student_p(t: float, freedom: int) -> float:
    """P(|T| >= |t|) for Student's distribution with a whole number of degrees of freedom."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(2 + odd, freedom + 1, 2):  # the sum has freedom // 2 terms
        total += term
        term *= cosine**2 * (k - 1) / k
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(max(1 - inside, 0.0), 1.0)
