"""The cases run on a CPU; the losses that are compared are the same numbers."""

import json
import sys

import pytest
import torch

from tests.pages import script

SMALL = [
    "--device", "cpu", "--size", "64", "64", "--classes", "5", "--batch", "2", "--steps", "1",
    "--", "backbone=resnet18", "backbone.name=test_resnet.r160_in1k", "backbone.drop_path_rate=null", "decoder.width=16",
]  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    return script("bench_gpu")


def run(bench, monkeypatch, capsys, *arguments) -> list[dict]:
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *arguments, *SMALL])
    bench.main()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_every_case_has_a_line_and_the_largest_batch_is_searched(bench, monkeypatch, capsys):
    found = run(bench, monkeypatch, capsys, "--choices", "float32,fused optimiser", "--largest", "--most", "2")
    assert [line["case"] for line in found[:3]] == ["float32", "fused optimiser", "gradient checkpointing"]
    assert [line["largest_batch"] for line in found[3:]] == [2, 2, 2, 2]


def test_losses_at_the_size_of_the_labels_have_the_values_and_gradients_of_seglabs(bench, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *SMALL])
    args = bench.parse()
    seen = []
    for at_full_size in (False, True):
        torch.manual_seed(0)
        with bench.losses(at_full_size):
            training = bench.Training([], args, 2)
            torch.manual_seed(1)
            losses = training.task.losses(training.batch, 0)
            losses.total.backward()
        seen.append((losses.parts, {n: p.grad for n, p in training.task.named_parameters() if p.grad is not None}))
    for own, whole in zip(*seen, strict=True):
        torch.testing.assert_close(own, whole, rtol=1e-3, atol=1e-5)


def test_a_gpu_that_is_not_there_is_named(bench, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cpu"):
        bench.main()
