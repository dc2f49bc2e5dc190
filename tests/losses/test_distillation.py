from __future__ import annotations

import math

import pytest
import torch

from seglab.errors import ConfigError
from seglab.losses import Distillation
from seglab.ops.edges import edge_mask
from seglab.ops.resize import downsample_labels
from seglab.types import IGNORE, Batch
from tests.losses.conftest import Branches


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x + 1e-12) for x in p)


def softmax(z: list[float]) -> list[float]:
    total = sum(map(math.exp, z))
    return [math.exp(x) / total for x in z]


def distillation(
    student, teacher, label, edges, s=0.5, eps=0.0, source="teacher", class_wise=True, coarse=None
) -> float:
    """The equations pixel by pixel."""
    classes = student.shape[1]
    pixels = []  # class, edge, c, e
    for b, i, j in torch.cartesian_prod(*(torch.arange(n) for n in label.shape)).tolist():
        k = int(label[b, i, j])
        if k == IGNORE:
            continue
        p, q = softmax(student[b, :, i, j].tolist()), softmax(teacher[b, :, i, j].tolist())
        t = [s * x + (1 - s) * (n == k) for n, x in enumerate(q)]
        e = {"teacher": entropy(q), "student": entropy(p), "target": entropy(t), "none": 1.0}
        if coarse is not None:
            e["coarse"] = entropy(softmax(coarse[b, :, i, j].tolist()))
        e = e[source]
        t = [x * (1 - eps) + (1 - x) * eps / (classes - 1) for x in t]
        c = -sum(x * math.log(y) for x, y in zip(t, p, strict=True))
        pixels.append((k if class_wise else 0, None if edges is None else bool(edges[b, i, j]), c, e))
    values = []
    for k in {pixel[0] for pixel in pixels}:
        halves = []
        for side in (None,) if edges is None else (False, True):
            chosen = [(c, e) for n, edge, c, e in pixels if n == k and edge == side]
            halves.append(sum(c * e for c, e in chosen) / (sum(e for _, e in chosen) + 1e-12))
        values.append(sum(halves) / len(halves))
    return sum(values) / len(values)


@pytest.mark.parametrize("source", ["teacher", "student", "target", "none"])
@pytest.mark.parametrize("class_wise", [True, False])
@pytest.mark.parametrize(("s", "eps"), [(0.5, 0.0), (1.0, 0.0), (0.25, 0.1)])
def test_every_rung_of_the_ladder_is_its_equations(scene, source, class_wise, s, eps):
    term = Distillation(smoothness=s, eps=eps, entropy=source, class_wise=class_wise)
    expected = distillation(scene.logits.detach(), scene.oracle, scene.label, None, s, eps, source, class_wise)
    assert scene.loss(term).item() == pytest.approx(expected)


@pytest.mark.parametrize("class_wise", [True, False])
def test_the_first_prediction_can_weigh_the_pixels_and_is_not_learnt_by_it(scene, class_wise):
    coarse = torch.randn_like(scene.logits).requires_grad_()
    term = Distillation(entropy="coarse", class_wise=class_wise)
    assert set(term.branches) == {"logits", "oracle", "coarse"}
    output = Branches(logits=scene.logits, oracle=scene.oracle, coarse=coarse)
    loss = term(output, Batch(image=scene.logits, label=scene.label, names=("a", "b")))
    fixed = (scene.logits.detach(), scene.oracle, scene.label, None)
    assert loss.item() == pytest.approx(distillation(*fixed, source="coarse", class_wise=class_wise, coarse=coarse))
    assert torch.autograd.grad(loss, coarse, allow_unused=True) == (None,)


@pytest.mark.parametrize("class_wise", [True, False])
@pytest.mark.parametrize("edges", ["map", "label"])
def test_boundary_and_interior_are_averaged_apart(large_scene, edges, class_wise):
    small = downsample_labels(large_scene.label, (16, 18))
    mask = edge_mask(small) if edges == "map" else edge_mask(large_scene.label)[:, ::2, ::2]
    assert mask.any()
    expected = distillation(large_scene.logits.detach(), large_scene.oracle, small, mask, class_wise=class_wise)
    found = large_scene.loss(Distillation(edges=edges, class_wise=class_wise))
    assert found.item() == pytest.approx(expected)


def test_neither_teacher_nor_entropy_is_learnt(scene):
    scene.oracle.requires_grad_()
    for source in ("teacher", "student", "target"):
        term = Distillation(entropy=source, class_wise=False)
        loss = scene.loss(term)
        gradient, none = torch.autograd.grad(loss, (scene.logits, scene.oracle), allow_unused=True)
        assert none is None
        # With weights held fixed the gradient at each pixel is some number times (softmax - target).
        one_hot = torch.nn.functional.one_hot(scene.label.clamp(max=3), 4).movedim(-1, 1)
        direction = (scene.logits.softmax(1) - (scene.oracle.softmax(1) + one_hot) / 2).detach()
        number = gradient[:, :1] / direction[:, :1]
        torch.testing.assert_close(gradient, number * direction)
        assert (number[~scene.void[:, None]] > 0).all()


def test_a_network_can_be_its_own_teacher(scene):
    own = Distillation(teacher="logits")
    assert own.branches == {"logits": None}
    expected = distillation(scene.logits.detach(), scene.logits.detach(), scene.label, None)
    assert scene.loss(own).item() == pytest.approx(expected)


def test_wrong_options_are_refused_by_name():
    for options in ({"smoothness": 1.5}, {"entropy": "both"}, {"edges": "yes"}, {"edge_size": 0}, {"eps": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Distillation(**options)
