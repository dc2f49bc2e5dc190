from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from seglab.ops import bilinear
from seglab.ops.pixel_sums import CrossEntropy, pixel_sums
from seglab.ops.resize import add_resized, argmax, bands, downsample_labels, resize_argmax, resize_logits

SIZES = [((7, 9), (29, 31)), ((7, 9), (7, 31)), ((7, 9), (29, 9)), ((7, 9), (5, 4)), ((1, 1), (6, 5)), ((5, 4), (1, 1))]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), SIZES)
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_bands_of_rows_are_the_rows_of_one_resize(small, large, align_corners, rows, monkeypatch):
    monkeypatch.setattr(bilinear, "BAND", 3 * large[1] * rows)
    logits = torch.randn(2, 3, *small, dtype=torch.float64)
    whole = F.interpolate(logits, large, mode="bilinear", align_corners=align_corners)
    found = torch.full_like(whole, torch.nan)
    for image, own, y in bands(logits, large, align_corners):
        assert y.shape[0] == own.stop - own.start <= rows
        found[image, :, own] = y.transpose(0, 1)
    torch.testing.assert_close(found, whole)
    assert torch.equal(resize_argmax(logits, large, align_corners), whole.argmax(1))

    total = torch.randn_like(whole)
    for softmax, expected in ((False, total + whole), (True, total + whole.softmax(1))):
        added = total.clone()
        add_resized(added, logits, align_corners, softmax)
        torch.testing.assert_close(added, expected)


def test_wide_maps_are_stretched_in_blocks_of_columns(monkeypatch):
    monkeypatch.setattr(bilinear, "BLOCK", 5)
    logits = torch.randn(1, 2, 4, 13, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 2, 9, 31, dtype=torch.float64)
    whole = F.interpolate(logits, (9, 31), mode="bilinear")
    (expected,) = torch.autograd.grad((whole * weight).sum(), logits)
    bilinear.plan.cache_clear()
    resized = bilinear.Resized(logits, (9, 31), maps=1)
    for image, rows, y in resized.bands():
        torch.testing.assert_close(y, whole[image, :, rows].transpose(0, 1))
        resized.add(0, weight[image, :, rows].transpose(0, 1).contiguous())
    torch.testing.assert_close(resized.gradient(0), expected)
    bilinear.plan.cache_clear()


@pytest.mark.parametrize("classes", [1, 2, 19, 171, 300])
def test_the_first_of_several_largest_values_is_the_class(classes):
    y = torch.randint(-3, 3, (4, classes, 9)).float()
    expected = torch.from_numpy(y.numpy().argmax(1))
    assert torch.equal(argmax(y.clone()), expected)


def test_a_pixel_without_a_number_gets_a_class_that_exists():
    y = torch.zeros(1, 5, 3)
    y[0, 2, 1] = torch.nan
    assert 0 <= argmax(y)[0, 1] < 5


def test_what_an_evaluation_prepared_serves_training(monkeypatch):
    """A plan of inference tensors could not be used where gradients are computed."""
    bilinear.plan.cache_clear()
    logits = torch.randn(1, 3, 4, 4)
    with torch.inference_mode():
        resize_argmax(logits, (8, 8))
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    summed = CrossEntropy(label, torch.ones(1, 8, 8))
    ((loss,),) = pixel_sums(logits.requires_grad_(), (8, 8), [summed])
    loss.backward()
    assert logits.grad.abs().sum() > 0


def test_labels_come_from_the_pixel_at_floor_of_i_times_ratio():
    for (height, width), (h, w) in [((45, 30), (11, 8)), ((512, 512), (128, 128)), ((5, 4), (9, 8)), ((7, 7), (7, 7))]:
        label = torch.randint(0, 256, (2, height, width))
        rows, columns = torch.arange(h) * height // h, torch.arange(w) * width // w
        assert torch.equal(downsample_labels(label, (h, w)), label[:, rows][:, :, columns])


def test_logits_of_half_precision_are_resized_in_float32_and_float64_stays():
    assert resize_logits(torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16), (3, 3)).dtype == torch.float32
    assert resize_logits(torch.zeros(1, 1, 2, 2, dtype=torch.float64), (3, 3)).dtype == torch.float64
