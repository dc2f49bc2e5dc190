"""docs/results.md is what the records say, and a record is what its run said."""

from __future__ import annotations

import json
import statistics
import sys

import pytest

from seglab import benchmark
from seglab.report import table as tables
from seglab.report.collect import collect
from tests.pages import ROOT, script
from tests.report import synthetic

results = script("results")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A sweep with three seeds, and its records in a study."""
    sweep = synthetic.structure(tmp_path / "sweep")
    (tmp_path / "sweep/variant=all,seed=1/status.json").write_text('{"status": "running"}')
    records = tmp_path / "records"
    monkeypatch.setattr(results, "FOLDER", records)
    results.keep(sweep, "structure")
    return sweep, records


def test_the_page_is_what_its_template_makes_of_the_records():
    assert results.page() == results.PAGE.read_text()


def test_every_finished_run_is_kept_once(kept):
    sweep, records = kept
    names = {path.name for path in (records / "structure").iterdir()}
    assert len(names) == 3 * len(synthetic.STRUCTURE) - 1
    assert {"SEPA+Lg+Lsd-2.json", "all-0.json", "all-2.json"} <= names
    assert results.keep(sweep, "structure") == []


def test_a_table_of_the_records_is_that_of_the_runs(kept):
    sweep, _ = kept
    theirs = tables.make(collect(sweep)).rows
    study = results.Study("structure", list(synthetic.STRUCTURE), baseline="baseline")
    assert [row.values for row in study.table().rows] == [row.values for row in theirs]
    assert [row.p_holm for row in study.table().rows] == pytest.approx([row.p_holm for row in theirs])
    assert "| baseline |" in study.markdown()
    assert study.spread("SPPA") == f"{100 * theirs[2].mean:.2f} ± {100 * theirs[2].sd:.2f}"


def test_rows_are_taken_in_order_and_can_be_named(kept):
    study = results.Study("structure", {"all": "SSA", "baseline": "linear"})
    assert [row.choice["row"] for row in study.table().rows] == ["SSA", "linear"]
    assert "difference" not in study.markdown()
    with pytest.raises(SystemExit, match="no record of nothing — there are SEPA"):
        results.Study("structure", ["nothing"])


def test_classes_are_means_over_seeds_and_gains_over_the_baseline(kept):
    sweep, _ = kept
    study = results.Study("structure", ["baseline", "SEPA"], baseline="baseline")
    values = {
        row: statistics.fmean(json.loads((sweep / f"variant={folder},seed={seed}/metrics.json").read_text())["test/IoU"][0] for seed in range(3))
        for row, folder in (("baseline", "baseline"), ("SEPA", "SEPA"))
    }  # fmt: skip
    road = next(line for line in study.classes().splitlines() if line.startswith("| road"))
    gain = 100 * (values["SEPA"] - values["baseline"])
    assert road == f"| road | {100 * values['baseline']:.1f} | {100 * values['SEPA']:.1f} | {gain:+.1f} |".replace(
        "-", "−"
    )


def test_a_study_can_be_unpacked_for_the_report(kept, tmp_path):
    results.unpack("structure", tmp_path / "again")
    found = collect(tmp_path / "again")
    assert len(found.runs) == 3 * len(synthetic.STRUCTURE) - 1
    assert sorted(found.factors["row"]) == sorted(synthetic.STRUCTURE)
    assert found.runs[0].classes() == synthetic.CLASSES


def test_a_record_does_not_say_where_it_was_made(tmp_path, compose, monkeypatch):
    from seglab.train import fit
    from tests.conftest import SMALL_NET, TINY

    run = tmp_path / "study/small-7"
    chosen = [*TINY, *SMALL_NET, "seed=7", "data.num_workers=0"]
    config = compose("train", [*chosen, f"run_dir={run}"])
    config["data"]["root"] = str(tmp_path)
    fit(config, run, [*chosen, f"data.root={tmp_path}"])
    monkeypatch.setattr(results, "FOLDER", tmp_path / "records")
    (path,) = results.keep(tmp_path / "study", "here")
    assert path.name == "small-7.json"
    text = path.read_text()
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert (record["row"], record["seed"]) == ("small", 7)
    assert record["files"]["config.yaml"]["data"]["root"] == "ROOT"
    assert record["files"]["provenance.json"]["machine"]["processor"]
    assert "seed=7" in record["files"]["overrides.txt"]


def test_costs_are_those_of_the_benchmarks_file_and_come_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    (tmp_path / "costs").mkdir()
    command = ["benchmark", "classifier=linear,cac", "backbone.name=test_resnet.r160_in1k", "decoder.width=16",
               "--size", "64", "64", "--classes", "7", "--rounds", "1", "--warmup", "0",
               "--json", str(tmp_path / "costs/small.json")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    kept = json.loads((tmp_path / "costs/small.json").read_text())
    text = results.costs("small")
    assert "python -m seglab.benchmark classifier=linear,cac backbone.name=" in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["classifier=linear", "classifier=cac"]
    for row, cost in zip(rows[2:], kept["variants"], strict=True):
        assert dict(zip(rows[0][1:], row[1:], strict=True)) == {
            "parameters, M": f"{cost['parameters'] / 1e6:.2f}",
            "GFLOPs an image": f"{cost['gflops']:.2f}",
            "latency, ms": f"{cost['latency_ms']:.2f}",
            "ratio": f"{cost['latency_ratio']:.2f}",
            "training step, ms": f"{cost['step_ms']:.2f}",
            "its ratio": f"{cost['step_ratio']:.2f}",
        }


@pytest.mark.parametrize("same", [True, False])
def test_check_fails_where_the_page_differs(same, monkeypatch, tmp_path):
    page = tmp_path / "results.md"
    page.write_text(results.page() if same else "# Results\n")
    monkeypatch.setattr(results, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["results.py", "check"])
    if same:
        results.main()
    else:
        with pytest.raises(SystemExit, match=r"results\.py write"):
            results.main()


def test_no_record_in_the_repository_names_a_place_on_a_machine():
    for path in (ROOT / "docs/results").rglob("*.json"):
        text = path.read_text()
        assert not any(part in text for part in ('"/', "=/", "file:")), path


def test_a_figure_shows_the_gains_over_the_baseline(kept):
    study = results.Study("structure", list(synthetic.STRUCTURE), baseline="baseline")
    series = {"adapted": [(0, study, "SEPA"), (1, study, "SPPA"), (2, study, "all")]}
    text = results.draw_gains("gain.png", series, "what is adapted", ticks=["SEPA", "SPPA", "all"])
    assert text == "![what is adapted: gain over linear](records/gain.png)"
    (bars,) = results.FIGURES.pop("gain.png").axes[0].containers
    shown = bars.lines[0].get_ydata()
    expected = [100 * study.row(name).difference for name in ("SEPA", "SPPA", "all")]
    assert list(shown) == pytest.approx(expected)


def test_rows_along_an_axis_are_compared_with_the_baseline_at_the_same_place(tmp_path, monkeypatch):
    effect = {"linear": 0.0, "cac": 0.01, "ssa": 0.02}
    jobs = [{"row": f"{c}_{f}", "seed": s} for c in effect for f in (0.5, 1.0) for s in (0, 1)]
    jobs.append({"row": "linear_0.5", "seed": 7})  # nothing is compared with it
    sweep = synthetic.write(tmp_path / "s", jobs, lambda job: effect[job["row"].partition("_")[0]] + float(job["row"].partition("_")[2]) / 10, {"title": "t"})  # fmt: skip
    monkeypatch.setattr(results, "FOLDER", tmp_path / "records")
    results.keep(sweep, "parts")
    series = results.along("parts", [0.5, 1.0], {"cac": "CAC", "ssa": "SSA"})
    assert [(x, row) for x, _, row in series["SSA"]] == [(0.5, "ssa_0.5"), (1.0, "ssa_1.0")]
    table = [line.strip("| ").split(" | ") for line in results.grid_along("part", [0.5, 1.0], series).splitlines()]
    assert table[0] == ["part", "linear", "CAC", "gain", "SSA", "gain"]

    def mean(row: str) -> float:
        return statistics.fmean(
            json.loads((sweep / f"row={row},seed={seed}/metrics.json").read_text())["test/mIoU"] for seed in (0, 1)
        )

    for cells, part in zip(table[2:], (0.5, 1.0), strict=True):
        gain = 100 * (mean(f"ssa_{part}") - mean(f"linear_{part}"))
        assert cells[0] == str(part)
        assert float(cells[5].partition(" ± ")[0].replace("−", "-")) == pytest.approx(gain, abs=0.006)


def test_what_has_no_record_yet_is_left_out_of_the_page(kept):
    assert results.has("structure", "SEPA", "all")
    assert not results.has("structure", "SEPA", "nothing")
    assert not results.has("unheard")
