"""Boundary IoU against erosion of one mask per class."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seglab.metrics import BoundaryIoU
from seglab.metrics.boundary import band, radius
from seglab.types import IGNORE
from tests.seeing import seen

K = 4


def blobs(seed: int, height: int = 40, width: int = 60) -> torch.Tensor:
    coarse = torch.randn(1, K, 4, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(height, width), mode="bilinear").argmax(1)


def one_hot(ids: torch.Tensor) -> torch.Tensor:
    return F.one_hot(ids, K).permute(0, 3, 1, 2).float()


def eroded(mask: np.ndarray) -> np.ndarray:
    """One erosion with a 3 x 3 square; outside is not in the mask."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.logical_and.reduce([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])


def mask_band(mask: np.ndarray, distance: int) -> np.ndarray:
    inner = mask
    for _ in range(distance):
        inner = eroded(inner)
    return mask & ~inner


@pytest.mark.parametrize("distance", [1, 3])
def test_equals_erosion_of_every_mask(distance):
    label, prediction = blobs(0), blobs(1)
    label[:, 10:20, 30:38] = IGNORE
    diagonal = math.hypot(40, 60)
    metric = BoundaryIoU(K, ratio=distance / diagonal)
    assert radius(40, 60, metric.ratio) == distance
    metric.update(seen(one_hot(prediction), label))

    true, guess = label[0].numpy(), prediction[0].masked_fill(label[0] == IGNORE, IGNORE).numpy()
    for k, value in enumerate(metric.compute()["BoundaryIoU"]):
        a, b = mask_band(true == k, distance), mask_band(guess == k, distance)
        assert value == pytest.approx((a & b).sum() / (a | b).sum(), abs=1e-12)


def test_a_perfect_prediction_has_1():
    label = blobs(0)
    metric = BoundaryIoU(K)
    metric.update(seen(one_hot(label), label))
    assert metric.compute()["mBoundaryIoU"] == 1


def test_an_absent_class_is_nan_and_left_out():
    label = torch.zeros(1, 20, 20, dtype=torch.int64)
    metric = BoundaryIoU(K)
    metric.update(seen(one_hot(label), label))
    results = metric.compute()
    assert results["BoundaryIoU"] == pytest.approx([1.0, math.nan, math.nan, math.nan], nan_ok=True)
    assert results["mBoundaryIoU"] == 1


def test_what_is_predicted_on_void_changes_nothing():
    label = blobs(0)
    label[:, 5:15, 5:25] = IGNORE
    numbers = []
    for seed in (1, 2):
        prediction = torch.where(label == IGNORE, blobs(seed), blobs(3))
        metric = BoundaryIoU(K)
        metric.update(seen(one_hot(prediction), label))
        numbers.append(metric.compute()["BoundaryIoU"])
    assert numbers[0] == numbers[1]


def test_the_band_is_two_percent_of_the_diagonal_and_at_least_a_pixel():
    assert radius(1024, 2048, 0.02) == 46
    assert radius(4, 4, 0.02) == 1


def test_a_shifted_contour_costs_more_than_in_iou():
    label = torch.zeros(1, 100, 100, dtype=torch.int64)
    label[:, 30:70, 30:70] = 1
    prediction = label.roll(2, -1)
    metric = BoundaryIoU(K)
    metric.update(seen(one_hot(prediction), label))
    iou = ((label == 1) & (prediction == 1)).sum() / ((label == 1) | (prediction == 1)).sum()
    assert metric.compute()["BoundaryIoU"][1] < iou - 0.2


def test_any_batch_split_gives_the_same_number():
    label, prediction = torch.cat([blobs(0), blobs(1)]), torch.cat([blobs(2), blobs(3)])
    whole, parts = BoundaryIoU(K), BoundaryIoU(K)
    whole.update(seen(one_hot(prediction), label))
    for i in range(2):
        parts.update(seen(one_hot(prediction[i : i + 1]), label[i : i + 1]))
    assert whole.compute() == parts.compute()


def test_the_band_of_one_row_costs_no_more_than_that_of_one_column():
    seconds = []
    for size in ((1, 8000), (8000, 1)):
        ids = torch.zeros(1, *size, dtype=torch.int64)
        began = time.process_time()
        assert band(ids, 160).all()  # the image's own border is near everywhere
        seconds.append(time.process_time() - began)
    assert seconds[0] < 5 * seconds[1] + 0.1
