"""One pass against the slow and obvious twin: the formulas written down, the gradient by autograd."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from seglab.ops import soft_cross_entropy as module
from seglab.ops.soft_cross_entropy import Entropy, soft_cross_entropy

ENTROPIES = get_args(Entropy)


def twin(r: Tensor, u: Tensor, true: Tensor, s: float, eps: float, entropy: str) -> tuple[Tensor, Tensor]:
    classes = r.shape[1]
    one_hot = torch.nn.functional.one_hot(true, classes).movedim(-1, 1)
    q = u.softmax(1)
    mixed = s * q + (1 - s) * one_hot
    t = mixed * (1 - eps) + (1 - mixed) * eps / max(classes - 1, 1)
    x = {"teacher": q, "student": r.detach().softmax(1), "target": mixed}.get(entropy)
    e = torch.ones_like(r[:, 0]) if x is None else -(x * (x + 1e-12).log()).sum(1)
    return -(t * r.log_softmax(1)).sum(1), e


def given(classes: int, images: int = 2, size: tuple[int, int] = (5, 7)) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(classes)
    r = (3 * torch.randn(images, classes, *size, dtype=torch.float64)).requires_grad_()
    return r, 3 * torch.randn_like(r).detach(), torch.randint(classes, (images, *size))


@pytest.mark.parametrize("entropy", ENTROPIES)
@pytest.mark.parametrize(("s", "eps"), [(0.5, 0.0), (0.3, 0.1), (0.0, 0.0), (1.0, 0.2)])
@pytest.mark.parametrize(("classes", "images"), [(1, 1), (2, 2), (19, 1), (171, 2)])
def test_values_and_gradients_are_the_twins(entropy, s, eps, classes, images, monkeypatch):
    monkeypatch.setattr(module, "IN_CACHE", 11 * classes)  # bands that do not divide the map
    r, u, true = given(classes, images)
    upstream = torch.rand(images, 5, 7, dtype=torch.float64)
    found, wanted = soft_cross_entropy(r, u, true, s, eps, entropy), twin(r, u, true, s, eps, entropy)
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad((pair[0] * pair[1].detach() * upstream).sum(), r)[0] for pair in (found, wanted)]
    torch.testing.assert_close(*gradients)


def test_the_gradient_is_that_of_finite_differences():
    r, u, true = given(4, size=(2, 3))
    assert torch.autograd.gradcheck(lambda x: soft_cross_entropy(x, u, true, 0.4, 0.1, "teacher")[0], r)


def test_nothing_flows_to_the_teacher_nor_through_the_weight():
    r, u, true = given(3)
    c, e = soft_cross_entropy(r, u.requires_grad_(), true, 0.5, 0.0, "student")
    assert not e.requires_grad
    assert torch.autograd.grad(c.sum(), u, allow_unused=True) == (None,)


def test_certainty_is_finite():
    r = torch.tensor([[[[200.0]], [[-200.0]]]], requires_grad=True)
    for entropy in ENTROPIES:
        c, e = soft_cross_entropy(r, r, torch.ones(1, 1, 1, dtype=torch.long), 0.5, 0.0, entropy)
        (gradient,) = torch.autograd.grad((c * e).sum(), r)
        assert torch.isfinite(torch.cat([c.flatten(), e.flatten(), gradient.flatten()])).all()
