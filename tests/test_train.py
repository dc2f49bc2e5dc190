"""The main job, run as a user runs it: seconds of training on the embedded scenes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from seglab.errors import ConfigError
from seglab.train import check_one_folder, fit
from tests.commands import run, run_apart
from tests.conftest import tiny

TINY = [
    "data.dataset.size=[48,64]", "augment.long_short=null", "augment.crop=[48,64]", "data.batch_size=4", "data.num_workers=0",
    "data.dataset.lengths={train: 24, val: 3, test: 5}",
    "backbone.name=test_resnet.r160_in1k", "decoder.width=16",
    "trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def ssa_run(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("ssa")
    done = run("classifier=ssa", "heads=fcn", *TINY, "hydra.run.dir=run", cwd=cwd)
    return cwd, cwd / "run", done


def test_a_run_leaves_everything_that_explains_it(ssa_run):
    _, folder, done = ssa_run
    for name in ["config.yaml", "overrides.txt", "provenance.json", "status.json", "metrics.json"]:
        assert (folder / name).is_file(), name
    assert (folder / "checkpoints/last.ckpt").is_file()
    assert (folder / "checkpoints/best.ckpt").is_file()
    assert list((folder / "images").glob("*.png"))
    assert str(folder) in done.stdout or "run folder: " in done.stdout
    assert "classifier=ssa" in (folder / "overrides.txt").read_text()
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "done"
    assert status["exit_code"] == 0


def test_metrics_hold_the_mean_and_the_classes(ssa_run):
    metrics = json.loads((ssa_run[1] / "metrics.json").read_text())
    known = [v for v in metrics["test/IoU"] if v is not None]
    assert metrics["test/mIoU"] == pytest.approx(sum(known) / len(known), abs=1e-9)
    assert len(known) == metrics["test/classes"]


def test_every_term_is_logged_unweighted_under_its_name(ssa_run):
    import csv

    rows = list(csv.DictReader((ssa_run[1] / "metrics.csv").open()))
    for term in ["main", "coarse", "gt", "dice", "dice_gt", "distill", "semantic", "spatial", "aux"]:
        assert f"train/{term}" in rows[0], rows[0].keys()
        assert f"val/{term}" in rows[0]
    assert "val/loss" in rows[0]
    assert "val/mIoU" in rows[0]


def test_the_checkpoint_is_evaluated_to_the_same_number_and_predicts_alone(ssa_run):
    cwd, folder, _ = ssa_run
    run("ckpt=run/checkpoints/last.ckpt", "output=evaluated", cwd=cwd, module="seglab.evaluate")
    again = json.loads((cwd / "evaluated/metrics.json").read_text())
    first = json.loads((folder / "metrics.json").read_text())
    assert again["test/mIoU"] == pytest.approx(first["test/mIoU"], abs=1e-12)
    from PIL import Image

    (cwd / "in").mkdir(exist_ok=True)
    Image.new("RGB", (70, 50), (90, 120, 30)).save(cwd / "in/a.png")
    run("ckpt=run/checkpoints/last.ckpt", "source=in", "output=out", cwd=cwd, module="seglab.predict")
    assert any(Image.open(p).size == (70, 50) for p in (cwd / "out").rglob("a*.png"))


@pytest.mark.parametrize("off", ["loss.semantic.weight=0", "~loss.semantic"])
def test_a_term_that_is_off_is_not_computed(off, tmp_path):
    fit(tiny(tmp_path / "run", "classifier=ssa", off, "trainer.max_steps=1", "test=null"), tmp_path / "run")
    header = (tmp_path / "run/metrics.csv").read_text().splitlines()[0].split(",")
    assert "train/distill" in header
    assert "train/semantic" not in header


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("whole")
    run("classifier=cac", *TINY, "trainer.max_steps=7", "test=null", "hydra.run.dir=run", cwd=cwd)
    return final_weights(cwd / "run")


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_resumed_run_ends_with_the_same_bits(uninterrupted, tmp_path, workers):
    common = ["classifier=cac", *TINY, "test=null", "hydra.run.dir=run", f"data.num_workers={workers}"]
    # The schedule's length is part of the run: the first part stops early by a signal, not by a shorter schedule.
    stop = "+callbacks.stop={_target_: tests.stopper.Stop, step: 3}"
    first = run(*common, "trainer.max_steps=7", stop, cwd=tmp_path, check=False)
    assert first.returncode == 143, first.stderr[-3000:]
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "preempted"
    run(*common, "trainer.max_steps=7", "resume=auto", cwd=tmp_path)
    assert equal(final_weights(tmp_path / "run"), uninterrupted)


def test_ctrl_c_leaves_a_checkpoint_and_a_status(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "seglab.train", *TINY, "trainer.max_steps=100000", "hydra.run.dir=run"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.time() + 120
    while not (tmp_path / "run/checkpoints/last.ckpt").exists() and time.time() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "interrupted"
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] >= 2


# Terms that are off leave a ground-truth branch that nothing trains: several processes must not mind.
SEVERAL = ["classifier=ssa", "loss.semantic.weight=0", "~loss.gt", "~loss.dice_gt", *TINY]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two processes with a copy of the network each."""
    cwd = tmp_path_factory.mktemp("ddp")
    run_apart(*SEVERAL, "trainer=ddp", "trainer.devices=2", "hydra.run.dir=two", cwd=cwd)
    assert [p.name for p in cwd.iterdir()] == ["two"], "one run folder, not one per process"
    return cwd / "two"


def evaluated(folder: Path, cwd: Path, devices: int = 1) -> float:
    """The mIoU of a run's last checkpoint, by that many processes."""
    count = [f"trainer.devices={devices}", "trainer.accelerator=cpu", f"output=evaluated{devices}"]
    command = run if devices == 1 else run_apart
    command(f"ckpt={folder}/checkpoints/last.ckpt", *count, cwd=cwd, module="seglab.evaluate")
    return json.loads((cwd / f"evaluated{devices}/metrics.json").read_text())["test/mIoU"]


@pytest.mark.parametrize("devices", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_processes_train_and_test_to_the_number_of_one(two, devices, tmp_path):
    trained = json.loads((two / "metrics.json").read_text())
    assert trained["test/mIoU"] == pytest.approx(evaluated(two, tmp_path, devices), abs=1e-12)


SHARDED = ["trainer=fsdp", "trainer.strategy.unit=10000"]
"""Small enough for the blocks of the smallest network to be units of their own."""


@pytest.mark.slow
def test_processes_that_share_a_network_learn_what_those_with_a_copy_each_do(two, tmp_path):
    run_apart(*SEVERAL, *SHARDED, "hydra.run.dir=run", cwd=tmp_path)
    ddp, fsdp = (json.loads((folder / "metrics.json").read_text()) for folder in (two, tmp_path / "run"))
    for key in ("val/mIoU", "test/mIoU", "test/loss"):
        assert fsdp[key] == pytest.approx(ddp[key], rel=1e-3), key
    assert fsdp["test/mIoU"] == pytest.approx(evaluated(tmp_path / "run", tmp_path), abs=1e-12), (
        "its checkpoint is whole"
    )


@pytest.mark.slow
@pytest.mark.parametrize("begun", [["trainer=ddp"], SHARDED], ids=["copies", "shares"])
def test_a_run_goes_on_with_another_strategy(begun, tmp_path):
    other = SHARDED if begun != SHARDED else ["trainer=ddp"]
    last = {}
    for name, strategy in {"same": begun, "other": other}.items():
        run_apart(*SEVERAL, *begun, f"hydra.run.dir={name}", cwd=tmp_path)
        run_apart(*SEVERAL, *strategy, f"hydra.run.dir={name}", "resume=auto", "trainer.max_steps=8", cwd=tmp_path)
        last[name] = torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)
    for key, value in last["same"]["state_dict"].items():
        torch.testing.assert_close(last["other"]["state_dict"][key], value, rtol=1e-3, atol=1e-4)
    states = [last[name]["optimizer_states"][0] for name in ("same", "other")]
    assert [group["params"] for group in states[0]["param_groups"]] == [g["params"] for g in states[1]["param_groups"]]
    assert all(states[1]["state"][i]["exp_avg"].shape == v["exp_avg"].shape for i, v in states[0]["state"].items())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["classifier.tau=-1", "classifier=ssa"], "tau"),
        (["loss.main.weight=-1"], "weight"),
        (["loss.main.branch=coarse"], "coarse"),
        (["data.batch_size=1000"], "1000"),
        (["backbone.name=resnet19"], "resnet18"),
        (["trainer.devices=7", "trainer.accelerator=cuda"], "trainer"),
        (["init_from=/nowhere.ckpt"], "/nowhere.ckpt"),
        (["+classifier.taau=3", "classifier=cosine"], "tau"),
        (["run_dir=there"], "hydra.run.dir=there"),
    ],
)
def test_bad_input_exits_2_and_names_what_to_change(overrides, said, tmp_path):
    done = run(*TINY, *overrides, cwd=tmp_path, check=False)
    code, err = done.returncode, done.stderr
    assert code == 2, err[-3000:]
    assert said in err
    assert "Traceback" not in err


def test_a_missing_root_is_named_with_the_tree_that_was_expected(tmp_path):
    done = run("data=camvid", "data.root=/nowhere", cwd=tmp_path, check=False)
    code, err = done.returncode, done.stderr
    assert code == 2
    assert "/nowhere" in err
    assert "data.root" in err
    assert "images" in err


@pytest.mark.parametrize(
    "started",
    [
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
        {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
    ],
    ids=["srun", "torchrun"],
)
def test_processes_that_are_started_side_by_side_have_to_be_told_their_folder(started, tmp_path, monkeypatch):
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "made"
    folder.mkdir()
    check_one_folder(["hydra.run.dir=here"], folder)
    assert folder.is_dir()
    with pytest.raises(ConfigError, match=r"2 processes of .*run.*set hydra\.run\.dir="):
        check_one_folder([], folder)
    assert not folder.exists(), "nothing is left"


def test_a_single_task_of_a_cluster_names_its_folder_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    check_one_folder([], tmp_path)
