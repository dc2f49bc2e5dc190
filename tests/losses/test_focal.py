from __future__ import annotations

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from seglab.losses import Focal
from seglab.types import IGNORE


@pytest.mark.parametrize("ignore_void", [False, True])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (None, 0.0), (0.6, 0.5)])
def test_it_agrees_with_torchvision_mask_by_mask(scene, alpha, gamma, ignore_void):
    total, pixels, means = 0, 0, []
    for logits, label in zip(scene.logits, scene.label, strict=True):
        counted = torch.ones_like(label, dtype=torch.bool) if not ignore_void else label != IGNORE
        pixels += counted.sum()
        for k in range(4):
            mask = (label == k).double()
            f = sigmoid_focal_loss(logits[k], mask, -1 if alpha is None else alpha, gamma)[counted]
            total = total + f.sum()
            if mask.any():
                means.append(f.mean())
    options = {"alpha": alpha, "gamma": gamma, "ignore_void": ignore_void}
    torch.testing.assert_close(scene.loss(Focal(classes="all", **options)), total / pixels)
    torch.testing.assert_close(scene.loss(Focal(classes="present", **options)), torch.stack(means).mean())


def test_certain_pixels_have_a_finite_gradient(scene):
    logits = torch.full((2, 4, 5, 6), 200.0, requires_grad=True)
    scene.loss(Focal(gamma=0.5), logits).backward()
    assert logits.grad.isfinite().all()
