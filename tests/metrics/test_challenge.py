"""The challenge score is the mean of pixel accuracy and mIoU."""

import pytest
import torch
from torch.nn import functional as F

from seglab.metrics import ChallengeScore, ConfusionMatrix
from tests.seeing import seen


def test_it_is_the_mean_of_pixel_accuracy_and_miou_beside_what_the_matrix_gives():
    label = torch.randint(3, (1, 8, 9))
    scores = F.one_hot(torch.randint(3, (1, 8, 9)), 3).permute(0, 3, 1, 2).float()
    metric, plain = ChallengeScore(3), ConfusionMatrix(3)
    for each in (metric, plain):
        each.update(seen(scores, label))
    found, expected = metric.compute(), plain.compute()
    assert found["challenge"] == pytest.approx((expected["aAcc"] + expected["mIoU"]) / 2)
    assert found.keys() == expected.keys() | {"challenge"}
    assert {score.name for score in metric.scores} >= {"challenge", "mIoU", "aAcc"}
