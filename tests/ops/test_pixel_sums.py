"""One pass against the slow and obvious twin: resize everything, write the loss down, let autograd find the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.ops import bilinear
from seglab.ops.pixel_sums import CrossEntropy, Dice, Masks, PixelSum, pixel_sums
from seglab.types import IGNORE

SIZES = [((3, 4), (13, 9)), ((5, 7), (5, 7)), ((9, 8), (4, 3)), ((1, 1), (6, 5)), ((4, 5), (4, 11)), ((4, 5), (9, 5))]


@dataclass
class Twin:
    """A sum and what it should be, of logits [B, K, H, W]."""

    fast: PixelSum
    slow: Callable[[Tensor], list[Tensor]]


def weighted(label: Tensor, classes: int, smoothing: float = 0.0) -> Twin:
    generator = torch.Generator().manual_seed(1)
    valid = label != IGNORE
    pixel = torch.rand(label.shape, generator=generator, dtype=torch.float64) * valid
    smooth = (
        torch.rand(label.shape, generator=generator, dtype=torch.float64) * valid * smoothing if smoothing else None
    )
    factors = torch.rand(classes, generator=generator, dtype=torch.float64) if smoothing else None

    def slow(y: Tensor) -> list[Tensor]:
        log_p = y.log_softmax(1)
        loss = F.nll_loss(log_p, label, ignore_index=IGNORE, reduction="none") * pixel
        if smooth is not None:
            loss = loss - (log_p * factors[:, None, None]).sum(1) * smooth
        return [loss.sum()]

    return Twin(CrossEntropy(label, pixel, smooth, factors), slow)


def masks(label: Tensor, classes: int) -> Tensor:
    return torch.stack([label == k for k in range(classes)], 1).double()


def dice(label: Tensor, classes: int, ignore_void: bool = False) -> Twin:
    def slow(y: Tensor) -> list[Tensor]:
        p = y.sigmoid()
        seen = (label != IGNORE)[:, None] if ignore_void else 1
        return [(p * masks(label, classes)).sum((2, 3)), (p * seen).sum((2, 3))]

    return Twin(Dice(label, ignore_void), slow)


def any_functions(label: Tensor, classes: int, ignore_void: bool = False) -> Twin:
    functions = [lambda y, g: (y - g) ** 2, lambda y, g: y.sin() * g]

    def slow(y: Tensor) -> list[Tensor]:
        seen = (label != IGNORE)[:, None] if ignore_void else 1
        return [(f(y, masks(label, classes)) * seen).sum((2, 3)) for f in functions]

    return Twin(Masks(functions, label, ignore_void), slow)


KINDS = {
    "cross entropy": weighted,
    "smoothed cross entropy": lambda *a: weighted(*a, smoothing=0.3),
    "dice": dice,
    "dice without void": lambda *a: dice(*a, ignore_void=True),
    "masks": any_functions,
    "masks without void": lambda *a: any_functions(*a, ignore_void=True),
}


def labels(batch: int, classes: int, size: tuple[int, int], void: float = 0.2) -> Tensor:
    label = torch.randint(classes, (batch, *size))
    return label.masked_fill(torch.rand(label.shape) < void, IGNORE)


def agree(logits: Tensor, size: tuple[int, int], twins: list[Twin], align_corners: bool = False) -> None:
    """Values and gradients of a random combination of all sums are equal."""
    logits = logits.requires_grad_()
    fast = [x for found in pixel_sums(logits, size, [t.fast for t in twins], align_corners) for x in found]
    y = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    slow = [x for twin in twins for x in twin.slow(y)]
    torch.testing.assert_close(fast, slow)
    factors = [torch.randn_like(x) for x in slow]
    gradients = [
        torch.autograd.grad(sum((f * x).sum() for f, x in zip(factors, found, strict=True)), logits)[0]
        for found in (fast, slow)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_values_and_gradients_are_those_of_the_whole_map(kind, small, large, align_corners, monkeypatch):
    monkeypatch.setattr(bilinear, "BAND", 4 * large[1] * 2)
    torch.manual_seed(0)
    label = labels(2, 4, large)
    agree(torch.randn(2, 4, *small, dtype=torch.float64) * 3, large, [KINDS[kind](label, 4)], align_corners)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [1, 2, 171])
def test_any_number_of_classes_and_a_batch_of_one(kind, classes):
    torch.manual_seed(0)
    label = labels(1, classes, (11, 10))
    agree(torch.randn(1, classes, 3, 4, dtype=torch.float64), (11, 10), [KINDS[kind](label, classes)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("void", [0.0, 1.0])
def test_void_nowhere_and_everywhere(kind, void):
    torch.manual_seed(0)
    label = labels(2, 3, (7, 6), void)
    agree(torch.randn(2, 3, 3, 4, dtype=torch.float64), (7, 6), [KINDS[kind](label, 3)])


def test_all_kinds_share_a_pass_in_any_order():
    torch.manual_seed(0)
    label = labels(2, 4, (9, 13))
    twins = [make(label, 4) for make in KINDS.values()]
    logits = torch.randn(2, 4, 4, 5, dtype=torch.float64)
    agree(logits, (9, 13), twins)
    agree(logits, (9, 13), twins[::-1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_finite_differences(kind):
    torch.manual_seed(0)
    label = labels(2, 3, (7, 6))
    twin = KINDS[kind](label, 3)
    logits = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pixel_sums(x, (7, 6), [twin.fast])[0], logits)


def test_large_logits_stay_finite_and_a_void_pixel_may_hold_anything():
    label = torch.tensor([[[0, IGNORE], [1, 1]]])
    logits = torch.tensor([[[[300.0, -torch.inf], [-300, 0]], [[-300.0, 1.0], [300, 1]]]], requires_grad=True)
    ((loss,),) = pixel_sums(logits, (2, 2), [CrossEntropy(label, (label != IGNORE).float())])
    loss.backward()
    assert loss.item() == pytest.approx(torch.tensor([0.0, 1.0]).logsumexp(0).item() - 1, abs=1e-6)
    assert logits.grad.isfinite().all()


def test_nothing_larger_than_a_band_is_kept_for_the_backward_pass(monkeypatch):
    monkeypatch.setattr(bilinear, "BAND", 8 * 64 * 2)
    logits = torch.randn(1, 8, 4, 4, dtype=torch.float64, requires_grad=True)
    label = labels(1, 8, (64, 64))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        pixel_sums(logits, (64, 64), [weighted(label, 8).fast, dice(label, 8).fast])
    assert kept == [logits.numel()] * 3, "one map of the logits' own size for each sum"


def test_no_gradient_is_computed_where_none_is_wanted():
    label = labels(1, 3, (8, 8))
    seen = []
    twin = Masks([lambda y, g: seen.append(y.requires_grad) or y], label, False)
    with torch.no_grad():
        pixel_sums(torch.randn(1, 3, 4, 4, requires_grad=True), (8, 8), [twin])
    pixel_sums(torch.randn(1, 3, 4, 4), (8, 8), [twin])
    assert not any(seen)


def test_a_graph_may_be_gone_through_twice():
    label = labels(2, 3, (8, 8))
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    ((loss,),) = pixel_sums(logits, (8, 8), [CrossEntropy(label, (label != IGNORE).float())])
    first = torch.autograd.grad(2 * loss, logits, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0] * 2, first)
