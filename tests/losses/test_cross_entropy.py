from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from seglab.errors import ConfigError
from seglab.losses import CrossEntropy
from seglab.ops import bilinear
from seglab.types import IGNORE


def losses_of_pixels(logits, label, class_weight=(1, 1, 1, 1)) -> list[float]:
    found = []
    for image, truth in zip(logits.tolist(), label.tolist(), strict=True):
        for i, row in enumerate(truth):
            for j, k in enumerate(row):
                if k != IGNORE:
                    z = [plane[i][j] for plane in image]
                    found.append(class_weight[k] * (math.log(sum(map(math.exp, z))) - z[k]))
    return found


@pytest.mark.parametrize("class_weight", [None, [1.0, 0.5, 2.0, 3.0]])
def test_it_is_the_mean_over_labelled_pixels_or_over_all(scene, class_weight):
    losses = losses_of_pixels(scene.logits, scene.label, class_weight or (1, 1, 1, 1))
    of_valid = scene.loss(CrossEntropy(average="valid", class_weight=class_weight))
    of_all = scene.loss(CrossEntropy(average="all", class_weight=class_weight))
    assert of_valid.item() == pytest.approx(sum(losses) / len(losses))
    assert of_all.item() == pytest.approx(sum(losses) / scene.label.numel())


@pytest.mark.parametrize("align_corners", [False, True])
def test_logits_are_resized_to_the_labels(scene, align_corners):
    small = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    large = F.interpolate(small, (5, 6), mode="bilinear", align_corners=align_corners)
    expected = F.cross_entropy(large, scene.label, ignore_index=IGNORE)
    torch.testing.assert_close(scene.loss(CrossEntropy(align_corners=align_corners), small), expected)


@pytest.mark.parametrize("options", [{}, {"ohem_threshold": 0.5, "ohem_min_kept": 3}, {"label_smoothing": 0.1}])
def test_bands_of_rows_change_neither_value_nor_gradient(scene, options, monkeypatch):
    logits = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    term = CrossEntropy(**options)
    expected = torch.autograd.grad(whole := scene.loss(term, logits), logits)
    monkeypatch.setattr(bilinear, "BAND", 4 * 6 * 2)
    actual = torch.autograd.grad(banded := scene.loss(term, logits), logits)
    torch.testing.assert_close((banded, *actual), (whole, *expected))


def test_hard_pixels_are_those_below_the_threshold_but_at_least_some_number(scene):
    losses = sorted(losses_of_pixels(scene.logits, scene.label), reverse=True)
    for threshold, least in [(0.3, 1), (0.3, 30), (0.0, 7), (0.9, 1), (0.7, 10_000)]:
        kept = [loss for n, loss in enumerate(losses) if n < least or math.exp(-loss) <= threshold]
        found = scene.loss(CrossEntropy(ohem_threshold=threshold, ohem_min_kept=least))
        assert found.item() == pytest.approx(sum(kept) / len(kept))


def test_wrong_options_are_refused_by_name(scene):
    for options, named in [
        ({"average": "some"}, "average"),
        ({"weight": -1.0}, "weight"),
        ({"weight": math.nan}, "weight"),
        ({"label_smoothing": 2.0}, "label_smoothing"),
        ({"ohem_min_kept": 0}, "ohem_min_kept"),
        ({"class_weight": [1.0, -1.0]}, "class_weight"),
    ]:
        with pytest.raises(ConfigError, match=named):
            CrossEntropy(**options)
    with pytest.raises(ConfigError, match="3 factors"):
        scene.loss(CrossEntropy(class_weight=[1.0, 1.0, 1.0]))
