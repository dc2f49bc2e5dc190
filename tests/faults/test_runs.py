"""A run that is stopped, started twice or resumed differently loses nothing, replaces nothing, and stays itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from seglab.errors import CheckpointError, ConfigError
from seglab.runs import atomic
from seglab.runs.signals import Preempted
from seglab.train import fit
from tests.conftest import each, options, tiny

STEPS = ["trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"]


def train(folder: Path, *overrides: str, **nodes) -> dict:
    """A tiny run, as the command line would do it; ``nodes`` replace whole nodes."""
    return fit({**tiny(folder, "classifier=cac", *STEPS, *overrides), **nodes}, folder)


def cut(hook: str, step: int, how: str) -> str:
    return f"+callbacks.cut={{_target_: tests.stopper.Cut, hook: {hook}, step: {step}, how: {how}}}"


def metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def weights(folder: Path, name: str = "last") -> dict:
    content = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
    return {**content["state_dict"], **content.get("current_model_state", {})}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# A validation that a stop prevented is made when the run goes on


def reference(tmp_path_factory, *overrides):
    """An uninterrupted run and how it was asked for."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder, "test=best", *overrides)
    return ["test=best", *overrides], folder


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return reference(tmp_path_factory)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    return reference(tmp_path_factory, "callbacks=ema")


@pytest.mark.parametrize(
    ("how", "hook", "step", "kind"),
    [
        pytest.param("SIGTERM", "on_train_batch_end", 1, "raw", marks=pytest.mark.slow),
        pytest.param("SIGTERM", "on_train_batch_end", 2, "averaged", marks=pytest.mark.slow),  # a validation is due
        pytest.param("SIGTERM", "on_train_batch_end", 4, "raw", marks=pytest.mark.slow),  # and the last one
        pytest.param("SIGTERM", "on_validation_batch_start", 4, "averaged", marks=pytest.mark.slow),
        pytest.param("power", "on_validation_batch_start", 2, "raw", marks=pytest.mark.slow),
        ("power", "on_validation_epoch_end", 4, "raw"),  # everything is seen, nothing is saved
        pytest.param("SIGTERM", "on_test_batch_start", 4, "raw", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_that_goes_on_leaves_what_an_uninterrupted_one_does(how, hook, step, kind, request, tmp_path):
    overrides, reference = request.getfixturevalue(kind)
    with pytest.raises(Preempted if how == "SIGTERM" else RuntimeError):
        train(tmp_path / "run", *overrides, cut(hook, step, how))
    train(tmp_path / "run", *overrides, "resume=auto")
    assert metrics(tmp_path / "run") == metrics(reference)
    assert (tmp_path / "run/metrics.csv").read_text() == (reference / "metrics.csv").read_text()
    for name in ("last", "best"):
        assert equal(weights(tmp_path / "run", name), weights(reference, name)), name
    for kind in ("tables", "images"):
        names = [sorted(path.name for path in (folder / kind).iterdir()) for folder in (tmp_path / "run", reference)]
        assert names[0] == names[1]
    status = [json.loads((folder / "status.json").read_text()) for folder in (tmp_path / "run", reference)]
    assert all(a[key] == b[key] for a, b in [status] for key in ("status", "step", "best"))


def test_a_run_that_is_complete_is_not_validated_again(raw):
    overrides, reference = raw
    before = metrics(reference), (reference / "metrics.csv").read_bytes()
    train(reference, *overrides, "resume=auto", "test=null")
    assert (metrics(reference), (reference / "metrics.csv").read_bytes()) == before


# A folder belongs to one run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, "trainer.max_steps=2", "test=null")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("overrides", [[], ["classifier=linear", "seed=3"], ["init_from=x.ckpt"]])
def test_a_second_training_in_a_runs_folder_is_refused_and_touches_nothing(finished, overrides):
    before = contents(finished)
    with pytest.raises(
        ConfigError, match=r"holds a run \(done, step 2: .*resume=auto.*overwrite=true.*hydra\.run\.dir"
    ):
        train(finished, *overrides)
    assert contents(finished) == before


def test_a_checkpoint_of_another_folder_does_not_make_it_ones_own(finished, tmp_path):
    other = tmp_path / "checkpoints"
    other.mkdir()
    (other / "last.ckpt").write_bytes((finished / "checkpoints/last.ckpt").read_bytes())
    before = contents(finished)
    with pytest.raises(ConfigError, match="holds a run"):
        train(finished, f"resume={other / 'last.ckpt'}")
    assert contents(finished) == before


def test_overwriting_sets_the_old_run_aside_whole(finished, tmp_path):
    folder = tmp_path / "run"
    train(folder, "trainer.max_steps=2", "test=null", "seed=1")
    before = contents(folder)
    train(folder, "trainer.max_steps=2", "test=null", "overwrite=true")
    (old,) = (tmp_path / ".replaced").iterdir()
    assert contents(old) == before
    assert equal(weights(folder), weights(finished))
    assert "seed: 1" not in (folder / "config.yaml").read_text()


def test_going_on_and_setting_aside_exclude_each_other(tmp_path):
    with pytest.raises(ConfigError, match="resume=auto.*overwrite=true"):
        train(tmp_path / "run", "resume=auto", "overwrite=true")


def test_a_run_that_came_to_nothing_is_in_nobodys_way(tmp_path):
    with pytest.raises(ConfigError):
        train(tmp_path / "run", "data.batch_size=0")
    train(tmp_path / "run", "trainer.max_steps=1", "test=null")


def test_a_folder_whose_checkpoints_are_gone_is_not_begun_again(finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("metrics.json", "metrics.csv"):
        (folder / name).write_bytes((finished / name).read_bytes())
    with pytest.raises(CheckpointError, match="no checkpoint to go on from"):
        train(folder, "resume=auto")


# Resuming differently


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim=sgd", "optim"),
        ("optim.optimizer.lr=0.1", r"optim\.optimizer\.lr"),
        ("~loss.gt", r"loss\.gt"),
        ("callbacks=ema", "averaging"),
        ("trainer.precision=bf16-mixed", r"trainer\.precision"),
        ("data.batch_size=8", r"data\.batch_size"),
        ("trainer.accumulate_grad_batches=2", "accumulate_grad_batches"),
    ],
)
def test_another_training_is_refused_by_name_and_touches_nothing(finished, override, said):
    before = contents(finished)
    with pytest.raises(CheckpointError, match=rf"{said}.*init_from="):
        train(finished, "trainer.max_steps=2", "test=null", "resume=auto", override)
    after = contents(finished)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {"status.json", "train.log"}


def test_averaged_weights_are_not_gone_on_with_as_if_they_were_raw(tmp_path):
    train(tmp_path / "run", "trainer.max_steps=2", "test=null", "callbacks=ema")
    with pytest.raises(CheckpointError, match="with averaging of weights; now it is without"):
        train(tmp_path / "run", "test=null", "resume=auto")
    with pytest.raises(CheckpointError, match=r"callbacks\.ema\.decay: 0\.999 -> 0\.5"):
        train(tmp_path / "run", "test=null", "resume=auto", "callbacks=ema", "callbacks.ema.decay=0.5")


def test_other_callbacks_may_look_on(finished):
    before = weights(finished)
    looking = ["callbacks=[context_gap,loss_components]", "trainer.max_steps=2", "test=null"]
    train(finished, "resume=auto", *looking)
    assert equal(weights(finished), before)


# What is best


def test_what_is_best_is_called_by_what_decides_it(tmp_path):
    results = train(tmp_path / "run", "test=null", "callbacks.checkpoints.monitor=val/loss")
    written = metrics(tmp_path / "run")
    assert "best/mIoU" not in written
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/loss")
    losses = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert results["best/loss"] == written["best/loss"] == pytest.approx(min(losses))
    assert atomic.read_json(tmp_path / "run/status.json")["best"]["mode"] == "min"


def test_the_largest_loss_is_not_kept_for_the_best(tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks\.checkpoints\.mode=min"):
        train(tmp_path / "run", "callbacks.checkpoints.monitor=val/gt", "callbacks.checkpoints.mode=max")


# Losses of validation


@pytest.mark.parametrize("classifier", each(options("classifier"), "linear", "ssa"))
@pytest.mark.parametrize("auxiliary", options("heads"))
@pytest.mark.parametrize("protocol", [[], pytest.param(["evaluation.flip=true"], marks=pytest.mark.slow)])
def test_every_loss_term_is_there_in_validation(classifier, auxiliary, protocol, tmp_path):
    choice = [f"classifier={classifier}", f"heads={auxiliary}", *protocol]
    train(tmp_path / "run", "trainer.max_steps=1", "test=null", *choice, callbacks={})
    header = (tmp_path / "run/metrics.csv").read_text().splitlines()[0].split(",")
    nodes = tiny(tmp_path / "run", *choice)["loss"]
    terms = {"loss", *(name for name, node in nodes.items() if node["weight"])}
    for stage in ("train", "val"):
        logged = {name.removeprefix(f"{stage}/") for name in header if name.startswith(f"{stage}/")}
        assert logged & {"loss", *nodes} == terms
