from __future__ import annotations

import pytest
import torch

from seglab.ops.class_means import class_means, one_hot, sum_by, weighted_means, weighted_sums
from seglab.types import IGNORE

K = 4


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    label = torch.randint(0, K - 1, (2, 5, 6))  # the last class is absent
    label[0][label[0] == 1] = 0  # class 1 is absent from the first image
    label[:, 0] = IGNORE
    return torch.randn(2, 3, 5, 6, dtype=torch.float64), label, torch.randn(K, 3, dtype=torch.float64)


@pytest.mark.parametrize("per_image", [False, True])
def test_class_means_are_those_of_a_loop_and_absent_classes_take_their_row(scene, per_image):
    feature, label, absent = scene
    means = class_means(one_hot(label, K, feature.dtype), feature, absent, per_image, eps=0)
    groups = [[0], [1]] if per_image else [[0, 1]]
    for images, actual in zip(groups, means if per_image else means[None], strict=True):
        for k in range(K):
            pixels = [feature[b, :, i, j] for b in images for i in range(5) for j in range(6) if label[b, i, j] == k]
            torch.testing.assert_close(actual[k], torch.stack(pixels).mean(0) if pixels else absent[k])


def test_void_pixels_belong_to_no_class_even_where_255_is_one():
    label = torch.tensor([[[0, IGNORE, 299]]])
    assert one_hot(label, 300, torch.float32).sum((0, 1)).tolist() == [1, 0, 1]


def test_weighted_sums_and_means_broadcast_over_images(scene):
    feature, *_ = scene
    weights = torch.rand(2, K, 30, dtype=torch.float64)
    expected = torch.einsum("bkn,bcn->bkc", weights, feature.flatten(2))
    torch.testing.assert_close(weighted_sums(weights, feature), expected)
    torch.testing.assert_close(weighted_means(weights, feature, 0), expected / weights.sum(-1)[..., None])
    torch.testing.assert_close(weighted_sums(weights, feature[:1])[0], expected[0])


def test_sums_by_index_are_those_of_a_loop():
    index, values = torch.randint(0, 5, (20,)), torch.randn(3, 20, dtype=torch.float64)
    expected = torch.stack([values[:, index == i].sum(1) for i in range(6)], dim=1)
    torch.testing.assert_close(sum_by(index, values, 6), expected)
