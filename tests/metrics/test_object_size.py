"""IoU by object size, counted by hand and against the confusion matrix."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from seglab.errors import ConfigError
from seglab.metrics import ConfusionMatrix, ObjectSizeIoU
from seglab.metrics.object_size import SIZES
from seglab.types import IGNORE
from tests.seeing import seen

K = 4


def one_hot(ids: torch.Tensor) -> torch.Tensor:
    return F.one_hot(ids, K).permute(0, 3, 1, 2).float()


def blobs(seed: int) -> torch.Tensor:
    coarse = torch.randn(2, K, 9, 11, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(40, 60), mode="bilinear").argmax(1)


def test_objects_count_by_their_share_of_the_image():
    label = torch.zeros(1, 10, 20, dtype=torch.int64)  # of 200 pixels: small up to 2, large from 20
    label[0, 0, :2] = 1  # a small object, half found
    label[0, 3:6, :3] = 1  # a medium one, found
    label[0, 8:, 10:] = 2  # a large one, missed
    prediction = label.clone()
    prediction[0, 0, 1] = 0
    prediction[0, 8:, 10:] = 0
    prediction[0, 2, 15:18] = 3  # 3 pixels of nothing, in a component of medium size
    metric = ObjectSizeIoU(K)
    metric.update(seen(one_hot(prediction), label))
    found = metric.compute()
    absent = pytest.approx(float("nan"), nan_ok=True)
    background = 200 - 2 - 9 - 20
    assert found["IoU_small"] == [absent, 0.5, absent, absent]
    assert found["IoU_medium"] == [absent, 1.0, absent, 0.0]
    assert found["IoU_large"] == [pytest.approx((background - 3) / (background + 1 + 20)), absent, 0.0, absent]
    assert found["mIoU_small"] == 0.5
    assert found["mIoU_medium"] == 0.5


def test_counts_of_all_sizes_add_up_to_those_of_the_confusion_matrix():
    label, prediction = blobs(0), blobs(1)
    label[:, 5:12, 20:33] = IGNORE
    metric, plain = ObjectSizeIoU(K), ConfusionMatrix(K)
    for each in (metric, plain):
        each.update(seen(one_hot(prediction), label))
    union = (metric.labelled + metric.false).sum(0)
    assert (metric.labelled.sum(1) > 0).sum() >= 2, "objects of several sizes"
    assert (metric.hit.sum(0) / union).tolist() == pytest.approx(plain.compute()["IoU"])


def test_what_is_predicted_on_void_changes_nothing_and_neither_does_the_batch():
    label, prediction = blobs(0), blobs(1)
    label[:, 5:12, 20:33] = IGNORE
    other = torch.where(label == IGNORE, blobs(2), prediction)
    whole, parts = ObjectSizeIoU(K), ObjectSizeIoU(K)
    whole.update(seen(one_hot(prediction), label))
    for i in range(2):
        parts.update(seen(one_hot(other[i : i + 1]), label[i : i + 1]))
    assert str(whole.compute()) == str(parts.compute())  # NaN equals NaN


def test_scores_name_all_numbers():
    label = blobs(0)
    metric = ObjectSizeIoU(K)
    metric.update(seen(one_hot(label), label))
    found = metric.compute()
    assert {score.name for score in metric.scores} == set(found)
    assert {found[f"mIoU_{size}"] for size in SIZES if found[f"mIoU_{size}"] == found[f"mIoU_{size}"]} == {1.0}


@pytest.mark.parametrize("options", [{"small": 0.2}, {"small": -1.0}, {"large": 2.0}], ids=str)
def test_shares_that_cannot_be_are_refused(options):
    with pytest.raises(ConfigError, match=r"metrics\.object_size\."):
        ObjectSizeIoU(K, **options)
