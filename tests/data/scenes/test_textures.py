from __future__ import annotations

import numpy as np
import pytest

from seglab.data.scenes.textures import Array, Pattern, draw, noise, wave

QUARTER = np.float32(0.25)
PATTERNS = [pattern for pattern in Pattern if pattern is not Pattern.PLAIN]


def points(n: int = 4000) -> tuple[Array, Array]:
    u, v = np.random.default_rng(0).uniform(-20, 20, (2, n)).astype(np.float32)
    return u, v


def pattern(which: Pattern, u: Array, v: Array, footprint: float) -> Array:
    f = np.full_like(u, footprint)
    weight = draw(which, u, v, f, f, 0.5, noise(u * QUARTER, v * QUARTER, f * QUARTER))
    assert weight is not None
    return weight


def test_noise_repeats_with_period_one_and_averages_one_half() -> None:
    u, v = points()
    f = np.full_like(u, 0.004)
    np.testing.assert_allclose(noise(u, v, f), noise(u + 3, v - 2, f), atol=2e-2)
    assert noise(u, v, f).mean() == pytest.approx(0.5, abs=0.03)
    assert noise(u, v, f).std() > 0.15


def test_noise_fades_to_its_mean_as_the_footprint_grows() -> None:
    u, v = points()
    spread = [noise(u, v, np.full_like(u, f)).std() for f in (0.004, 0.1, 0.4, 2.0)]
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] < 0.02


@pytest.mark.parametrize("which", PATTERNS)
def test_a_pattern_is_a_weight_that_varies_near_and_fades_far(which: Pattern) -> None:
    u, v = points()
    near, far = pattern(which, u, v, 0.002), pattern(which, u, v, 5.0)
    assert near.min() >= 0
    assert near.max() <= 1
    assert near.max() - near.min() > 0.5
    assert far.max() - far.min() < 0.3


@pytest.mark.parametrize("duty", [0.5, 0.9])
def test_a_wave_keeps_its_mean_at_any_footprint(duty: float) -> None:
    x = np.linspace(0, 10, 10001, dtype=np.float32)
    for footprint in (0.001, 0.1, 0.5, 3.0):
        assert wave(x, np.full_like(x, footprint), duty).mean() == pytest.approx(duty, abs=0.06)


def test_plain_has_no_accent() -> None:
    u, v = points(5)
    assert draw(Pattern.PLAIN, u, v, u, v, 1.0, u) is None
