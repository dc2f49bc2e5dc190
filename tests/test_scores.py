"""Scores and the record of a run: how keys are read, and what stands in for a record that is not there."""

import json
import subprocess
import sys

import pytest

from seglab.runs.folder import RunFolder
from seglab.scores import EARLIER, FILE, Known, Score, best_of, recorded

ERROR = Score("top1_error", "min", "percent")
DISTANCE = Score("distance", "min", "m")


@pytest.fixture
def folder(tmp_path):
    """A run folder with the record of a classification."""
    with RunFolder(tmp_path / "run") as run:
        run.write_scores(ERROR, {score.name: score for score in (ERROR, DISTANCE, Score("loss", "min"))})
    return tmp_path / "run"


def test_a_value_is_written_with_its_unit():
    assert ERROR.text(0.3521) == "35.21 %"
    assert DISTANCE.text(1.25) == "1.25 m"
    assert Score("loss", "min").text(0.48213) == "0.4821"


def test_the_direction_decides_what_is_better_and_best():
    assert ERROR.better(0.1, 0.2)
    assert not Score("mIoU").better(0.1, 0.2)
    assert (ERROR.best([0.3, 0.1, 0.2]), Score("mIoU").best([0.3, 0.1])) == (0.1, 0.3)


def test_what_a_run_wrote_is_read_again(folder):
    known = Known.of_run(folder)
    assert known.headline == ERROR
    assert known.find("val/distance") == DISTANCE
    assert known.find("test/mIoU") is None, "a run with a record has nothing of earlier versions"
    assert known.score("test/mine") == Score("test/mine", "max", "")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("test/mIoU", "mIoU"), ("mIoU", "mIoU"), ("val/loss", "loss"), ("best/NLL", "NLL"), ("best/train/loss", "loss"),
        ("ECE/tau_5", "ECE"), ("val/ECE/tau_5", "ECE"), ("val/IoU/road", "IoU"), ("test-oracle/mIoU", "mIoU"),
        ("parameters", None), ("val/miou", None),
    ],
)  # fmt: skip
def test_a_key_is_stage_name_and_detail(key, name):
    found = EARLIER.find(key)
    assert (found and found.name) == name


def test_loss_terms_of_the_configuration_are_better_when_lower(tmp_path, folder):
    for run in (folder, tmp_path / "none"):
        known = Known.of_run(run, {"loss": {"gt": {}, "distill": {}}})
        assert known.find("val/distill") == Score("distill", "min")


@pytest.mark.parametrize(
    "text",
    [
        None, "", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "headline": {}, "scores": {}}',
        '{"format": 1, "headline": {"name": "a", "direction": "up", "unit": ""}, "scores": {}}',
        '{"format": 1, "headline": {"name": "a", "direction": "max", "unit": ""}, "scores": {"b": 3}}',
    ],
)  # fmt: skip
def test_without_a_record_that_can_be_read_a_run_is_about_miou(tmp_path, text):
    if text is not None:
        (tmp_path / FILE).write_text(text)
    assert recorded(tmp_path) is None
    known = Known.of_run(tmp_path)
    assert known.headline == Score("mIoU", "max", "percent")
    assert known.find("val/ECE") == Score("ECE", "min", "percent")


def test_an_earlier_runs_mode_is_the_direction_of_a_value_that_nothing_is_known_of(tmp_path):
    config = {"callbacks": {"checkpoints": {"monitor": "val/mine", "mode": "min"}}}
    assert Known.of_run(tmp_path, config).find("best/mine") == Score("mine", "min")
    config["callbacks"]["checkpoints"]["monitor"] = "val/mIoU"
    assert Known.of_run(tmp_path, config).find("val/mIoU").direction == "max"


def test_the_best_of_a_run_is_under_the_name_of_its_monitor():
    assert best_of({"val/loss": 1.0, "best/loss": 0.5}) == 0.5
    assert best_of({"val/loss": 1.0}) is None


def test_scores_and_run_folders_need_no_torch(folder):
    code = f"""import sys
from seglab.multirun import plan, record
from seglab.report import table
from seglab.runs.folder import RunFolder
from seglab.scores import Known
assert Known.of_run({json.dumps(str(folder))}).headline.lower
print("torch" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
