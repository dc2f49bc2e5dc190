"""What a sweep's folder says of its jobs."""

import json
import os

import pytest

from seglab.multirun import job, record
from seglab.runs.folder import RunFolder
from seglab.scores import Score


def make(folder, name, metrics=True, **status):
    path = folder / name
    path.mkdir(parents=True)
    (path / "status.json").write_text(json.dumps(status))
    if metrics:
        (path / "metrics.json").write_text('{"best/mIoU": 0.5}')
    return path


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("done", "done"), ("pruned", "done"), ("failed", "failed"), ("preempted", "stopped"), ("interrupted", "stopped"),
        ("running", "stopped"),
    ],
)  # fmt: skip
def test_a_state_follows_from_the_status(said, state, tmp_path):
    assert record.state(make(tmp_path, "a", status=said)) == state


def test_nothing_there_is_new_and_done_without_metrics_is_not_done(tmp_path):
    assert record.state(tmp_path / "nowhere") == "new"
    assert record.state(make(tmp_path, "a", metrics=False, status="done")) == "failed"
    corrupt = make(tmp_path, "b", status="done")
    (corrupt / "metrics.json").write_text("{")
    assert record.state(corrupt) == "failed"


def test_a_corrupt_status_beside_checkpoints_means_stopped(tmp_path):
    path = make(tmp_path, "a", status="done")
    (path / "status.json").write_text('{"status": "do')
    (path / "checkpoints").mkdir()
    assert record.state(path) == "stopped"


def test_a_folder_in_use_is_running_and_one_of_a_dead_process_is_stopped(tmp_path):
    with RunFolder(tmp_path / "a"):
        assert record.state(tmp_path / "a") == "running"
    path = make(tmp_path, "b", status="running")
    (path / ".lock").write_text(json.dumps({"pid": 2**22 + 1, "host": os.uname().nodename}))
    assert record.state(path) == "stopped"


def plan(folder, names, **about):
    record.write(folder, about, {name: {"factors": {"tau": n}, "overrides": []} for n, name in enumerate(names)})


def test_the_time_left_follows_from_the_jobs_that_are_done(tmp_path):
    plan(tmp_path, "abcd")
    assert record.seconds_left(tmp_path, ["c"], 1) is None
    make(tmp_path, "a", status="done", seconds=100)
    make(tmp_path, "b", status="interrupted", seconds=30, step=75, max_steps=100)
    assert record.seconds_left(tmp_path, ["b", "c", "d"], 1) == pytest.approx(225)
    assert record.seconds_left(tmp_path, ["b", "c", "d"], 2) == pytest.approx(112.5)


def test_jobs_of_earlier_commands_stay_unless_the_same_choices_now_mean_another_run(tmp_path):
    record.write(tmp_path, {}, {"a-1": {"factors": {"tau": 1}}, "b-1": {"factors": {"tau": 2}}})
    for name in ("a-1", "b-1"):
        (tmp_path / name).mkdir()
    record.write(tmp_path, {"title": "t"}, {"b-2": {"factors": {"tau": 2}}, "c-1": {"factors": {"tau": 3}}})
    assert list(record.read(tmp_path)["jobs"]) == ["a-1", "b-2", "c-1"]
    assert record.factors_of(tmp_path / "c-1") == {"tau": 3}
    assert record.factors_of(tmp_path / "b-1") == {}


def test_the_best_job_counts_unfinished_ones_too(tmp_path):
    plan(tmp_path, "ab")
    assert record.best(tmp_path) is None
    make(tmp_path, "a", status="done", best={"val/mIoU": 0.3, "step": 900})
    make(tmp_path, "b", status="running", best={"val/mIoU": 0.4, "step": 200})
    assert record.best(tmp_path) == (0.4, "b", "val/mIoU", Score("mIoU", "max", "percent"))


def test_of_losses_the_best_is_the_smallest(tmp_path):
    plan(tmp_path, "ab")
    for name, value in (("a", 0.3), ("b", 0.4)):
        make(tmp_path, name, status="done", best={"val/loss": value, "step": 9, "mode": "min"})
    assert record.best(tmp_path) == (0.3, "a", "val/loss", Score("loss", "min"))


def test_a_status_of_today_has_the_direction_and_the_unit(tmp_path):
    plan(tmp_path, "ab")
    for name, value in (("a", 0.3), ("b", 0.4)):
        best = {"val/error": value, "step": 9, "mode": "min", "name": "error", "unit": "percent"}
        make(tmp_path, name, status="done", best=best)
    assert record.best(tmp_path) == (0.3, "a", "val/error", Score("error", "min", "percent"))
    assert "best error 30.00 %" in job.standing(tmp_path)


def test_nothing_is_the_best_of_jobs_that_monitor_different_scores(tmp_path):
    plan(tmp_path, "ab")
    make(tmp_path, "a", status="done", best={"val/loss": 0.3, "step": 9, "mode": "min"})
    make(tmp_path, "b", status="done", best={"val/mIoU": 0.4, "step": 9, "mode": "max"})
    assert record.best(tmp_path) is None
    assert "best" not in job.standing(tmp_path)


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (125.4, "2:05"), (3723, "1:02:03")])
def test_durations_read_like_a_clock(seconds, text):
    assert record.clock(seconds) == text
