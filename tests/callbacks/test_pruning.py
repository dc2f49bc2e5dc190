"""A trial tells the study how it is doing, and ends when it is told to."""

import json

import pytest
import torch

optuna = pytest.importorskip("optuna")

from seglab.callbacks.checkpoints import Checkpoints  # noqa: E402
from seglab.callbacks.pruning import Pruning  # noqa: E402
from seglab.errors import ConfigError  # noqa: E402
from seglab.multirun import record, study  # noqa: E402
from seglab.runs.folder import RunFolder  # noqa: E402
from seglab.runs.signals import Pruned  # noqa: E402

STRICT = optuna.pruners.ThresholdPruner(lower=0.5)


@pytest.fixture
def trial(tmp_path):
    """A search with one trial: its run folder, and what the study knows of it."""
    opened = study.open_study(tmp_path, None, direction="maximize")
    opened.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    record.write(tmp_path, {}, {"a": {"factors": {"trial": 0, "x": 0.5, "seed": 0}, "overrides": []}})

    def seen():
        return study.open_study(tmp_path, None, direction="maximize").get_trials()[0].intermediate_values

    return tmp_path / "a", seen


def test_every_validation_is_reported_under_its_step(fit, toy, trial):
    folder, seen = trial
    fit(folder, Pruning(), module=toy(scores=[0.2, 0.3, 0.1]), max_steps=6, val_every=2)
    assert seen() == {2: pytest.approx(0.2), 4: pytest.approx(0.3), 6: pytest.approx(0.1)}


def test_a_trial_that_falls_behind_ends_with_checkpoints_metrics_and_its_status(fit, toy, trial):
    folder, seen = trial
    callbacks = Checkpoints(), Pruning(pruner=STRICT)
    with pytest.raises(Pruned) as caught, RunFolder(folder):
        fit(folder, *callbacks, module=toy(scores=[0.6, 0.3, 0.9]), max_steps=8, val_every=2, checkpoints=False)
    assert caught.value.code == 0
    assert list(seen()) == [2, 4]
    assert json.loads((folder / "status.json").read_text())["status"] == "pruned"
    assert record.state(folder) == "done"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["step"] == 4
    assert metrics["best/mIoU"] == pytest.approx(0.6)
    assert metrics["parameters"] > 0
    assert "val/mIoU" in metrics
    last, best = (torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True) for name in ("last", "best"))
    assert (last["global_step"], best["global_step"]) == (4, 2)


def test_a_run_at_its_end_is_not_pruned(fit, toy, trial):
    folder, seen = trial
    fit(folder, Pruning(pruner=STRICT), module=toy(scores=[0.1]), max_steps=4, val_every=4)
    assert list(seen()) == [4]


def test_a_resumed_trial_reports_nothing_twice(fit, toy, trial, recwarn):
    folder, seen = trial
    fit(folder, Pruning(), module=toy(scores=[0.2]), max_steps=2, val_every=2)
    fit(folder, Pruning(), module=toy(scores=[0.9, 0.3]), max_steps=4, val_every=2)
    assert seen() == {2: pytest.approx(0.2), 4: pytest.approx(0.3)}
    assert not [w for w in recwarn if "already reported" in str(w.message)]


def test_a_run_outside_a_search_is_left_alone(fit, toy, tmp_path):
    trainer, _ = fit(tmp_path / "alone", Pruning(pruner=STRICT), module=toy(scores=[0.1]), max_steps=4, val_every=2)
    assert trainer.global_step == 4
    assert not (tmp_path / study.JOURNAL).exists()


def test_without_a_metric_the_headline_is_reported(fit, trial):
    callback = Pruning()
    fit(trial[0], callback, max_steps=4, val_every=4)
    assert (callback.metric, callback.score.unit) == ("val/mIoU", "percent")


def test_a_metric_that_is_not_logged_is_named_with_those_that_are(fit, trial):
    with pytest.raises(ConfigError, match=r"search.metric=val/iou is not logged — expected one of .*val/mIoU"):
        fit(trial[0], Pruning(metric="val/iou"), max_steps=4, val_every=2)
