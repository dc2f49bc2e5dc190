"""Three predictions of one pass are what three evaluations would give."""

import csv
import json
import logging

import pytest
import torch
from PIL import Image

from seglab import cli
from seglab.callbacks.context_gap import BRANCHES, ContextGap, draw
from seglab.inference import infer
from seglab.metrics import ConfusionMatrix
from seglab.train import fit
from tests.callbacks.observing import PROTOCOLS, batch, evaluate
from tests.conftest import SMALL_NET, TINY, each
from tests.seeing import seen


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("classifier", each(["cac", "ssa"], "ssa"))
def test_each_prediction_scores_as_in_an_evaluation_of_its_own(made, classifier, protocol):
    choice = [f"classifier={classifier}", *PROTOCOLS[protocol]]
    module, callback = made(*choice), ContextGap()
    passes = evaluate(module, callback)
    found = {name: metric.compute()["matrix"] for name, metric in callback.metrics.items()}
    assert passes == evaluate(module)
    assert torch.equal(found["adapted"], module.task.metrics["confusion"].compute()["matrix"])
    upper = made(*choice, oracle=True)
    evaluate(upper)
    assert torch.equal(found["oracle"], upper.task.metrics["confusion"].compute()["matrix"])
    coarse = ConfusionMatrix(12)
    for index in (1, 2):
        b = batch(index)
        coarse.update(
            seen(infer(lambda x: module.task.model(x).coarse, b.image, module.task.protocol, (48, 64)), b.label)
        )
    assert torch.equal(found["coarse"], coarse.compute()["matrix"])
    assert not torch.equal(found["coarse"], found["adapted"])


@pytest.mark.parametrize(
    ("choice", "there", "words"),
    [
        (["classifier=linear"], ["adapted"], ["no coarse prediction (Linear has none)", "no oracle prediction (Linear has none)"]),
        (["classifier=cosine"], ["adapted"], ["no coarse prediction (Cosine has none)", "no oracle"]),
        (["classifier=cac", "~loss.gt", "~loss.distill"], ["coarse", "adapted"], ["no oracle prediction (no loss term trains it)"]),
    ],
)  # fmt: skip
def test_what_a_network_lacks_is_said_once_and_left_empty(made, caplog, choice, there, words):
    module, callback = made(*choice), ContextGap()
    with caplog.at_level(logging.INFO):
        evaluate(module, callback)
        evaluate(module, callback)
    assert list(callback.metrics) == there
    assert len(caplog.messages) == len(words)
    assert all(word in message for word, message in zip(words, caplog.messages, strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    def trained(*overrides):
        folder = tmp_path_factory.mktemp("run")
        cfg = cli.compose("train", [*TINY, *SMALL_NET, *overrides, f"run_dir={folder}"])
        results = fit(cfg, folder)
        return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"], results, folder

    return trained


@pytest.fixture(scope="module")
def runs(run):
    """A run without and one with it: ``(weights, results, folder)`` each."""
    return run("classifier=ssa"), run("classifier=ssa", "callbacks=context_gap")


@pytest.mark.slow
def test_training_ends_with_the_same_bits_and_scores_with_it(runs):
    (plain, before, _), (measured, after, _) = runs
    assert plain.keys() == measured.keys()
    assert all(torch.equal(plain[name], measured[name]) for name in plain)
    assert before["test/mIoU"] == after["test/mIoU"]


@pytest.mark.parametrize("stage", ["val", "test"])
def test_validation_and_test_leave_a_table_a_figure_and_scores(runs, stage):
    folder = runs[1][2]
    scores = json.loads((folder / "metrics.json").read_text())
    with (folder / f"insight/context_gap_{stage}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for name, key in {"coarse": "mIoU_coarse", "adapted": "mIoU", "oracle": "mIoU_oracle"}.items():
        values = [float(row[f"IoU_{name}"]) for row in rows if row[f"IoU_{name}"]]
        assert scores[f"{stage}/{key}"] == pytest.approx(sum(values) / len(values))
    assert scores[f"{stage}/context_gain"] == scores[f"{stage}/mIoU"] - scores[f"{stage}/mIoU_coarse"]
    assert scores[f"{stage}/context_gap"] == scores[f"{stage}/mIoU_oracle"] - scores[f"{stage}/mIoU"]
    with Image.open(folder / f"insight/context_gap_{stage}.png") as figure:
        assert figure.width > 1000
    with (folder / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row[f"{stage}/mIoU_oracle"]]
    assert float(logged[-1][f"{stage}/mIoU_oracle"]) == pytest.approx(scores[f"{stage}/mIoU_oracle"])


def test_a_linear_classifier_has_null_for_what_it_lacks(run):
    _, results, folder = run("classifier=linear", "callbacks=context_gap")
    scores = json.loads((folder / "metrics.json").read_text())
    assert all(scores[f"test/{name}"] is None for name in ("mIoU_coarse", "mIoU_oracle", "context_gain", "context_gap"))
    assert scores["test/mIoU"] == results["test/mIoU"]
    with (folder / "insight/context_gap_test.csv").open() as file:
        assert {(row["IoU_coarse"], row["IoU_oracle"]) for row in csv.DictReader(file)} == {("", "")}


def test_several_can_be_chosen_beside_what_is_always_there(compose):
    chosen = compose("train", ["callbacks=[loss_components,tau_calibration,context_gap]"])["callbacks"]
    assert {"loss_components", "tau_calibration", "context_gap", "checkpoints", "status"} <= chosen.keys()


def test_the_figure_takes_many_classes_and_classes_that_do_not_occur():
    nan = float("nan")
    rows = [{"class": f"c{k}", "IoU_coarse": k / 300, "IoU_adapted": nan if k % 7 == 0 else k / 200, "IoU_oracle": nan}
            for k in range(150)]  # fmt: skip
    figure = draw(rows, {"coarse": 0.2, "adapted": 0.3, "oracle": nan}, "title")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == 60
    assert names[-1] == "c149"
    assert draw([], dict.fromkeys(BRANCHES, nan), "nothing labelled")
