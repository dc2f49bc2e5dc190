"""What a frame costs: counted and measured in every way of adapting to a video."""

from __future__ import annotations

import json

import pytest

from seglab import adaptation, benchmark
from tests.commands import run

BIG = ["backbone=resnet18", "decoder=fpn"]
SMALL = "backbone.name=test_resnet.r160_in1k decoder.width=16"


@pytest.fixture(scope="module")
def measured():
    main, aux = (benchmark.Variant("", typed).task(5) for typed in (BIG, SMALL.split()))
    ways = adaptation.refinements(main, aux)
    return adaptation.measure(main, ways, (64, 64), rounds=2)


def test_flops_are_those_of_the_passes_that_are_made(measured):
    costs = measured
    alone = costs["main"].gflops
    small = costs["frozen ensemble"].gflops - alone
    assert 0 < small < 0.3 * alone
    # A backward pass takes two products for each of the forward one, but for the first layer, whose input needs no gradient.
    learning = costs["AuxAdapt"].gflops - alone
    assert 2.5 * small < learning < 3.05 * small
    assert 2.5 * alone < costs["adapting main"].gflops < 3.01 * alone
    assert 1.5 * alone < costs["tent"].gflops < 3.01 * alone, "gradients pass through, but not to the convolutions"
    assert costs["tent"].gflops < costs["adapting main"].gflops


def test_9_auxadapt_takes_less_than_adapting_main(measured):
    rows = adaptation.records(measured)
    assert [row["variant"] for row in rows] == list(adaptation.WAYS)
    assert rows[0]["overhead_gflops"] == rows[0]["overhead_ms"] == 0
    reduced = adaptation.reduction(rows)
    by_name = {row["variant"]: row for row in rows}
    assert reduced["overhead_gflops"] == pytest.approx(
        by_name["adapting main"]["overhead_gflops"] / by_name["AuxAdapt"]["overhead_gflops"]
    )
    assert reduced["overhead_gflops"] > 3


def test_the_command_keeps_what_it_prints(tmp_path):
    kept = tmp_path / "costs.json"
    small = ["--size", "64", "64", "--classes", "5", "--rounds", "1", "--warmup", "0", "--json", str(kept)]
    chosen = ["--aux", SMALL, "--refine", "predictor.refine.resolution=scores"]
    done = run(*SMALL.split(), *chosen, *small, cwd=tmp_path, module="seglab.benchmark")
    found = json.loads(kept.read_text())
    for row in found["variants"]:
        assert f"{row['frame_ms']:.2f}" in done.stdout
    assert found["overhead_reduction"]["overhead_gflops"] > 0
    several = run("classifier=linear,cac", *chosen, *small, cwd=tmp_path, module="seglab.benchmark", check=False)
    assert several.returncode == 2
    assert "expected one main network" in several.stderr
