"""The calibration at other temperatures is what the network would have with them."""

import csv
import json
import math

import pytest
import torch
from PIL import Image

from seglab.callbacks.tau_calibration import TauCalibration
from seglab.errors import ConfigError
from seglab.metrics.calibration import Calibration
from seglab.train import fit
from tests.callbacks.observing import PROTOCOLS, evaluate
from tests.conftest import SMALL_NET, TINY, each


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("classifier", each(["cosine", "cac", "ssa"], "cac"))
def test_each_temperature_is_that_of_a_network_with_this_tau(made, classifier, protocol):
    module = made(f"classifier={classifier}", *PROTOCOLS[protocol])
    callback = TauCalibration([5, 40])
    evaluate(module, callback)
    assert sorted(callback.metrics) == [5, 15, 40]
    for t, metric in callback.metrics.items():
        module.task.model.classifier.similarity.tau = t
        module.task.metrics["calibration"] = Calibration(12)
        evaluate(module)
        expected, found = module.task.metrics["calibration"].compute(), metric.compute()
        assert found["NLL"] == pytest.approx(expected["NLL"], rel=1e-5)
        assert found["ECE"] == pytest.approx(expected["ECE"], abs=2e-3)  # a pixel may fall into the next bin


def test_the_trained_temperature_is_the_evaluation_itself(made):
    module = made("classifier=cac", "metrics=full")
    callback = TauCalibration([15])
    evaluate(module, callback)
    found, expected = callback.metrics[15].compute(), module.task.metrics["calibration"].compute()
    assert [found[name] for name in ("NLL", "ECE")] == [expected[name] for name in ("NLL", "ECE")]


def test_no_pass_of_the_network_is_made_for_it(made):
    module = made("classifier=cac", "evaluation.flip=true")
    assert evaluate(module) == evaluate(module, TauCalibration())


@pytest.mark.parametrize("choice", [["classifier=linear"], ["classifier=cac", "classifier.similarity=dot"]])
def test_a_classifier_without_tau_is_scaled_from_one(made, choice):
    module = made(*choice, "metrics=full")
    callback = TauCalibration()
    evaluate(module, callback)
    assert min(callback.metrics) == 1 / 8
    assert callback.metrics[1].compute()["NLL"] == module.task.metrics["calibration"].compute()["NLL"]
    assert callback.metrics[8].compute()["NLL"] != callback.metrics[1].compute()["NLL"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run without and one with it: ``(weights, results, folder)`` each."""
    from seglab import cli

    def run(*overrides):
        folder = tmp_path_factory.mktemp("run")
        cfg = cli.compose("train", [*TINY, *SMALL_NET, "classifier=cac", *overrides, f"run_dir={folder}"])
        results = fit(cfg, folder)
        return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"], results, folder

    return run(), run("callbacks=tau_calibration", "callbacks.tau_calibration.temperatures=[7.5,30]")


@pytest.mark.slow
def test_training_ends_with_the_same_bits_and_scores_with_it(runs):
    (plain, before, _), (measured, after, _) = runs
    assert plain.keys() == measured.keys()
    assert all(torch.equal(plain[name], measured[name]) for name in plain)
    assert before["test/mIoU"] == after["test/mIoU"]


@pytest.mark.parametrize("stage", ["val", "test"])
def test_validation_and_test_leave_a_table_a_figure_and_scores(runs, stage):
    _, results, folder = runs[1]
    with (folder / f"insight/tau_calibration_{stage}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["tau"], row["trained"]) for row in rows] == [("2", "7.5", "0"), ("2", "15.0", "1"), ("2", "30.0", "0")]  # fmt: skip
    least = min(rows, key=lambda row: float(row["NLL"]))
    written = json.loads((folder / "metrics.json").read_text())
    assert written[f"{stage}/tau_NLL"] == float(least["tau"])
    for row in rows:
        assert written[f"{stage}/NLL/tau_{float(row['tau']):g}"] == float(row["NLL"])
        assert results[f"{stage}/ECE/tau_{float(row['tau']):g}"] == float(row["ECE"])
    with Image.open(folder / f"insight/tau_calibration_{stage}.png") as figure:
        assert figure.width > 1000


def test_every_validation_is_counted_alone(runs):
    with (runs[1][2] / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["val/NLL/tau_15"]]
    assert [row["step"] for row in logged] == ["1", "2"]
    assert all(0 < float(row["val/NLL/tau_15"]) < 10 for row in logged)
    assert float(logged[0]["val/NLL/tau_15"]) != float(logged[1]["val/NLL/tau_15"])


@pytest.mark.parametrize("temperatures", [[], [15, 0], [-1], [math.nan], [math.inf]])
def test_no_temperature_and_one_that_is_not_above_zero_are_refused(temperatures):
    with pytest.raises(ConfigError, match=r"callbacks.tau_calibration.temperatures=.* — expected"):
        TauCalibration(temperatures)


def test_no_bins_are_refused():
    with pytest.raises(ConfigError, match=r"callbacks.tau_calibration.bins=0 — expected"):
        TauCalibration(bins=0)
