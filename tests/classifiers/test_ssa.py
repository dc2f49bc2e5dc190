from __future__ import annotations

import pytest
import torch

from seglab.classifiers import SSA
from seglab.types import IGNORE

C, K = 4, 3


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    target = torch.zeros(2, 4, 4, dtype=torch.int64)
    target[1] = 1  # class 2 is absent
    target[:, 0, 0] = IGNORE
    return torch.randn(2, C, 4, 4, dtype=torch.float64), target


def ssa(**options) -> SSA:
    torch.manual_seed(1)
    return SSA(C, K, dropout=0.0, **options).double()


def test_the_spatial_centre_weighs_the_position_of_pixels_by_a_softmax_over_pixels(scene):
    output = ssa()(scene[0])
    a = output.coarse.flatten(2).softmax(2)
    torch.testing.assert_close(output.spatial_context, torch.einsum("bkn,bcn->bkc", a, output.position.flatten(2)))


def test_or_over_classes_on_request(scene):
    output = ssa(spatial_softmax="classes")(scene[0])
    a = output.coarse.flatten(2).softmax(1)
    expected = torch.einsum("bkn,bcn->bkc", a, output.position.flatten(2)) / a.sum(-1, keepdim=True)
    torch.testing.assert_close(output.spatial_context, expected)


def test_the_oracles_spatial_centres_are_per_image_and_absent_classes_take_the_basis(scene):
    feature, target = scene
    classifier = ssa()
    output = classifier(feature, target)
    assert output.oracle_semantic_context.shape == (K, C)
    assert output.oracle_spatial_context.shape == (2, K, C)
    torch.testing.assert_close(output.oracle_spatial_context[0, 0], output.position[0].flatten(1)[:, 1:].mean(1))
    torch.testing.assert_close(output.oracle_spatial_context[0, 1], classifier.basis[1].detach())
    (gradient,) = torch.autograd.grad(output.oracle_spatial_context.sum(), classifier.basis, allow_unused=True)
    assert gradient is None, "absent classes take the basis as a constant"


def test_each_half_can_be_switched_off(scene):
    feature, target = scene
    semantic, spatial = ssa(spatial=False), ssa(semantic=False)
    output = semantic(feature, target)
    assert {"position", "spatial_prototypes", "oracle_spatial_prototypes"} <= output.missing()
    assert not any("spatial" in name or "position" in name or "basis" in name for name in semantic.state_dict())
    torch.testing.assert_close(output.prototypes, semantic.combine(output.semantic_prototypes))

    output = spatial(feature, target)
    assert {"semantic_context", "semantic_prototypes", "oracle_semantic_prototypes"} <= output.missing()
    expected = spatial.combine(spatial.weight + output.spatial_prototypes)
    torch.testing.assert_close(output.prototypes, expected)


def test_the_basis_alone_is_the_spatial_prototype_without_a_centre(scene):
    classifier = ssa(spatial_softmax="none")
    output = classifier(*scene)
    assert torch.equal(output.spatial_prototypes, classifier.basis)
    assert {"spatial_context", "oracle_spatial_context"} <= output.missing()


def test_the_papers_equation_two_is_a_plain_product(scene):
    feature, _ = scene
    output = ssa(similarity="dot", combine=False)(feature)
    prototypes = output.semantic_prototypes + output.spatial_prototypes
    torch.testing.assert_close(output.logits, torch.einsum("bchw,bkc->bkhw", feature + output.position, prototypes))


def test_positions_tell_pixels_apart_whatever_the_feature():
    flat = torch.ones(1, 6, 5, 7)
    for position in ("learnable", "sinusoidal"):
        encoding = SSA(6, K, position=position)(flat).position
        assert encoding.shape == (1, 6, 5, 7)
        assert torch.cdist(encoding.flatten(2)[0].T, encoding.flatten(2)[0].T).add(torch.eye(35)).min() > 1e-4
    assert not SSA(6, K, position="none")(flat).position.any()


def test_parameters_are_as_many_as_published():
    classifier = SSA(512, 150)
    counted = {name: p.numel() for name, p in classifier.named_parameters() if not name.startswith("conv.")}
    test_time = sum(n for name, n in counted.items() if not name.startswith("oracle_"))
    assert test_time == 2 * (1.5 * 512**2 + 512) + 512**2 + 10 * 512 + 150 * 512
    assert sum(counted.values()) - test_time == 4 * 512**2 + 2 * 512
