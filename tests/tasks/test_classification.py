"""A second task goes through every command that the first one goes through, and none of them knows it."""

import csv
import json

import pytest
import torch

import seglab
from seglab import build, checkpoint, cli, evaluate, export, predict
from seglab.errors import ConfigError
from seglab.metrics import CategoryError
from seglab.tasks import Classification
from seglab.train import fit
from seglab.types import Batch, Evaluated
from tests.conftest import CLASSIFIED, options
from tests.predicting import photograph

SHORT = ["trainer.max_steps=4", "trainer.val_check_interval=2"]


def config(folder, root, *overrides):
    given = [*CLASSIFIED, f"data.root={root}", *SHORT, *overrides, f"run_dir={folder}"]
    return cli.compose("train", ["task=classification", *given])


@pytest.fixture(scope="module")
def run(tmp_path_factory, cifar10):
    folder = tmp_path_factory.mktemp("classified") / "run"
    return folder, fit(config(folder, cifar10), folder)


def test_it_trains_and_what_it_is_about_is_the_top_1_error_of_which_less_is_better(run):
    folder, results = run
    stored = json.loads((folder / "scores.json").read_text())
    assert stored["headline"] == {"name": "top1_error", "direction": "min", "unit": "percent"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test/top1_error"] == results["test/top1_error"]
    assert 0 <= metrics["test/top5_error"] <= metrics["test/top1_error"] <= 1
    assert metrics["best/top1_error"] == min(
        float(row["val/top1_error"]) for row in csv.DictReader((folder / "metrics.csv").open()) if row["val/top1_error"]
    )
    assert (folder / "images/step_000004.png").is_file()
    assert (folder / "tables/val_000004.csv").read_text().startswith("class,Acc")


def test_an_interrupted_run_ends_with_the_bits_of_an_uninterrupted_one(run, tmp_path, cifar10):
    folder, results = run
    cut = "+callbacks.cut={_target_: tests.stopper.Cut, hook: on_train_batch_end, step: 3, how: power}"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(config(tmp_path, cifar10, cut), tmp_path)
    assert checkpoint.describe(tmp_path / "checkpoints/last.ckpt").step == 2
    again = fit(config(tmp_path, cifar10, "resume=auto"), tmp_path)
    whole, resumed = (checkpoint.open_file(path / "checkpoints/last.ckpt")[0] for path in (folder, tmp_path))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert again["test/top1_error"] == results["test/top1_error"]


def test_evaluating_its_checkpoint_gives_the_scores_of_the_run(run, tmp_path):
    folder, results = run
    asked = [f"ckpt={folder / 'checkpoints/last.ckpt'}", f"output={tmp_path}", "images=2", "trainer.accelerator=cpu"]
    found = evaluate.score(cli.compose("evaluate", asked))
    assert found["top1_error"] == pytest.approx(results["test/top1_error"])
    assert len(list((tmp_path / "images/test").iterdir())) == 2
    assert (tmp_path / "confusion.csv").read_text().count("\n") == 11
    flipped = evaluate.score(cli.compose("evaluate", [*asked, "evaluation.flip=true", f"output={tmp_path / 'two'}"]))
    assert flipped["matrix"].sum() == found["matrix"].sum()


def test_what_a_whole_image_has_none_of_is_refused(run, tmp_path):
    folder, _ = run
    asked = [f"ckpt={folder}", f"output={tmp_path}", "images=0", "trainer.accelerator=cpu"]
    with pytest.raises(ConfigError, match="scores its prediction only"):
        evaluate.score(cli.compose("evaluate", [*asked, "oracle=true"]))
    slide = ["evaluation.mode=slide", "evaluation.window=[16,16]", "evaluation.stride=[16,16]"]
    with pytest.raises(ConfigError, match=r"evaluation\.mode=whole"):
        evaluate.score(cli.compose("evaluate", [*asked, *slide]))


def test_predicting_writes_a_table_that_an_interruption_does_not_begin_anew(run, tmp_path):
    folder, _ = run
    for index, name in enumerate(("b", "a", "deep/c")):
        photograph(tmp_path / f"in/{name}.png", index, (32, 32))
    asked = [f"ckpt={folder}", f"source={tmp_path / 'in'}", f"output={tmp_path / 'out'}", "device=cpu"]
    predict.predict_images(cli.compose("predict", asked))
    table = tmp_path / "out/predictions.csv"
    rows = list(csv.DictReader(table.open()))
    assert [row["image"] for row in rows] == ["a", "b", "deep/c"]
    classes = seglab.load(folder).spec.classes
    assert all(classes[int(row["id"])] == row["class"] and 0.1 <= float(row["probability"]) <= 1 for row in rows)
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:2]) + "b,1,ca")  # killed in the middle
    predict.predict_images(cli.compose("predict", asked))
    assert list(csv.DictReader(table.open())) == rows


def test_a_table_of_another_network_is_moved_away_or_refused(run, tmp_path):
    folder, _ = run
    photograph(tmp_path / "in/a.png", 0, (32, 32))
    asked = [f"source={tmp_path / 'in'}", f"output={tmp_path / 'out'}", "device=cpu"]
    predict.predict_images(cli.compose("predict", [f"ckpt={folder}", *asked]))
    other = [f"ckpt={folder}", *asked, "evaluation.flip=true"]
    with pytest.raises(ConfigError, match=r"evaluation\.flip"):
        predict.predict_images(cli.compose("predict", other))
    predict.predict_images(cli.compose("predict", [*other, "overwrite=true"]))
    assert len(list((tmp_path / "out/.replaced").rglob("predictions.csv"))) == 1


def test_kinds_of_files_that_it_does_not_write_are_refused(run, tmp_path):
    folder, _ = run
    photograph(tmp_path / "in/a.png", 0, (32, 32))
    asked = [f"ckpt={folder}", f"source={tmp_path / 'in'}", f"output={tmp_path / 'out'}", "device=cpu"]
    with pytest.raises(ConfigError, match=r"write=\['overlay'\] .*expected one or more of csv"):
        predict.predict_images(cli.compose("predict", [*asked, "write=[overlay]"]))


def test_an_export_is_the_same_network(run, tmp_path):
    folder, _ = run
    export.write(cli.compose("export", [f"ckpt={folder}", f"output={tmp_path / 'exported'}"]))
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    first, again = seglab.load(folder), seglab.load(tmp_path / "exported")
    assert isinstance(again.task, Classification)
    assert torch.equal(first(image).logits, again(image).logits)
    assert again(image).logits.shape == (2, 10)


def test_data_of_another_task_are_refused_with_both_names(tmp_path):
    cfg = cli.compose("train", ["task=classification", "data=scenes", f"run_dir={tmp_path}"])
    with pytest.raises(ConfigError, match=r"gives label.*needs category"):
        fit(cfg, tmp_path)


def test_metrics_of_another_task_are_refused(tmp_path, cifar10):
    with pytest.raises(ConfigError, match=r"metrics\.confusion compares with the label"):
        fit(config(tmp_path, cifar10, "metrics=default"), tmp_path)


@pytest.mark.parametrize("classifier", options("classifier"))
def test_terms_of_a_pixel_classifier_are_refused_and_its_convolution_is_used(classifier, tmp_path, cifar10):
    cfg = config(tmp_path, cifar10, f"classifier={classifier}")
    spec = build.build_data(cfg, {"category"}).spec
    reads = set(build.build_criterion(cfg).branches)
    if reads == {"logits"}:
        assert build.build_training(cfg, spec).task.eval().model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 10)
    else:
        with pytest.raises(ConfigError, match="which this network does not publish"):
            build.build_training(cfg, spec)


def test_errors_are_shares_of_the_images():
    scores = torch.eye(6)[[0, 1, 2, 3]] * 10 - torch.arange(6.0)  # sure of 0, 1, 2, 3; class 5 comes last
    metric = CategoryError(6)
    batch = Batch(image=torch.zeros(4, 3, 1, 1), names=("",) * 4, category=torch.tensor([0, 1, 0, 5]))
    metric.update(Evaluated(batch=batch, scores=scores))
    found = metric.compute()
    assert (found["top1_error"], found["top5_error"]) == (0.5, 0.25)
    assert found["Acc"][:2] == [0.5, 1.0]
    assert found["Acc"][5] == 0
    assert found["matrix"].sum() == 4
