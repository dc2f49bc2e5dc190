"""The model of step times, and what two processes measure."""

import json
import sys

import pytest

from tests.pages import script

SMALL = [
    "--sizes", "32x32", "--classes", "3", "--batch", "2", "--steps", "2", "--unit", "1000",
    "--", "backbone.name=test_resnet.r160_in1k", "decoder.width=16", "classifier=cac",
]  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    return script("bench_scaling")


def case(**changed):
    return {"processes": 1, "strategy": "ddp", "batch": 4, "flops": 2e9, **changed}


def test_one_process_takes_three_forward_passes_and_several_their_exchange_too(bench):
    found = {"all_reduce_s": 0.5}
    assert bench.predicted(case(), found, 8e9) == pytest.approx(3.0)
    assert bench.predicted(case(processes=2), found, 8e9) == pytest.approx(3.5)
    assert bench.predicted(case(processes=2, strategy="fsdp"), found, 8e9) == pytest.approx(3.75)


def test_twice_the_pixels_are_twice_the_operations(bench):
    shape = {"classes": 3, "overrides": ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]}
    small, large = (bench.flops({**shape, "size": size}) for size in ((64, 64), (64, 128)))
    assert large == pytest.approx(2 * small, rel=0.01)


@pytest.mark.slow
def test_every_case_has_a_line_and_shares_hold_less(bench, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench_scaling.py", "--processes", "1,2", *SMALL])
    bench.main()
    one, ddp, fsdp = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [line["strategy"] for line in (one, ddp, fsdp)] == ["ddp", "ddp", "fsdp"]
    assert one["predicted_s"] == one["step_s"]
    assert ddp["state_mib"] == one["state_mib"]
    assert fsdp["state_mib"] == pytest.approx(ddp["state_mib"] / 2, rel=0.05)
