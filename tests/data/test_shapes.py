"""Synthetic label maps: reproducible, all classes, boundaries of every direction."""

from __future__ import annotations

import numpy as np
import pytest

from seglab.data.shapes import Shapes
from seglab.errors import ConfigError

LENGTHS = {"train": 6, "val": 4, "test": 5}


def shapes(**changes) -> Shapes:
    return Shapes(**{"size": [48, 64], "lengths": LENGTHS, **changes})


def test_a_map_is_a_function_of_seed_split_and_index_and_none_is_there_twice():
    sources = [shapes(), shapes(), shapes(seed=1)]
    once, again, other = ([s.label(p, i).tobytes() for p, n in LENGTHS.items() for i in range(n)] for s in sources)
    assert once == again
    assert len({*once, *other}) == 2 * len(once)
    assert shapes().fingerprint("train") != shapes(seed=1).fingerprint("train")


def test_a_map_has_the_asked_size_and_its_image_shows_its_classes():
    sample = shapes().read("train", 2)
    assert sample.label.shape == (48, 64)
    assert sample.image.shape == (48, 64, 3)
    assert sample.name == "train/000002"
    spec = Shapes.spec
    assert all(tuple(sample.image[0, x]) == spec.palette[sample.label[0, x]] for x in range(64))


def test_every_class_occurs_and_so_does_every_direction_of_boundaries():
    source = shapes(lengths={"train": 60})
    labels = [source.label("train", i) for i in range(60)]
    assert len(np.unique(np.stack(labels))) == source.spec.num_classes
    assert all(len(np.unique(label)) > 1 for label in labels)
    across = np.mean([(label[:, 1:] != label[:, :-1]).mean() for label in labels])
    down = np.mean([(label[1:] != label[:-1]).mean() for label in labels])
    assert across == pytest.approx(down, rel=0.3)
    assert 0.01 < across < 0.2


def test_one_cell_and_no_shape_is_one_class():
    assert len(np.unique(shapes(cells=[1, 1], shapes=0).label("val", 0))) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"size": [8, 64]}, {"lengths": {"all": 3}}, {"lengths": {"val": -1}}, {"seed": -1}, {"cells": [3, 2]}, {"cells": [0, 2]},
     {"shapes": -1}],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"data\\.dataset\\.{next(iter(wrong))}"):
        shapes(**wrong)
    with pytest.raises(IndexError):
        shapes().label("val", 4)
