import json
import struct
from pathlib import Path

import numpy as np
import pytest

from seglab.loggers import close, log_masks, log_picture
from seglab.loggers.wandb import Wandb

wandb = pytest.importorskip("wandb")


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "NETRC"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    yield
    close(0)


class FakeTrainer:
    def __init__(self, *loggers):
        self.loggers = loggers


def records(folder: Path) -> list:
    """What an offline run has on the disk: a LevelDB log (checksum, length, type, data; blocks of 32 KiB)."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content, at, message, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if at % 32768 > 32768 - 7:
            at += 32768 - at % 32768
        _, length, kind = struct.unpack_from("<IHB", content, at)
        message += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(message))
            message = b""
    return found


def test_an_offline_run_holds_config_curves_pictures_masks_and_its_exit_code(tmp_path):
    logger = Wandb(tmp_path, tags=["scenes", "ssa"], group="scenes-ssa")
    logger.log_hyperparams({"optim": {"lr": 0.125}, "seed": 3})
    logger.log_metrics({"val/mIoU": 0.5}, 10)
    image, ids = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
    log_picture(FakeTrainer(logger), "val/pictures", image, 10)
    log_masks(FakeTrainer(logger), "val/masks", [(image, ids, ids)], {0: "sky", 1: "road", 255: "void"}, 10)
    logger.log_table("val/classes", ["class", "IoU"], [["sky", 0.5]], step=10)
    logger.finalize("success")
    assert wandb.run is not None  # testing still follows training
    close(exit_code=143)
    assert wandb.run is None

    wandb.teardown()  # until then the service may still be writing
    found = records(tmp_path)
    run = next(r.run for r in found if r.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for r in found for item in r.config.update}
    assert (config["optim"], config["seed"]) == ({"lr": 0.125}, 3)
    assert (run.project, run.run_group, list(run.tags)) == ("seglab", "scenes-ssa", ["scenes", "ssa"])
    assert run.run_id == (tmp_path / "wandb_id.txt").read_text().strip()
    (exit_record,) = [r.exit for r in found if r.WhichOneof("record_type") == "exit"]
    assert exit_record.exit_code == 143
    summaries = [r.metric for r in found if r.WhichOneof("record_type") == "metric" and r.metric.name == "val/mIoU"]
    assert summaries[-1].summary.max
    keys = {item.key or item.nested_key[0] for r in found for item in r.history.item}
    assert {"val/mIoU", "trainer/global_step", "val/pictures", "val/masks", "val/classes"} <= keys
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
    monkeypatch.setattr(wandb, "init", init)
    logger = Wandb(tmp_path)
    logger.log_metrics({"loss": 1.0}, 1)
    assert asked == ["online", "offline"]
    assert "offline" in caplog.text


def test_tags_and_group_come_from_the_choices(tmp_path, monkeypatch):
    choices = {"data": "scenes", "backbone": "resnet18", "decoder": "fpn", "classifier": "ssa", "experiment": None}
    monkeypatch.setattr("seglab.loggers.wandb.hydra_choices", lambda: choices)
    settings = Wandb(tmp_path)._wandb_init
    assert settings["tags"] == ["scenes", "resnet18", "fpn", "ssa"]
    assert settings["group"] == "scenes-resnet18-fpn-ssa"
    assert settings["job_type"] == "train"
