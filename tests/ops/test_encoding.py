"""The encoding layer against the residuals written out, one for each pair of pixel and codeword."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seglab.errors import ConfigError
from seglab.ops.encoding import Encoding, encode


def slow_twin(x: torch.Tensor, codewords: torch.Tensor, smoothing: torch.Tensor) -> torch.Tensor:
    """The definition, with [B, N, K, C] residuals."""
    pixels = x.flatten(2).transpose(1, 2)
    residuals = pixels[:, :, None] - codewords
    assignment = (smoothing * residuals.square().sum(-1)).softmax(-1)
    return (assignment[..., None] * residuals).sum(1)


def inputs(shape: tuple[int, ...], codewords: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(shape) + codewords)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    words = torch.randn(codewords, shape[1], generator=generator, dtype=torch.float64)
    factors = -torch.rand(codewords, generator=generator, dtype=torch.float64)
    return [tensor.to(dtype).requires_grad_() for tensor in (x, words, factors)]


@pytest.mark.parametrize("codewords", [1, 2, 7, 32])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 1), (3, 8, 1, 9)], ids=str)
def test_values_and_gradients_are_those_of_the_residuals_written_out(shape, codewords):
    given = inputs(shape, codewords)
    found, expected = encode(*given), slow_twin(*given)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-11)
    seed = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, given, seed), torch.autograd.grad(expected, given, seed), strict=True
    ):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("codewords", [1, 3])
def test_gradients_are_those_of_finite_differences(codewords):
    assert torch.autograd.gradcheck(encode, inputs((2, 2, 3, 1), codewords))


def test_smoothing_factors_of_zero_and_above_have_finite_gradients():
    x, codewords, _ = inputs((1, 3, 4, 4), 3)
    smoothing = torch.tensor([0.0, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(encode, [x, codewords, smoothing])


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return made


def test_nothing_larger_than_the_map_or_the_assignment_is_made_forward_or_backward():
    B, C, K, N = 2, 6, 4, 35
    given = inputs((B, C, 5, 7), K)
    with Largest() as fast:
        encode(*given).sum().backward()
    with Largest() as slow:
        slow_twin(*given).sum().backward()
    assert fast.elements <= B * N * max(C, K)
    assert slow.elements == B * N * K * C, "the measure sees the tensor where there is one"


def test_in_float32_it_is_as_exact_as_the_residuals_written_out():
    exact = slow_twin(*inputs((2, 64, 15, 20), 32))
    found = encode(*inputs((2, 64, 15, 20), 32, torch.float32))
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 2e-5 * exact.abs().max()


def test_under_autocast_it_is_computed_in_float32():
    x, codewords, smoothing = (tensor.detach() for tensor in inputs((2, 8, 6, 5), 4, torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encode(x.bfloat16(), codewords, smoothing)
    assert torch.equal(found, encode(x.bfloat16().float(), codewords, smoothing))
    assert encode(x.bfloat16(), codewords.bfloat16(), smoothing.bfloat16()).dtype == torch.bfloat16


def test_codewords_and_factors_begin_in_the_published_ranges():
    layer = Encoding(16, 25)
    assert layer.codewords.abs().max() <= 1 / 20
    assert layer.codewords.std() > 0.4 / 20
    assert -1 <= layer.smoothing.min() < layer.smoothing.max() <= 0


def test_noise_in_place_of_factors_is_drawn_in_training_only_and_learns_nothing():
    layer = Encoding(4, 3, noise=True)
    assert [name for name, _ in layer.named_parameters()] == ["codewords"]
    x = torch.randn(2, 4, 3, 3)
    drawn = layer.factors()
    assert -1 <= drawn.min() <= drawn.max() <= 0
    assert not torch.equal(drawn, layer.factors())
    layer.eval()
    assert torch.equal(layer(x), encode(x, layer.codewords, torch.full((3,), -0.5)))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("codewords", [0, -1])
def test_fewer_than_one_codeword_are_refused(codewords):
    with pytest.raises(ConfigError, match=f"codewords={codewords} — expected 1 or more"):
        Encoding(4, codewords)
