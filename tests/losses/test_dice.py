from __future__ import annotations

import pytest
import torch

from seglab.losses import Dice
from seglab.ops import bilinear
from seglab.types import IGNORE


@pytest.mark.parametrize("ignore_void", [False, True])
def test_it_is_the_mean_over_images_and_their_classes(scene, ignore_void):
    values = []
    for logits, label in zip(scene.logits, scene.label, strict=True):
        counted = torch.ones_like(label, dtype=torch.bool) if not ignore_void else label != IGNORE
        for k in set(label.flatten().tolist()) - {IGNORE}:
            p, g = logits[k].sigmoid()[counted], (label == k)[counted].double()
            values.append(1 - (2 * (p * g).sum() + 1) / (p.sum() + g.sum() + 1))
    torch.testing.assert_close(scene.loss(Dice(ignore_void=ignore_void)), torch.stack(values).mean())


def test_bands_of_rows_change_neither_value_nor_gradient(scene, monkeypatch):
    logits = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(whole := scene.loss(Dice(), logits), logits)
    monkeypatch.setattr(bilinear, "BAND", 4 * 6 * 2)
    actual = torch.autograd.grad(banded := scene.loss(Dice(), logits), logits)
    torch.testing.assert_close((banded, *actual), (whole, *expected))


def test_void_pixels_are_background_as_published_and_nothing_on_request(scene):
    changed = scene.logits.detach() + scene.void[:, None]
    assert scene.loss(Dice(), changed) > scene.loss(Dice())
    torch.testing.assert_close(scene.loss(Dice(ignore_void=True), changed), scene.loss(Dice(ignore_void=True)).detach())
