"""Distances of planar transformations, and their derivatives where the plain formulas have none."""

from __future__ import annotations

import torch

from seglab.ops.transformations import angle_of, euclidean, geodesic, nearest_rotation


def turned(angle: float) -> torch.Tensor:
    cosine, sine = torch.tensor(angle, dtype=torch.float64).cos(), torch.tensor(angle, dtype=torch.float64).sin()
    zero, one = torch.zeros_like(sine), torch.ones_like(sine)
    rows = [torch.stack([cosine, -sine, zero]), torch.stack([sine, cosine, zero]), torch.stack([zero, zero, one])]
    return torch.stack(rows)[None]


def matrices(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.eye(3, dtype=torch.float64) + 0.3 * torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)


def test_a_rotation_is_its_own_nearest_one_and_its_distance_is_its_angle():
    rotation = turned(0.4)
    torch.testing.assert_close(nearest_rotation(rotation), rotation)
    torch.testing.assert_close(angle_of(rotation), torch.tensor([0.4], dtype=torch.float64))
    torch.testing.assert_close(geodesic(rotation), torch.tensor([0.4], dtype=torch.float64))
    torch.testing.assert_close(geodesic(turned(0.7), rotation), torch.tensor([0.3], dtype=torch.float64))


def test_no_rotation_is_nearer():
    m = matrices(5)
    rotation = nearest_rotation(m)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    assert (torch.linalg.det(rotation) > 0).all()
    distance = (m - rotation).square().sum((1, 2))
    for angle in (-0.02, 0.02):
        assert ((m - rotation @ turned(angle)).square().sum((1, 2)) > distance).all()


def test_derivatives_are_those_of_finite_differences_a_reflection_among_them():
    m = matrices(3)
    m[0] = m[0] @ torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    assert torch.autograd.gradcheck(nearest_rotation, m.requires_grad_())
    assert torch.autograd.gradcheck(geodesic, matrices(3).requires_grad_())
    assert torch.autograd.gradcheck(lambda x: geodesic(x, turned(0.2)), matrices(2).requires_grad_())


def test_at_the_identity_distances_are_0_and_derivatives_finite():
    identity = torch.eye(3)[None].clone().requires_grad_()
    zero = torch.zeros(1, 4, requires_grad=True)
    loss = geodesic(identity).sum() + euclidean(zero).sum()
    loss.backward()
    assert loss.item() < 1e-6
    assert identity.grad.isfinite().all()
    assert not zero.grad.any()


def test_the_length_is_exact():
    values = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    assert euclidean(values).tolist() == [5.0, 0.0]
