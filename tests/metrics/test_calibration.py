"""NLL and ECE against a loop and against constructed cases."""

from __future__ import annotations

import math

import pytest
import torch

from seglab.metrics import Calibration
from seglab.types import IGNORE
from tests.seeing import seen

K = 4


def images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(3, K, 5, 6, generator=generator)
    label = torch.randint(K, (3, 11, 13), generator=generator)
    label[:, :2] = IGNORE
    return logits, label


def loop(logits, label, bins: int) -> tuple[float, float]:
    logits = torch.nn.functional.interpolate(logits, size=label.shape[-2:], mode="bilinear", align_corners=False)
    probabilities = logits.softmax(1).permute(0, 2, 3, 1).reshape(-1, K).tolist()
    rows = [(p, t) for p, t in zip(probabilities, label.flatten().tolist(), strict=True) if t != IGNORE]
    nll = -sum(math.log(p[t]) for p, t in rows) / len(rows)
    ece = 0.0
    for b in range(bins):
        inside = [(max(p), p.index(max(p)) == t) for p, t in rows if b / bins < max(p) <= (b + 1) / bins]
        if inside:
            ece += abs(sum(right for _, right in inside) - sum(c for c, _ in inside)) / len(rows)
    return nll, ece


@pytest.mark.parametrize("bins", [5, 15])
def test_equals_a_loop_over_pixels(bins):
    logits, label = images()
    metric = Calibration(K, bins=bins)
    metric.update(seen(logits, label))
    results = metric.compute()
    nll, ece = loop(logits, label, bins)
    assert results["NLL"] == pytest.approx(nll, rel=1e-5)
    assert results["ECE"] == pytest.approx(ece, rel=1e-5)
    assert sum(results["reliability"]["count"]) == (label != IGNORE).sum()


def test_uniform_logits_cost_log_k_and_certainty_that_is_right_costs_nothing():
    label = torch.randint(K, (1, 8, 8))
    flat = Calibration(K)
    flat.update(seen(torch.zeros(1, K, 8, 8), label))
    assert flat.compute()["NLL"] == pytest.approx(math.log(K))
    sure = Calibration(K)
    sure.update(seen(100 * torch.nn.functional.one_hot(label, K).permute(0, 3, 1, 2).float(), label))
    assert sure.compute()["NLL"] == pytest.approx(0, abs=1e-6)
    assert sure.compute()["ECE"] == pytest.approx(0, abs=1e-6)


def test_confident_errors_are_the_calibration_error():
    wrong = torch.zeros(1, 2, 4, 4)
    wrong[:, 1] = 100
    metric = Calibration(2)
    metric.update(seen(wrong, torch.zeros(1, 4, 4, dtype=torch.int64)))
    assert metric.compute()["ECE"] == pytest.approx(1)


def test_log_probabilities_serve_as_logits():
    logits, label = images()
    a, b = Calibration(K), Calibration(K)
    resized = torch.nn.functional.interpolate(logits, size=label.shape[-2:], mode="bilinear")
    a.update(seen(resized, label))
    b.update(seen(resized.log_softmax(1), label))
    assert a.compute()["NLL"] == pytest.approx(b.compute()["NLL"], rel=1e-6)


def test_any_batch_split_gives_the_same_number_and_an_all_void_image_counts_nothing():
    logits, label = images()
    whole, parts = Calibration(K), Calibration(K)
    whole.update(seen(logits, label))
    for i in range(3):
        parts.update(seen(logits[i : i + 1], label[i : i + 1]))
    parts.update(seen(logits[:1], torch.full_like(label[:1], IGNORE)))
    assert whole.compute()["ECE"] == pytest.approx(parts.compute()["ECE"], rel=1e-12)
    assert whole.compute()["NLL"] == pytest.approx(parts.compute()["NLL"], rel=1e-12)
