"""Contours of networks against the label's, as an image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.pages import script

drawn = script("boundary_errors")
IMAGE = np.full((12, 20, 3), 128, np.uint8)


def halves(column: int) -> np.ndarray:
    label = np.zeros((12, 20), np.uint8)
    label[:, column:] = 1
    return label


def colours(shown: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in shown.reshape(-1, 3).tolist()} & {drawn.FOUND, drawn.FALSE, drawn.MISSED}


def test_contours_are_found_missed_or_false_by_their_distance():
    assert colours(drawn.errors(IMAGE, halves(10), halves(12), 3)) == {drawn.FOUND}
    assert colours(drawn.errors(IMAGE, halves(10), halves(12), 1)) == {drawn.MISSED, drawn.FALSE}
    shown = drawn.errors(IMAGE, halves(10), halves(15), 3)
    assert tuple(shown[0, 14]) == tuple(shown[0, 15]) == drawn.FALSE
    assert tuple(shown[0, 9]) == tuple(shown[0, 10]) == drawn.MISSED


def test_it_draws_a_row_for_each_image(trained_once, tmp_path):
    run = str(trained_once("semantic"))
    output = tmp_path / "a.png"
    drawn.main([run, run, "--names", "one", "two", "--images", "0", "1", "--width", "64", "--output", str(output)])
    assert Image.open(output).size[0] > 4 * 64
    with pytest.raises(SystemExit):
        drawn.main([run, run, "--output", str(output)])
