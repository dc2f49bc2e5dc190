"""Evaluation rules against the reference files ``eval_*``."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from seglab.data.augment import choose_window
from seglab.inference import Protocol, infer, mean_probability
from seglab.metrics import ConfusionMatrix
from tests.seeing import seen

MEANS = {"IoU": "mIoU", "Acc": "mAcc", "Dice": "mDice"}


def tolerance(sidecar) -> float:
    return float(re.match(r"[\d.e+-]+", sidecar["tolerance"]).group())


@pytest.mark.golden("eval_metrics_*")
def test_metrics_of_the_whole_set(golden):
    golden.understand("num_classes", "images", "expected", "tolerance")
    classes, expected = golden.sidecar["num_classes"], golden.sidecar["expected"]
    metric = ConfusionMatrix(classes)
    for i in range(golden.sidecar["images"]):
        prediction, label = golden.tensors[f"pred.{i}"], golden.tensors[f"label.{i}"]
        metric.update(seen(F.one_hot(prediction, classes).permute(2, 0, 1)[None].float(), label[None]))
    results = metric.compute()

    relative = tolerance(golden.sidecar)
    assert results["aAcc"] == pytest.approx(expected["aAcc"], rel=relative)
    for name in ("IoU", "Acc", "Dice", "Precision", "Recall", "Fscore"):
        per_class = [float("nan") if value is None else value for value in expected[name]]
        assert results[name] == pytest.approx(per_class, rel=relative, nan_ok=True), name
        mean = torch.tensor(results[name], dtype=torch.float64).nanmean().item()
        assert mean == pytest.approx(expected["mean"][name], rel=relative), name
        if name in MEANS:
            assert results[MEANS[name]] == mean


@pytest.mark.golden("eval_slide_*")
@pytest.mark.parametrize("window_batch", [1, 5])
def test_sliding_window(golden, window_batch):
    golden.understand("crop", "stride", "tolerance")
    weight, image = golden.tensors["weight"], golden.tensors["image"]

    def network(x):
        logits = 3 * torch.tanh(F.conv2d(x, weight, stride=4, padding=3))
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)

    window, stride = golden.sidecar["crop"], golden.sidecar["stride"]
    protocol = Protocol(mode="slide", window=window, stride=stride, window_batch=window_batch)
    size = tuple(image.shape[-2:])
    allowed = tolerance(golden.sidecar)
    torch.testing.assert_close(infer(network, image, protocol, size), golden.tensors["logits"], atol=allowed, rtol=0)
    torch.testing.assert_close(infer(network, image, Protocol(), size), golden.tensors["whole"], atol=allowed, rtol=0)


@pytest.mark.golden("eval_tta_*")
def test_mean_over_scales_and_flips(golden):
    golden.understand("original_size", "flipped", "tolerance")
    size = tuple(golden.sidecar["original_size"])
    flipped = golden.sidecar["flipped"]
    views = [golden.tensors[f"view.{i}"][None] for i in range(len(flipped))]
    unflipped = [view.flip(-1) if mirrored else view for view, mirrored in zip(views, flipped, strict=True)]
    probability = mean_probability(unflipped, size, Protocol())[0]
    torch.testing.assert_close(probability, golden.tensors["probability"], atol=tolerance(golden.sidecar), rtol=0)
    assert torch.equal(probability.argmax(0), golden.tensors["prediction"])

    if flipped == [False, True] * (len(flipped) // 2):  # what one protocol can ask for: every scale and its mirror
        answers = iter(views)
        protocol = Protocol(ratios=[1.0] * (len(flipped) // 2), flip=True)
        scores = infer(lambda image: next(answers), torch.zeros(1, 3, *size), protocol, size)[0]
        torch.testing.assert_close(scores.exp(), probability)
        assert torch.equal(scores.argmax(0), golden.tensors["prediction"])


@pytest.mark.golden("eval_resize_*")
def test_sizes_of_the_keep_ratio_rule(golden):
    golden.understand("rows")
    for row in golden.sidecar["rows"]:
        assert row.keys() == {"image_wh", "scale", "ratio", "resized_wh", "multiple_of_32_wh"}
        width, height = row["image_wh"]
        protocol = Protocol(long_short=row["scale"], ratios=[row["ratio"]], divisor=32)
        ((kept, multiple),) = protocol.sizes((height, width))
        assert [*reversed(kept)] == row["resized_wh"], row
        assert [*reversed(multiple)] == row["multiple_of_32_wh"], row


@pytest.mark.golden("aug_crop_*")
def test_the_window_taken_is_that_of_the_published_rule(golden):
    golden.understand("crop", "cat_max_ratio", "accepted")
    facts, tensors = golden.sidecar, golden.tensors
    crop = tuple(facts["crop"])
    for i, accepted in enumerate(facts["accepted"]):
        label = tensors[f"label.{i}"].numpy().astype(np.uint8)
        offsets = [(int(top), int(left)) for top, left in tensors[f"offset.{i}"]]
        retries = len(offsets) - 1
        windows = {(top, left): label[top : top + crop[0], left : left + crop[1]] for top, left in offsets}
        number, offset = choose_window(windows.__getitem__, offsets, facts["cat_max_ratio"], retries)
        assert (number, offset) == (accepted, offsets[accepted]), f"case {i}"
