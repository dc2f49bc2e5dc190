"""The confusion matrix against a loop, over batch splits and over processes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import multiprocessing
from torch._subclasses.fake_tensor import FakeTensorMode

from seglab.errors import DataError
from seglab.metrics import ConfusionMatrix, confusion_matrix, summarise
from seglab.types import IGNORE
from tests.seeing import seen

K = 6


def set_of_images(seed: int = 0, count: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at a quarter of the label's size; class 4 never occurs, 5 is only predicted, some are void."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, K, 6, 7, generator=generator)
    logits[:, 4] = -9.0
    label = torch.randint(4, (count, 23, 29), generator=generator)
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE
    return logits, label


def loop(predictions, labels) -> dict[str, float | list[float]]:
    """Everything once more, with plain integers and fractions."""
    true, labelled, predicted = [0] * K, [0] * K, [0] * K
    for prediction, label in zip(predictions.flatten().tolist(), labels.flatten().tolist(), strict=True):
        if label == IGNORE:
            continue
        labelled[label] += 1
        predicted[prediction] += 1
        true[label] += label == prediction

    def ratio(a, b):
        return a / b if b else math.nan

    def mean(values):
        known = [v for v in values if not math.isnan(v)]
        return math.fsum(known) / len(known)

    iou = [ratio(t, a + b - t) for t, a, b in zip(true, labelled, predicted, strict=True)]
    acc = [ratio(t, a) for t, a in zip(true, labelled, strict=True)]
    dice = [ratio(2 * t, a + b) for t, a, b in zip(true, labelled, predicted, strict=True)]
    frequency = [a / sum(labelled) for a in labelled]
    return {
        "IoU": iou,
        "Acc": acc,
        "Dice": dice,
        "mIoU": mean(iou),
        "mAcc": mean(acc),
        "mDice": mean(dice),
        "aAcc": sum(true) / sum(labelled),
        "fwIoU": math.fsum(f * i for f, i in zip(frequency, iou, strict=True) if f),
    }


def test_equals_an_independent_loop_to_1e_12():
    logits, label = set_of_images()
    metric = ConfusionMatrix(K)
    metric.update(seen(logits, label))
    results = metric.compute()
    resized = torch.nn.functional.interpolate(logits, size=label.shape[-2:], mode="bilinear", align_corners=False)
    for name, expected in loop(resized.argmax(1), label).items():
        assert results[name] == pytest.approx(expected, rel=0, abs=1e-12, nan_ok=True), name


def test_an_absent_class_is_left_out_and_a_class_that_is_only_predicted_counts_zero():
    matrix = torch.tensor([[3, 0, 1], [0, 0, 0], [0, 0, 0]])  # class 0 labelled, 2 only predicted, 1 absent
    results = summarise(matrix)
    assert results["classes"] == 2
    assert results["IoU"] == pytest.approx([0.75, math.nan, 0.0], nan_ok=True)
    assert results["mIoU"] == pytest.approx(0.375)
    assert results["Acc"] == pytest.approx([0.75, math.nan, math.nan], nan_ok=True)
    assert results["mAcc"] == 0.75
    assert math.isnan(results["Fscore"][2])


def test_a_set_without_a_labelled_pixel_has_no_number():
    metric = ConfusionMatrix(K)
    metric.update(seen(torch.randn(1, K, 2, 2), torch.full((1, 4, 4), IGNORE)))
    results = metric.compute()
    assert math.isnan(results["mIoU"])
    assert results["classes"] == 0


def test_predictions_on_void_pixels_change_nothing():
    logits, label = set_of_images()
    prediction = logits.new_zeros(label.shape, dtype=torch.int64)
    other = prediction.masked_fill(label == IGNORE, 3)
    assert torch.equal(confusion_matrix(prediction, label, K), confusion_matrix(other, label, K))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_size_gives_the_same_matrix(batch):
    logits, label = set_of_images()
    whole, parts = ConfusionMatrix(K), ConfusionMatrix(K)
    whole.update(seen(logits, label))
    for start in range(0, 5, batch):
        parts.update(seen(logits[start : start + batch], label[start : start + batch]))
    assert torch.equal(whole.matrix, parts.matrix)
    assert whole.compute()["mIoU"] == parts.compute()["mIoU"]


def test_images_of_many_sizes_add_up():
    metric, total = ConfusionMatrix(3), 0
    for height, width in pairwise([5, 8, 13, 21]):
        metric.update(seen(torch.randn(1, 3, 2, 2), torch.randint(3, (1, height, width))))
        total += height * width
    assert metric.compute()["matrix"].sum() == total


def test_counts_beyond_float32_stay_exact():
    metric = ConfusionMatrix(1)
    metric.matrix += 2**24
    metric.update(seen(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64)))
    assert metric.matrix.item() == 2**24 + 1
    assert metric.matrix.dtype == torch.int64


def test_an_illegal_label_is_named_and_not_counted_as_another_class():
    with pytest.raises(DataError, match=r"label id 7 .* 0\.\.5 or 255"):
        confusion_matrix(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 7), K)
    metric = ConfusionMatrix(K)
    metric.update(seen(torch.randn(1, K, 2, 2), torch.full((1, 2, 2), 7)))
    metric.update(seen(torch.randn(1, K, 2, 2), torch.full((1, 2, 2), IGNORE)))
    assert metric.matrix.sum() == 0
    with pytest.raises(DataError, match=r"label id 7 .* 0\.\.5 or 255"):
        metric.compute()


def test_no_update_waits_for_a_number():
    """Tensors without data: anything that asks for a value or a data-dependent shape fails."""
    metric, scores = ConfusionMatrix(K), torch.randn(1, K, 4, 4)
    label = torch.zeros(1, 16, 16, dtype=torch.int64)
    metric.update(seen(scores, label))  # how maps of these sizes are resized is worked out once, on the CPU
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    metric.reset()
    with mode:
        metric.update(seen(mode.from_tensor(scores), mode.from_tensor(label)))


def rank(rank: int, world: int, address: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    logits, label = set_of_images()
    metric, alone = ConfusionMatrix(K), ConfusionMatrix(K)
    for i in range(rank, len(label), world):  # 3 and 2 images: nothing is padded
        metric.update(seen(logits[i : i + 1], label[i : i + 1]))
    alone.sync_on_compute = False
    alone.update(seen(logits, label))
    assert metric.compute()["mIoU"] == alone.compute()["mIoU"]
    assert torch.equal(metric.compute()["matrix"], alone.matrix)
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_number_of_one(tmp_path):
    # Forked, because importing torch twice takes longer than all other tests together.
    multiprocessing.start_processes(rank, (2, f"file://{tmp_path / 'store'}"), nprocs=2, start_method="fork")
