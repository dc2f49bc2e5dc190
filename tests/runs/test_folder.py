"""The run folder explains the run, belongs to it alone, and says how it ended."""

import json
import os
import signal
import socket
import subprocess

import pytest
import torch
import yaml

from seglab.errors import ConfigError, DataError
from seglab.runs.folder import RunFolder
from seglab.runs.signals import Interrupted, Preempted


def status(folder):
    return json.loads((folder / "status.json").read_text())


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (None, "done", 0),
        (DataError("no such file"), "failed", 2),
        (ValueError("bug"), "failed", 1),
        (Preempted(), "preempted", 143),
        (Interrupted(), "interrupted", 130),
        (KeyboardInterrupt(), "interrupted", 130),
        (SystemExit(3), "failed", 3),
    ],
)
def test_the_status_agrees_with_the_way_the_run_ends(tmp_path, error, expected, code):
    def body():
        with RunFolder(tmp_path):
            assert status(tmp_path)["status"] == "running"
            if error is not None:
                raise error

    if error is None:
        body()
    else:
        with pytest.raises(type(error)):
            body()
    written = status(tmp_path)
    assert (written["status"], written["exit_code"]) == (expected, code)
    assert (written["error"] is not None) == (expected == "failed")


def test_a_second_run_in_the_folder_is_refused_and_the_first_not_disturbed(tmp_path):
    with RunFolder(tmp_path):
        with pytest.raises(ConfigError, match=rf"process {os.getpid()} on {socket.gethostname()}.*hydra\.run\.dir"):
            RunFolder(tmp_path).__enter__()
        assert status(tmp_path)["status"] == "running"
    with RunFolder(tmp_path):
        pass


def test_leftovers_of_a_killed_writer_are_cleaned_at_the_next_start(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    leftover = tmp_path / "checkpoints/.last.ckpt.123.tmp"
    leftover.write_bytes(b"half")
    with RunFolder(tmp_path):
        assert not leftover.exists()


def test_sigterm_outside_training_also_ends_in_order(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, RunFolder(tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143
    assert status(tmp_path)["status"] == "preempted"
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_folder_holds_what_was_asked_for_and_what_it_ran_on(tmp_path, monkeypatch):
    repo, out = tmp_path / "repo", tmp_path / "out"
    repo.mkdir()
    monkeypatch.chdir(repo)
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name, raising=False)
    (repo / "model.py").write_text("width = 1\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    config = {"seed": 7, "optim": {"lr": 1e-3, "betas": [0.9, 0.999]}, "note": "mIoU ≥ 0.5"}
    with RunFolder(out) as folder:
        folder.describe(config, ["classifier=ssa", "seed=7"], 7, "abc")
    assert yaml.safe_load((out / "config.yaml").read_text()) == config
    assert (out / "overrides.txt").read_text().split() == ["classifier=ssa", "seed=7"]
    clean = json.loads((out / "provenance.json").read_text())
    assert clean["git"]["dirty"] is False
    assert clean["versions"]["torch"] == torch.__version__.split("+")[0] or clean["versions"]["torch"]
    assert (clean["seed"], clean["data"], clean["host"]) == (7, "abc", socket.gethostname())
    assert not (out / "git.diff").exists()

    (repo / "model.py").write_text("width = 2\n")
    with RunFolder(out) as folder:
        folder.describe(config, [], 7, "abc")
    dirty = json.loads((out / "provenance.json").read_text())
    assert dirty["git"] == {**clean["git"], "dirty": True}
    assert "+width = 2" in (out / "git.diff").read_text()
    assert [start["started"] for start in dirty["earlier"]] == [clean["started"]]


def test_data_that_changed_under_a_resumed_run_is_mentioned(tmp_path, caplog):
    with RunFolder(tmp_path) as folder:
        folder.describe({}, [], 0, "abc")
        folder.describe({}, [], 0, "abc")
        assert not caplog.records
        folder.describe({}, [], 0, "xyz")
    assert "data" in caplog.text


def test_metrics_are_plain_json_and_are_added_to(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_metrics({"val/mIoU": torch.tensor(0.5), "val/IoU": [0.5, float("nan")]})
        folder.write_metrics({"test/mIoU": 0.25, "test/matrix": torch.eye(2, dtype=torch.int64)})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {
        "val/mIoU": 0.5,
        "val/IoU": [0.5, None],
        "test/mIoU": 0.25,
        "test/matrix": [[1, 0], [0, 1]],
    }


@pytest.mark.parametrize("environment", [{"RANK": "1"}, {"LOCAL_RANK": "1"}, {"SLURM_PROCID": "3"}, {"NODE_RANK": "1"}])
def test_only_the_main_process_writes(tmp_path, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with RunFolder(tmp_path / "run") as folder:
        folder.describe({}, [], 0)
        folder.write_metrics({"test/mIoU": 1.0})
    assert not (tmp_path / "run").exists()
    assert Preempted().code == 0
