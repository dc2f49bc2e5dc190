import numpy as np
import pytest

from seglab.loggers import log_image

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from seglab.loggers.tensorboard import TensorBoard
from seglab.runs.folder import RunFolder
from seglab.scores import Score

CONFIG = {
    "classifier": {"_target_": "seglab.classifiers.CAC", "tau": 15.0, "similarity": "cosine"},
    "loss": {"main": {"weight": 1.0}},
    "optim": {"lr": 0.125, "schedule": None},
    "trainer": {"max_steps": 2},
    "seed": 3,
}


class FakeTrainer:
    def __init__(self, *loggers):
        self.loggers = loggers


@pytest.fixture
def events(tmp_path, monkeypatch):
    choices = {"classifier": "cac", "optim": "adamw"}
    monkeypatch.setattr("seglab.loggers.job.hydra_choices", lambda: (choices, False))
    logger = TensorBoard(tmp_path)
    logger.log_hyperparams(CONFIG)
    logger.log_metrics({"val/mIoU": 0.25, "train/main": 1.0}, 10)
    log_image(FakeTrainer(logger), "val/images", np.zeros((8, 8, 3), np.uint8), 10)
    logger.save()
    logger.finalize("success")
    logger.log_metrics({"test/mIoU": 0.5}, 10)  # evaluation follows training
    logger.finalize("success")
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    return found


def plugin(events, tag):
    content = events.SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_curves_and_images_of_training_and_test_are_in_one_place(events):
    assert [(e.step, e.value) for e in events.Scalars("val/mIoU")] == [(10, 0.25)]
    assert [e.value for e in events.Scalars("test/mIoU")] == [0.5]
    assert events.Images("val/images")[0].step == 10


def test_runs_are_compared_by_the_headline_that_they_store(tmp_path):
    RunFolder(tmp_path).write_scores(Score("error", "min", "percent"), {})
    logger = TensorBoard(tmp_path)
    logger.log_hyperparams(CONFIG)
    logger.save()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    shown = plugin(found, "_hparams_/experiment").experiment.metric_infos
    assert [each.name.tag for each in shown] == ["val/error", "val/loss", "test/error"]


def test_runs_can_be_compared_by_choices_and_hyperparameters(events):
    row = plugin(events, "_hparams_/session_start_info").session_start_info.hparams
    values = {key: getattr(value, value.WhichOneof("kind")) for key, value in row.items()}
    assert values == {
        "choices/classifier": "cac", "choices/optim": "adamw", "classifier/tau": 15.0, "classifier/similarity": "cosine",
        "loss/main/weight": 1.0, "optim/lr": 0.125, "seed": 3.0,
    }  # fmt: skip
    metrics = [info.name.tag for info in plugin(events, "_hparams_/experiment").experiment.metric_infos]
    assert metrics == ["val/mIoU", "val/loss", "test/mIoU"]


def test_no_score_is_invented_for_the_table_of_runs(events):
    assert set(events.Tags()["scalars"]) == {"val/mIoU", "train/main", "test/mIoU"}


def test_loss_terms_share_one_chart(events):
    tag = "custom_scalars__config__"
    layout = layout_pb2.Layout.FromString(events.Tensors(tag)[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for page in layout.category for chart in page.chart}
    assert charts["terms"] == ["train/.*"]
    assert charts["IoU by class"] == ["val/IoU/.*"]


def test_the_folder_holds_event_files_only(events, tmp_path):
    assert all(path.name.startswith("events.") for path in (tmp_path / "tensorboard").iterdir())
