from __future__ import annotations

import pytest
import torch

from seglab.losses import Lovasz
from seglab.types import IGNORE


def lovasz(probability: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """By the definition, on the labelled pixels [P, K], [P]: J grows as the worst pixels turn wrong one by one."""
    losses = []
    for k in label.unique():
        g = label == k
        errors, order = (g.double() - probability[:, k]).abs().sort(descending=True)
        loss, before = 0, 0.0
        for n in range(1, len(g) + 1):
            wrong = torch.zeros_like(g)
            wrong[order[:n]] = True
            predicted = g ^ wrong
            jaccard = 1 - (predicted & g).sum() / (predicted | g).sum()
            loss, before = loss + errors[n - 1] * (jaccard - before), jaccard
        losses.append(loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("per_image", [False, True])
def test_it_is_the_extension_of_one_minus_iou(scene, per_image):
    p, label = scene.logits.softmax(1).movedim(1, -1), scene.label
    valid = label != IGNORE
    groups = [(p[0][valid[0]], label[0][valid[0]]), (p[1][valid[1]], label[1][valid[1]])]
    expected = torch.stack([lovasz(*g) for g in groups]).mean() if per_image else lovasz(p[valid], label[valid])
    actual = scene.loss(Lovasz(per_image=per_image))
    torch.testing.assert_close(actual, expected)
    both = [torch.autograd.grad(loss, scene.logits, retain_graph=True)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*both)


def test_a_perfect_prediction_costs_nothing(scene):
    perfect = torch.nn.functional.one_hot(scene.label.clamp(max=3), 4).movedim(-1, 1) * 1000.0
    assert scene.loss(Lovasz(), perfect).item() == pytest.approx(0)
