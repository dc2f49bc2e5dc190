"""Boundary F-score against distances between contour pixels, one class after the other."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from seglab.metrics import BoundaryFScore
from seglab.types import IGNORE
from tests.seeing import seen

K = 4


def blobs(seed: int, height: int = 24, width: int = 33) -> torch.Tensor:
    coarse = torch.randn(2, K, 3, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(height, width), mode="bilinear").argmax(1)


def one_hot(ids: torch.Tensor) -> torch.Tensor:
    return F.one_hot(ids, K).permute(0, 3, 1, 2).float()


def contour(ids: torch.Tensor, k: int) -> torch.Tensor:
    """[n, 2] the pixels of a class that have a neighbour of another class."""
    found = []
    height, width = ids.shape
    for y in range(height):
        for x in range(width):
            around = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            others = [int(ids[a, b]) for a, b in around if 0 <= a < height and 0 <= b < width]
            if ids[y, x] == k and any(other not in (k, IGNORE) for other in others):
                found.append((y, x))
    return torch.tensor(found, dtype=torch.float64).view(-1, 2)


@pytest.mark.parametrize("distance", [1, 3, 5])
def test_precision_and_recall_are_those_of_the_nearest_contour_pixels(distance):
    label, prediction = blobs(0), blobs(1)
    label[:, 5:14, 10:20] = IGNORE
    metric = BoundaryFScore(K)
    metric.update(seen(one_hot(prediction), label))
    found = metric.compute()[f"BoundaryF_{distance}px"]
    masked = prediction.masked_fill(label == IGNORE, IGNORE)
    for k in range(K):
        near, count = [0, 0], [0, 0]
        for true, guess in zip(label, masked, strict=True):
            a, b = contour(guess, k), contour(true, k)
            for i, (one, other) in enumerate(((a, b), (b, a))):
                count[i] += len(one)
                if len(one) and len(other):
                    near[i] += int((torch.cdist(one, other).amin(1) <= distance + 1e-9).sum())
        precision, recall = (n / c for n, c in zip(near, count, strict=True))
        assert found[k] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)


def test_a_perfect_prediction_has_1_and_more_distance_never_less():
    label = blobs(0)
    metric = BoundaryFScore(K)
    metric.update(seen(one_hot(label), label))
    assert [metric.compute()[f"mBoundaryF_{d}px"] for d in (1, 3, 5)] == [1.0] * 3
    metric.reset()
    metric.update(seen(one_hot(blobs(1)), label))
    scores = [metric.compute()[f"mBoundaryF_{d}px"] for d in (1, 3, 5)]
    assert 0 < scores[0] < scores[1] < scores[2] < 1


def test_a_contour_that_is_moved_by_two_pixels_is_found_at_three():
    label = torch.zeros(1, 20, 20, dtype=torch.int64)
    label[:, :, 10:] = 1
    prediction = torch.zeros_like(label)
    prediction[:, :, 12:] = 1
    metric = BoundaryFScore(K)
    metric.update(seen(one_hot(prediction), label))
    found = metric.compute()
    assert [found[f"mBoundaryF_{d}px"] for d in (1, 3, 5)] == [0.0, 1.0, 1.0]
    assert torch.tensor(found["BoundaryF_3px"]).isnan().tolist() == [False, False, True, True]


def test_void_makes_no_contour_and_one_row_is_enough():
    label = torch.zeros(1, 1, 12, dtype=torch.int64)
    label[..., 4:8] = IGNORE
    metric = BoundaryFScore(K)
    metric.update(seen(one_hot(torch.zeros(1, 1, 12, dtype=torch.int64)), label))
    assert torch.tensor(metric.compute()["BoundaryF_1px"]).isnan().all()
