"""What is compared is the same problem: the plain head's loss and gradients are those of the linear classifier."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from tests.pages import script

SMALL = [
    "--batch",
    "1",
    "--classes",
    "9",
    "--channels",
    "16",
    "--map",
    "4",
    "4",
    "--labels",
    "32",
    "32",
    "--rounds",
    "1",
]


@pytest.fixture(scope="module", name="script")
def heads():
    return script("bench_heads")


def test_every_kind_has_a_line(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_heads.py", "--kinds", "plain,linear,ssa", "--per-image", "5", *SMALL])
    monkeypatch.setattr(script, "peak_apart", lambda kind, per_image: 8.0 if kind == "plain" else 2.0)
    script.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["per_image"], row["kind"]) for row in rows] == [(5, kind) for kind in ("plain", "linear", "ssa")]
    for row in rows:
        assert (row["cpu_ratio"] == 1) == (row["kind"] == "plain")
        assert row["peak_ratio"] == (1 if row["kind"] == "plain" else 0.25)


def test_several_numbers_of_classes_are_measured_in_a_process_each(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench_heads.py", "--kinds", "linear", "--per-image", "2,5", *SMALL])
    started = []
    monkeypatch.setattr(script.subprocess, "run", lambda command, check: started.append(command))
    script.main()
    assert [command[-2:] for command in started] == [["--per-image", "2"], ["--per-image", "5"]]


def test_labels_have_as_many_classes_as_asked_for_and_some_void(script):
    args = script.argparse.Namespace(batch=3, classes=20, labels=(256, 256), device="cpu")
    for image in script.labels(args, 5):
        assert len(image.unique()) == 6
        assert image.max() == 255


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm_", "products"),
        ("aten::convolution_backward", "products"),
        ("aten::exp_", "exponentials"),
        ("aten::_softmax", "exponentials"),
        ("aten::scatter_add_", "picking"),
        ("aten::add_", "element-wise and sums"),
    ],
)
def test_operations_are_sorted_by_what_limits_them(script, name, kind):
    assert script.family(name) == kind


def test_the_evaluation_script_counts_what_torchmetrics_counts():
    module = script("bench_evaluation")
    found = {}
    for way in module.WAYS:
        work, matrix = module.work_of(way, 5, 64, 96, 8)
        work()
        found[way] = matrix()
    assert torch.equal(found["torch"], found["seglab"])
