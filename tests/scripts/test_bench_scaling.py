"""The model of step times, and what two processes measure."""

import json
import subprocess
import sys

import pytest

from tests.pages import ROOT, script

SMALL = [
    "--sizes", "32x32,64x64", "--classes", "3", "--batch", "2", "--steps", "2", "--unit", "1000",
    "--", "backbone.name=test_resnet.r160_in1k", "decoder.width=16", "classifier=cac",
]  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    return script("bench_scaling")


def test_the_model_goes_through_the_two_cases_that_it_is_made_of_and_adds_the_exchange(bench):
    model = bench.Model.of((1e9, 0.3), (4e9, 0.9))
    assert model.seconds(1e9, 0) == pytest.approx(0.3)
    assert model.seconds(4e9, 0.2) == pytest.approx(1.1)
    assert model.seconds(2e9, 0) == pytest.approx(0.5)


def test_twice_the_pixels_are_twice_the_operations(bench):
    shape = {"classes": 3, "overrides": ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]}
    small, large = (bench.flops({**shape, "size": size}) for size in ((64, 64), (64, 128)))
    assert large == pytest.approx(2 * small, rel=0.01)


@pytest.mark.slow
def test_every_case_has_a_line_and_shares_hold_less():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/bench_scaling.py"), "--processes", "1,2", *SMALL],
        capture_output=True,
        text=True,
        check=True,
    )
    one, _, ddp, _, fsdp, _ = sorted(
        map(json.loads, done.stdout.splitlines()), key=lambda x: (x["processes"], x["strategy"])
    )
    assert [line["strategy"] for line in (one, ddp, fsdp)] == ["ddp", "ddp", "fsdp"]
    assert one["calibrates"]
    assert ddp["predicted_s"] > ddp["exchange_s"] > 0
    assert ddp["state_mib"] == one["state_mib"]
    assert fsdp["state_mib"] == pytest.approx(ddp["state_mib"] / 2, rel=0.05)
