"""The table over runs counts what is finished and names what is not."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "scripts/summarise.py"


def made(folder: Path, classifier: str, value: float | None, status: str = "done") -> Path:
    folder.mkdir(parents=True)
    times = {"started": "2026-01-01T10:00:00+0000", "ended": "2026-01-01T10:01:40+0000"}
    (folder / "status.json").write_text(json.dumps({"status": status, **times}))
    (folder / "metrics.json").write_text(json.dumps({"test/mIoU": value, "val/mIoU": 0.5, "parameters": 1_500_000}))
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"classifier": {"_target_": f"seglab.classifiers.{classifier}"}})
    )
    return folder


def table(monkeypatch, capsys, *arguments) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["summarise", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_mean_and_sample_deviation_over_the_runs_of_a_choice(tmp_path, monkeypatch, capsys):
    for seed, value in enumerate((0.30, 0.32, 0.34)):
        made(tmp_path / f"cac{seed}", "CAC", value)
    made(tmp_path / "linear", "Linear", 0.31)
    out, _ = table(monkeypatch, capsys, tmp_path)
    assert "| CAC | 32.00 ± 2.00 | 3 (30.00, 32.00, 34.00) | 1.50 M | 100 |" in out
    assert "| Linear | 31.00 | 1 (31.00) |" in out
    assert out.index("Linear") < out.index("CAC")


def test_what_is_not_finished_or_has_no_such_metric_is_named_and_left_out(tmp_path, monkeypatch, capsys):
    made(tmp_path / "good", "SSA", 0.4)
    made(tmp_path / "running", "SSA", 0.1, status="running")
    made(tmp_path / "untested", "SSA", None)
    out, err = table(monkeypatch, capsys, tmp_path)
    assert "40.00 | 1 (40.00)" in out
    assert "running, not done" in err
    assert "untested" in err
    assert "val/mIoU" in err


def test_a_folder_without_runs_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="no finished run"):
        table(monkeypatch, capsys, tmp_path)
