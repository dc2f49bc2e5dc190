"""The semantic encoding loss against a loop over images and classes."""

from __future__ import annotations

import math

import pytest
import torch

from seglab.errors import ConfigError
from seglab.losses import Presence
from seglab.types import IGNORE, Batch, Output

K = 4


def value(logits: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
    output = Output(logits=torch.zeros(1), extra={"presence": logits})
    return Presence()(output, Batch(image=torch.zeros(1), label=label, names=()))


@pytest.fixture
def label() -> torch.Tensor:
    """Classes 0 and 2; class 3 and void; nothing but void."""
    label = torch.full((3, 5, 6), IGNORE)
    label[0] = 0
    label[0, 0, 0] = 2
    label[1, 2:] = 3
    return label


def test_it_is_the_mean_over_images_and_classes_with_void_of_no_class(label):
    logits = torch.randn(3, K, dtype=torch.float64, requires_grad=True)
    expected = 0.0
    for image, present in enumerate([{0, 2}, {3}, set()]):
        for k in range(K):
            p = 1 / (1 + math.exp(-logits[image, k].item()))
            expected -= math.log(p if k in present else 1 - p) / (3 * K)
    found = value(logits, label)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    found.backward()
    present = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    assert torch.allclose(logits.grad, (logits.detach().sigmoid() - present) / (3 * K))


def test_how_often_a_class_occurs_changes_nothing(label):
    logits = torch.randn(3, K)
    more = label.clone()
    more[0, 1:4] = 2
    assert value(logits, more) == value(logits, label)


def test_far_logits_stay_finite_also_in_half_precision(label):
    logits = torch.full((3, K), 300.0, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value(logits, label)
    assert found.dtype == torch.float32
    assert found == pytest.approx(300 * 9 / 12)


def test_images_without_labels_are_refused():
    with pytest.raises(ConfigError, match=r"Presence got a batch without labels .*loss\.<name>\.weight=0"):
        value(torch.randn(3, K), None)
