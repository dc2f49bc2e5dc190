from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from seglab.ops import resize
from seglab.ops.resize import downsample_labels, map_rows, resize_argmax, resize_logits

SIZES = [((7, 9), (29, 31)), ((7, 9), (7, 31)), ((7, 9), (29, 9)), ((7, 9), (5, 4)), ((1, 1), (6, 5)), ((5, 4), (1, 1))]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_bands_of_rows_make_the_map_that_one_resize_makes(small, large, align_corners, monkeypatch):
    logits = torch.randn(2, 3, *small, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, *large, dtype=torch.float64)
    whole = F.interpolate(logits, large, mode="bilinear", align_corners=align_corners)
    (expected,) = torch.autograd.grad((whole * weight).sum(), logits)

    monkeypatch.setattr(resize, "BAND", 2 * 3 * large[1] * 2)
    bands = map_rows(lambda x, rows: x * weight[:, :, rows], logits, large, align_corners)
    assert len(bands) == (large[0] + 1) // 2
    (actual,) = torch.autograd.grad(torch.cat(bands, 2).sum(), logits)
    torch.testing.assert_close(torch.cat(bands, 2), whole * weight)
    torch.testing.assert_close(actual, expected)
    assert torch.equal(resize_argmax(logits, large, align_corners), whole.argmax(1))


def test_bands_are_not_kept_for_the_backward_pass(monkeypatch):
    monkeypatch.setattr(resize, "BAND", 8 * 64)
    logits = torch.randn(1, 8, 4, 4, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        torch.stack(map_rows(lambda x, _: x.exp().sum(), logits, (64, 64))).sum()
    assert max(kept, default=0) < 8 * 64


def test_labels_come_from_the_pixel_at_floor_of_i_times_ratio():
    for (height, width), (h, w) in [((45, 30), (11, 8)), ((512, 512), (128, 128)), ((5, 4), (9, 8)), ((7, 7), (7, 7))]:
        label = torch.randint(0, 256, (2, height, width))
        rows, columns = torch.arange(h) * height // h, torch.arange(w) * width // w
        assert torch.equal(downsample_labels(label, (h, w)), label[:, rows][:, :, columns])


def test_logits_of_half_precision_are_resized_in_float32_and_float64_stays():
    assert resize_logits(torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16), (3, 3)).dtype == torch.float32
    assert resize_logits(torch.zeros(1, 1, 2, 2, dtype=torch.float64), (3, 3)).dtype == torch.float64
