from __future__ import annotations

import numpy as np

from seglab.data.scenes.classes import CLASSES, PALETTE, Label
from seglab.data.scenes.materials import draw_materials


def colours(variation: float, count: int = 60) -> np.ndarray:
    """[scene, class, 3] colours of the classes, after gamma."""
    draws = (draw_materials(np.random.default_rng(seed), variation, outdoors=True) for seed in range(count))
    return np.sqrt(np.stack([materials.base[: len(Label)] for materials in draws]))


def separability(looks: np.ndarray) -> float:
    """Share of colours whose nearest class mean, over all scenes, is their own class."""
    distance = ((looks[:, :, None] - looks.mean(0)) ** 2).sum(-1)
    return float((distance.argmin(-1) == np.arange(looks.shape[1])).mean())


def test_one_colour_per_class_in_the_palette() -> None:
    assert len(CLASSES) == len(PALETTE) == len(set(PALETTE)) == len(Label)


def test_without_variation_colour_tells_the_class() -> None:
    assert separability(colours(0.0)) > 0.6


def test_with_full_variation_colour_says_little_across_scenes() -> None:
    assert separability(colours(1.0)) < 0.3


def test_within_a_scene_the_classes_differ_in_colour() -> None:
    looks = colours(1.0)
    distance = np.sqrt(((looks[:, :, None] - looks[:, None]) ** 2).sum(-1)) + 9 * np.eye(len(Label))
    assert np.median(distance.min(-1)) > 0.15


def test_materials_are_a_function_of_the_generator() -> None:
    np.testing.assert_array_equal(colours(0.8, 3), colours(0.8, 3))
