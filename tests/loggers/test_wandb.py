import contextlib
import json
import os
import signal
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from seglab.errors import ConfigError
from seglab.loggers import close, log_image, log_masks
from seglab.loggers.wandb import Wandb
from seglab.runs.folder import RunFolder
from seglab.scores import Score

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for name in ("API_KEY", "MODE", "PROJECT", "DIR", "SWEEP_ID", "RUN_ID", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    yield
    close(0)


class FakeTrainer:
    def __init__(self, *loggers):
        self.loggers = loggers


class Offline:
    """What an offline run has on the disk: a LevelDB log (checksum, length, type, data; blocks of 32 KiB)."""

    def __init__(self, folder: Path) -> None:
        from wandb.proto.wandb_internal_pb2 import Record

        wandb.teardown()  # until then the service may still be writing
        (path,) = folder.glob("wandb/offline-run-*/*.wandb")
        content, at, message, self.records = path.read_bytes(), 7, b"", []
        while at + 7 <= len(content):
            if at % 32768 > 32768 - 7:
                at += 32768 - at % 32768
            _, length, kind = struct.unpack_from("<IHB", content, at)
            message += content[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                self.records.append(Record.FromString(message))
                message = b""

    def all(self, kind: str) -> list:
        return [getattr(record, kind) for record in self.records if record.WhichOneof("record_type") == kind]

    @property
    def run(self):
        return self.all("run")[0]

    @property
    def config(self) -> dict:
        return {item.key: json.loads(item.value_json) for update in self.all("config") for item in update.update}

    @property
    def rows(self) -> list[dict]:
        return [{label(item): json.loads(item.value_json) for item in row.item} for row in self.all("history")]

    @property
    def summary(self) -> dict:
        return {label(item): json.loads(item.value_json) for change in self.all("summary") for item in change.update}

    @property
    def exit_code(self) -> int:
        (found,) = self.all("exit")
        return found.exit_code


def label(item) -> str:
    """A logged name; of an image's fields the image's."""
    return item.key or item.nested_key[0]


def in_a_sweep(folder: Path, factors: dict) -> Path:
    job = folder / "cac_tau-scenes" / "tau=10,seed=0-1f2e3d4c"
    job.mkdir(parents=True)
    plan = {"format": 1, "name": "cac_tau", "jobs": {job.name: {"factors": factors, "overrides": []}}}
    (job.parent / "sweep.json").write_text(json.dumps(plan))
    return job


def test_an_offline_run_holds_config_curves_images_masks_and_its_exit_code(tmp_path):
    logger = Wandb(tmp_path, tags=["scenes", "ssa"], group="scenes-ssa")
    logger.log_hyperparams({"optim": {"lr": 0.125}, "seed": 3})
    logger.log_metrics({"val/mIoU": 0.5}, 10)
    image, ids = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
    log_image(FakeTrainer(logger), "val/images", image, 10)
    log_masks(FakeTrainer(logger), "val/masks", [(image, ids, ids)], {0: "sky", 1: "road", 255: "void"}, 10)
    logger.log_table("val/classes", ["class", "IoU"], [["sky", 0.5]], step=10)
    logger.finalize("success")
    assert wandb.run is not None  # testing still follows training
    close(exit_code=143)
    assert wandb.run is None

    found = Offline(tmp_path)
    config = found.config
    assert (config["optim"], config["seed"]) == ({"lr": 0.125}, 3)
    assert (found.run.project, found.run.run_group, list(found.run.tags)) == ("seglab", "scenes-ssa", ["scenes", "ssa"])
    assert found.run.run_id == (tmp_path / "wandb_id.txt").read_text().strip()
    assert found.exit_code == 143
    keys = {key for row in found.rows for key in row}
    assert {"val/mIoU", "trainer/global_step", "val/images", "val/masks", "val/classes_table"} <= keys
    labels = config["_wandb"]["mask/class_labels"]
    assert [set(entry["value"].values()) for entry in labels.values()] == [{"sky", "road", "void"}] * 2
    assert len(list(tmp_path.rglob("*.mask.png"))) == 1  # label and prediction are equal here


def test_a_resumed_run_has_the_same_id_and_another_folder_another(tmp_path):
    assert Wandb(tmp_path / "a").version == Wandb(tmp_path / "a").version
    assert Wandb(tmp_path / "a").version != Wandb(tmp_path / "b").version


def test_two_jobs_of_a_sweep_are_two_runs(tmp_path):
    ids = []
    for job in ("0", "1"):
        logger = Wandb(tmp_path / job, mode="offline")
        ids.append(logger.experiment.id)
        close(0)
    assert ids[0] != ids[1]
    assert len(list(tmp_path.glob("*/wandb/offline-run-*"))) == 2


def test_a_server_that_does_not_answer_means_offline(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    asked = []

    def init(**settings):
        asked.append(settings["mode"])
        if settings["mode"] == "online":
            raise wandb.errors.CommError("no answer")
        return real(**settings)

    real = wandb.init
    monkeypatch.setattr("seglab.loggers.wandb.answers", lambda url, timeout: True)
    monkeypatch.setattr(wandb, "init", init)
    logger = Wandb(tmp_path)
    logger.log_metrics({"loss": 1.0}, 1)
    assert asked == ["online", "offline"]
    assert "offline" in caplog.text


def test_a_run_of_its_own_is_named_by_its_choices(tmp_path, monkeypatch):
    choices = {"data": "scenes", "backbone": "resnet18", "decoder": "fpn", "classifier": "ssa"}
    monkeypatch.setattr("seglab.loggers.job.hydra_choices", lambda: (choices, False))
    settings = Wandb(tmp_path / "scenes-resnet18-fpn-ssa-seed0" / "20260101-120000-ab12")._wandb_init
    assert settings["tags"] == ["scenes", "resnet18", "fpn", "ssa"]
    assert settings["group"] == "scenes-resnet18-fpn-ssa"
    assert settings["job_type"] == "train"
    assert settings["name"] == "scenes-resnet18-fpn-ssa-seed0/20260101-120000-ab12"


def test_a_sweep_is_one_group_whose_runs_can_be_filtered_by_what_they_vary(tmp_path, monkeypatch):
    choices = {"data": "scenes", "classifier": "cac", "optim": "adamw", "ablation": "cac_tau"}
    monkeypatch.setattr("seglab.loggers.job.hydra_choices", lambda: (choices, True))
    folder = in_a_sweep(tmp_path, {"classifier.tau": 10, "seed": 0})
    logger = Wandb(folder)
    logger.log_hyperparams({"classifier": {"tau": 10.0}, "seed": 0})
    close(0)
    found = Offline(folder)
    run = found.run
    assert (run.run_group, run.job_type, run.display_name) == ("cac_tau-scenes", "cac_tau", "tau=10, seed=0")
    assert set(run.tags) == {"scenes", "cac", "cac_tau"}
    config = found.config
    assert config["classifier"] == {"tau": 10.0}
    assert {key: value for key, value in config.items() if key.startswith(("choices/", "factors/"))} == {
        "choices/data": "scenes", "choices/classifier": "cac", "choices/optim": "adamw", "choices/ablation": "cac_tau",
        "factors/classifier/tau": 10, "factors/seed": 0,
    }  # fmt: skip
    assert not [key for key in config if "." in key], "W&B reads a dot as nesting"


def test_scores_have_a_direction_and_all_values_one_step_axis(tmp_path):
    logger = Wandb(tmp_path)
    for step, (score, loss) in enumerate([(0.2, 3.0), (0.5, 1.0), (0.4, 2.0)], 1):
        logger.log_metrics({"val/mIoU": score, "val/loss": loss, "val/ECE": 0.1}, 10 * step)
    (tmp_path / "metrics.json").write_text(
        json.dumps({"best/mIoU": 0.5, "val/mIoU": 0.4, "test/mIoU": 0.45, "parameters": 7, "test/IoU": [0.4, None]})
    )
    close(0)
    found = Offline(tmp_path)
    metrics = {metric.name or metric.glob_name: metric for metric in found.all("metric")}
    assert metrics["val/mIoU"].summary.max
    assert metrics["val/loss"].summary.min
    assert metrics["val/ECE"].summary.min
    assert metrics["*"].step_metric == metrics["val/mIoU"].step_metric == "trainer/global_step"
    shown = [(row["trainer/global_step"], row["val/mIoU"]) for row in found.rows if "val/mIoU" in row]
    assert shown == [(10, 0.2), (20, 0.5), (30, 0.4)]
    flat = {key: found.summary.get(key) for key in ("best/mIoU", "test/mIoU", "parameters")}
    assert flat == {"best/mIoU": 0.5, "test/mIoU": 0.45, "parameters": 7}
    assert found.summary["val/mIoU"] == {"max": 0.5}, "the best value, not the last"
    assert found.summary["val/loss"] == {"min": 1}
    assert "test/IoU" not in found.summary


def test_the_summary_is_the_best_in_the_direction_that_the_run_stores(tmp_path):
    RunFolder(tmp_path).write_scores(Score("error", "min", "percent"), {"gain": Score("gain", "max")})
    logger = Wandb(tmp_path)
    for step, (error, gain) in enumerate([(0.2, 3.0), (0.5, 1.0)], 1):
        logger.log_metrics({"val/error": error, "val/gain": gain}, 10 * step)
    close(0)
    found = Offline(tmp_path)
    assert found.summary["val/error"] == {"min": 0.2}
    assert found.summary["val/gain"] == {"max": 3}


def test_a_table_knows_its_step_and_an_absent_class_has_an_empty_cell(tmp_path):
    logger = Wandb(tmp_path)
    logger.log_table("val/classes", ["class", "IoU"], [["sky", 0.5], ["road", float("nan")]], step=10)
    close(0)
    (path,) = tmp_path.rglob("*.table.json")
    content = json.loads(path.read_text())
    assert content["columns"] == ["step", "class", "IoU"]
    assert content["data"] == [[10, "sky", 0.5], [10, "road", None]]


def test_a_crashed_job_is_shown_as_failed_and_the_next_one_is_a_run_of_its_own(tmp_path):
    for name, error in (("a", ValueError), ("b", None)):
        with contextlib.suppress(ValueError), RunFolder(tmp_path / name, at_end=close):
            Wandb(tmp_path / name).log_metrics({"loss": 1.0}, 1)
            if error:
                raise error("crash")
    assert [Offline(tmp_path / name).exit_code for name in ("a", "b")] == [1, 0]


def test_an_agents_choice_of_the_run_id_is_kept_but_no_other_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    assert Wandb(tmp_path / "alone").version != "chosen"
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert Wandb(tmp_path / "agent").version == "chosen"


@pytest.mark.parametrize(("wanted", "names"), [("none", []), ("best", ["best"]), ("all", ["best", "last"])])
def test_checkpoints_become_artefacts_where_wanted_and_only_once(wanted, names, tmp_path):
    logger = Wandb(tmp_path, checkpoints=wanted)
    (tmp_path / "checkpoints").mkdir()
    for name in ("best", "last"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").write_bytes(name.encode())
    logger.log_metrics({"loss": 1.0}, 1)
    logger.finalize("success")  # after training
    logger.finalize("success")  # after the test
    close(0)
    found = [request.log_artifact.artifact for request in Offline(tmp_path).all("request")]
    found += Offline(tmp_path).all("artifact")
    uploaded = [(set(a.aliases), [entry.path for entry in a.manifest.contents]) for a in found if a.name]
    assert uploaded == [({name, "latest"}, [f"{name}.ckpt"]) for name in names]


def test_an_unknown_choice_of_checkpoints_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="checkpoints=some"):
        Wandb(tmp_path, checkpoints="some")


def test_training_goes_on_when_wandbs_own_process_is_killed(tmp_path, caplog):
    logger = Wandb(tmp_path)
    logger.log_metrics({"loss": 1.0}, 1)
    for child in children():
        os.kill(child, signal.SIGKILL)
    start = time.monotonic()
    for step in range(2, 40):
        logger.log_metrics({"loss": 1.0}, step)
        time.sleep(0.02)
    close(0)
    assert time.monotonic() - start < 20
    assert "W&B" in caplog.text
    Wandb(tmp_path / "next").log_metrics({"loss": 1.0}, 1)
    close(0)
    assert Offline(tmp_path / "next").exit_code == 0, "the next job of the process has a run"


def children() -> list[int]:
    """Processes that this one has started and that are W&B's."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and "wandb" in (path / "cmdline").read_text():
                found.append(int(path.name))
    return found
