"""Costs are measured side by side, and counted where module hooks do not look."""

from __future__ import annotations

import json
import statistics

import pytest
import torch
from PIL import Image

from seglab import benchmark, timing
from seglab.losses import CrossEntropy
from seglab.losses.plain import PlainCrossEntropy
from tests.commands import run

NET = ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]
SMALL = ["--size", "64", "64", "--classes", "7", "--batch", "2", "--rounds", "2", "--warmup", "1"]


@pytest.fixture(scope="module")
def measured():
    """The variants of a command line, and what they cost."""
    found = benchmark.variants(["classifier=linear,cac", *NET], "torch")
    tasks = {each.name: each.task(7) for each in found}
    optimizers = {each.name: each.optimizer(tasks[each.name]) for each in found}
    batch = timing.random_batch((64, 64), 2, 7, torch.device("cpu"))
    before = {name: task.model.classifier.conv.weight.clone() for name, task in tasks.items()}
    costs = timing.measure(tasks, batch, rounds=2, warmup=1, optimizers=optimizers)
    return tasks, before, batch, costs


def test_every_combination_becomes_a_variant_named_by_what_varies():
    made = benchmark.expand(["classifier=linear,cac", "backbone=resnet18"])
    assert made == {
        "classifier=linear": ["classifier=linear", "backbone=resnet18"],
        "classifier=cac": ["classifier=cac", "backbone=resnet18"],
    }
    assert list(benchmark.expand(["seed=1"])) == ["network"]


def test_matrix_products_of_the_classifier_are_counted(measured):
    costs = measured[-1]
    K, C, N = 7, 16, 16 * 16
    extra = costs["classifier=cac"].gflops - costs["classifier=linear"].gflops
    # Context and cosine, a product of K x N x C each, and the projector 2C -> C/2 -> C for every class.
    assert extra * 1e9 == pytest.approx(2 * (2 * K * N * C + K * (2 * C * C // 2 + C // 2 * C)))
    assert costs["classifier=cac"].parameters - costs["classifier=linear"].parameters == 2 * (3 * C * C // 2 + C)


def test_a_training_step_is_the_sum_of_its_parts_and_moves_the_weights(measured):
    tasks, before, _, costs = measured
    for name, cost in costs.items():
        assert list(cost.parts) == ["normalise", "backbone", "decoder", "classifier", "losses", "backward", "optimiser"]
        assert all(len(times) == 2 and min(times) > 0 for times in cost.parts.values()), name
        assert cost.step == pytest.approx([sum(each) for each in zip(*cost.parts.values(), strict=True)])
        assert not torch.equal(tasks[name].model.classifier.conv.weight, before[name])


def test_the_plain_head_has_the_same_value_and_gradients(measured):
    tasks, _, batch, _ = measured
    task = tasks["torch"].eval()
    found = []
    for term in (PlainCrossEntropy(), CrossEntropy()):
        loss = term(task.output(batch), batch)
        found.append((loss, *torch.autograd.grad(loss, list(task.model.classifier.parameters()))))
    torch.testing.assert_close(*found)


def test_a_ratio_is_taken_within_a_round():
    assert timing.ratio([2.0, 20.0, 4.0], [1.0, 10.0, 4.0]) == 2


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (10, 8), (20, 17), (3, 2)])
def test_nine_tenths_are_not_above_the_percentile(count, expected):
    assert benchmark.percentile([float(i) for i in range(count)][::-1], 0.9) == expected


def test_the_command_prints_what_it_keeps(tmp_path):
    kept, drawn = tmp_path / "costs.json", tmp_path / "parts.png"
    typed = ["classifier=linear,cac", *NET, *SMALL, "--against", "torch", "--json", str(kept), "--image", str(drawn)]
    done = run(*typed, cwd=tmp_path, module="seglab.benchmark")
    rows = json.loads(kept.read_text())["variants"]
    assert [row["variant"] for row in rows] == ["torch", "classifier=linear", "classifier=cac"]
    for row in rows:
        assert f"{row['step_ms']:.1f}" in done.stdout
        assert row["latency_p90_ms"] >= row["latency_ms"]
    assert rows[0]["step_ratio"] == rows[0]["latency_ratio"] == 1
    assert Image.open(drawn).size[0] > 500


@pytest.mark.slow
def test_the_peak_of_a_step_is_that_of_the_logits_it_holds():
    """Measured in a process of its own: of 512x512 logits of 60 classes PyTorch holds two copies at least."""
    typed = ["classifier=linear", *NET, "--size", "512", "512", "--classes", "60", "--against", "torch"]
    peaks = [benchmark.peak_apart(name, typed) for name in ("torch", "network")]
    if None in peaks:
        pytest.skip("this system does not say how much memory a process had")
    whole = 60 * 512 * 512 * 4 / 2**20
    assert peaks[0] > 2 * whole
    assert peaks[0] - peaks[1] > whole


def test_times_are_medians_of_the_rounds():
    cost = timing.Measurement(10, 0.5, [1.0, 2.0, 9.0], [4.0, 5.0, 6.0], [3.0, 3.0, 3.0], {"losses": [1.0, 2.0, 3.0]})
    (row,) = benchmark.records({"a": cost}, batch=10)
    assert row["latency_ms"] == 1000 * statistics.median(cost.single)
    assert row["images_per_s"] == 2
    assert row["parts_ms"] == {"losses": 2000}
