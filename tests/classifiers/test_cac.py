from __future__ import annotations

import pytest
import torch

from seglab.classifiers import CAC
from seglab.types import IGNORE

C, K = 4, 3


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    target = torch.zeros(2, 4, 4, dtype=torch.int64)
    target[1] = 1  # class 2 is absent
    target[:, 0, 0] = IGNORE
    return torch.randn(2, C, 4, 4, dtype=torch.float64), target


def cac(**options) -> CAC:
    torch.manual_seed(1)
    return CAC(C, K, dropout=0.0, **options).double()


def test_the_context_is_the_softly_weighted_mean_of_the_feature(scene):
    feature, _ = scene
    output = cac()(feature)
    a = output.coarse.softmax(1)
    for b in range(2):
        for k in range(K):
            expected = sum(a[b, k, i, j] * feature[b, :, i, j] for i in range(4) for j in range(4)) / a[b, k].sum()
            torch.testing.assert_close(output.context[b, k], expected)


def test_unsure_pixels_stay_out_of_the_context(scene):
    feature, _ = scene
    classifier = cac(confidence=0.9)
    classifier.conv.weight.data *= 500
    output = classifier(feature)
    a = output.coarse.softmax(1)
    sure = a.amax(1, keepdim=True) >= 0.9
    assert 0 < sure.sum() < sure.numel()
    a = (a * sure).flatten(2)
    expected = (a @ feature.flatten(2).mT) / a.sum(-1, keepdim=True)
    torch.testing.assert_close(output.context, expected)


def test_the_oracle_sees_one_context_for_the_batch_and_absent_classes_keep_their_weight(scene):
    feature, target = scene
    classifier = cac()
    means = classifier(feature, target).oracle_context
    assert means.shape == (K, C)
    torch.testing.assert_close(means[0], feature[0].flatten(1)[:, 1:].mean(1))
    torch.testing.assert_close(means[2], classifier.weight[2].detach())
    assert not means.requires_grad, "absent classes take the weight as a constant"

    per_image = cac(oracle_context="image")(feature, target).oracle_context
    assert per_image.shape == (2, K, C)
    torch.testing.assert_close(per_image[0, 0], means[0])
    torch.testing.assert_close(per_image[0, 1], classifier.weight[1].detach())


def test_means_and_coarse_logits_are_detached_on_request_only(scene):
    feature, target = scene
    for detached in (False, True):
        classifier = cac(detach_means=detached, detach_coarse=detached)
        x = feature.clone().requires_grad_()
        output = classifier(x, target)
        assert output.oracle_context.requires_grad is not detached
        (gradient,) = torch.autograd.grad(output.logits.sum(), classifier.conv.bias, allow_unused=True)
        assert (gradient is None) is detached


def test_a_shared_projector_serves_both_branches(scene):
    classifier = cac(shared_projector=True)
    assert classifier.oracle_projector is None
    feature, target = scene
    output = classifier(feature, target)
    torch.testing.assert_close(output.oracle_prototypes, classifier.projector(output.oracle_context, classifier.weight))


def test_parameters_are_as_many_as_published():
    counted = sum(p.numel() for p in CAC(512, 150).projector.parameters())
    assert counted == 393_728


def test_void_labels_change_nothing_but_their_own_share(scene):
    """A void pixel's feature enters the estimated context, never the oracle's."""
    feature, target = scene
    other = feature.clone()
    other[:, :, 0, 0] += 10
    classifier = cac()
    torch.testing.assert_close(
        classifier(other, target).oracle_prototypes, classifier(feature, target).oracle_prototypes
    )
