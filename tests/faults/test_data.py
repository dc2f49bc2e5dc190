"""Hostile and first data, from the files to the numbers: what trains, what is reported, what is refused."""

from __future__ import annotations

import json
import logging
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from seglab import build, cli, evaluate, train
from seglab.data import check
from seglab.errors import ConfigError, DataError
from seglab.inference import Protocol, infer
from seglab.ops.resize import resize_argmax
from tests.conftest import SMALL_NET, each, network, options

QUICK = [
    "data=folder", "data.num_workers=0", "data.batch_size=2", "augment.crop=[32,32]", "logger=none",
    "trainer.max_steps=1", "trainer.val_check_interval=1", "trainer.accelerator=cpu", "overwrite=true",
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """An empty data set of two classes."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/classes.txt").write_text("background\nobject\n")
    return tmp_path / "data"


@pytest.fixture
def add(root):
    """``add(split, *labels)`` writes each label [H, W] with an image; files are counted, or named by ``name``."""

    def write(split: str, *labels: np.ndarray, name: str = "{}") -> None:
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i, label in enumerate(labels):
            noise = np.random.default_rng(i).integers(0, 256, (*label.shape, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "images" / split / f"{name.format(i)}.png")
            Image.fromarray(label.astype(np.uint8)).save(root / "labels" / split / f"{name.format(i)}.png")

    return write


@pytest.fixture
def fit(root, tmp_path):
    """``fit(*overrides) -> metrics`` of one step, in ``run``."""

    def run(*overrides: str) -> dict:
        common = [*QUICK, *SMALL_NET, f"data.root={root}", f"run_dir={tmp_path / 'run'}"]
        train.fit(cli.compose("train", [*common, *overrides]), tmp_path / "run")
        return json.loads((tmp_path / "run/metrics.json").read_text())

    return run


def checks(size: tuple[int, int] = (40, 40), ids: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """[H, W] of ids in turn."""
    return np.resize(ids, size[0] * size[1]).reshape(size)


def test_without_a_test_split_nothing_is_tested_and_one_line_says_so(add, fit, tmp_path, caplog, capsys):
    add("train", *[checks()] * 2)
    add("val", checks())
    with caplog.at_level(logging.INFO):
        metrics = fit()
    assert [key for key in metrics if key.startswith("test")] == []
    assert not list((tmp_path / "run/tables").glob("test_*"))
    (line,) = [record.getMessage() for record in caplog.records if "no test" in record.getMessage()]
    assert line == "no test: folder has no split test, only train, val — add it, or set data.splits.test=val"
    assert "test at" not in capsys.readouterr().out
    assert fit("data.splits.test=null")["val/mIoU"] == metrics["val/mIoU"]


def test_a_test_split_is_scored_where_there_is_one(add, fit, caplog, capsys):
    for split in ("train", "val", "test"):
        add(split, *[checks()] * 2)
    with caplog.at_level(logging.INFO):
        metrics = fit()
    assert metrics["test/split"] == "test"
    assert "test: split test, 2 images" in caplog.messages
    assert "test at step 1" in capsys.readouterr().out


def test_a_test_of_the_validated_split_says_that_it_is(add, fit, caplog, capsys):
    add("train", *[checks()] * 2)
    add("val", checks())
    with caplog.at_level(logging.INFO):
        metrics = fit("data.splits.test=val")
    assert metrics["test/split"] == "val"
    assert metrics["test/mIoU"] == metrics["val/mIoU"]
    assert "test: split val, 1 images, which is also validated on" in caplog.messages
    printed = capsys.readouterr().out
    assert "test (split val)" in printed
    assert "val at step 1" in printed


@pytest.mark.parametrize(("decoder", "crop"), [("fpn", "[8,8]"), ("upernet", "[8,8]"), ("mlp", "null")])
def test_one_value_for_batch_normalisation_is_refused_with_the_nearest_batch_that_has_two(add, fit, decoder, crop):
    add("train", *[checks((8, 8))] * 2)
    add("val", checks())
    tiny = [f"decoder={decoder}", f"augment.crop={crop}", "augment.ratio=null"]
    with pytest.raises(ConfigError, match=r"data\.batch_size=1 with an image of 8x8.*set data\.batch_size=2"):
        fit(*tiny, "data.batch_size=1")
    assert fit(*tiny)["step"] == 1


SLIVERS = [(1, 1), (1, 1000), (1000, 1)]


@pytest.mark.parametrize("size", SLIVERS)
def test_images_one_pixel_wide_are_trained_on_and_validated(add, fit, size):
    add("train", checks(size), checks(size, (1, 0)))
    add("val", checks(size))
    labelled = [accuracy for accuracy in fit()["val/Acc"] if accuracy is not None]
    assert len(labelled) == len(np.unique(checks(size)))


@pytest.mark.parametrize("decoder", each(options("decoder"), "fpn", "upernet", "encnet", "ifa"))
@pytest.mark.parametrize("classifier", each(options("classifier"), "linear"))
def test_every_network_reads_images_one_pixel_wide(compose, decoder, classifier):
    made = compose("train", [f"decoder={decoder}", f"classifier={classifier}", SMALL_NET[0]])
    model = network(made, 2).eval()
    for size in SLIVERS:
        label = torch.from_numpy(checks(size)).long()[None]
        whole, slide = (
            Protocol(),
            Protocol(mode="slide", window=(512, 512), stride=(512, 512), long_short=(512, 128)),
        )
        for protocol in (whole, slide):
            scores = infer(lambda view: model(view).logits, torch.zeros(1, 3, *size), protocol, size)
            assert resize_argmax(scores, size).shape == label.shape
            assert scores.isfinite().all()


def test_names_as_long_as_a_file_system_allows_are_trained_on_and_drawn(add, fit, tmp_path):
    name = "ß" * 125 + "{}"  # 255 bytes with the suffix, in fewer characters
    for split in ("train", "val"):
        add(split, *[checks()] * 2, name=name)
    fit()
    chosen = [f"ckpt={tmp_path / 'run'}", f"output={tmp_path / 'evaluated'}", "split=val", "images=1"]
    evaluate.score(cli.compose("evaluate", [*chosen, "trainer.accelerator=cpu"]))
    (drawn,) = (tmp_path / "evaluated/images").rglob("*.png")
    assert drawn.name == name.format(0) + ".png"


def map_in(message: str) -> str:
    """The label map that a message gives, as a shell hands it on."""
    (found,) = [word for word in shlex.split(message) if word.startswith("data.dataset.label_map=")]
    return found


def test_masks_of_0_and_255_are_refused_with_the_map_that_mends_them(add, fit):
    add("train", *[checks(ids=(0, 0, 255))] * 3)
    add("val", checks(ids=(0, 0, 255)))
    with pytest.raises(DataError, match="nothing but class background") as caught:
        fit()
    assert caught.value.exit_code == 2
    assert map_in(str(caught.value)) == "data.dataset.label_map={0: 0, 255: 1}"
    metrics = fit(map_in(str(caught.value)))
    assert metrics["val/classes"] == 2
    assert None not in metrics["val/Acc"]  # both are labelled


@pytest.mark.parametrize(
    ("classes", "ids"),
    [(3, (0, 127, 255)), (4, (0, 85, 170, 255)), (2, (1, 2)), (3, (1, 2, 3)), (3, (0, 255)), (2, (0, 1, 2))],
)
def test_a_map_that_a_refusal_gives_makes_labels_that_are_taken(add, root, classes, ids):
    (root / "classes.txt").write_text("".join(f"class {k}\n" for k in range(classes)))
    add("train", *[checks(ids=ids)] * 3)
    add("val", checks(ids=ids))

    def setup(*overrides: str) -> None:
        config = cli.compose("train", [*QUICK, f"data.root={root}", "run_dir=run", *overrides])
        build.build_data(config).setup("fit")

    with pytest.raises(DataError) as caught:
        setup()
    setup(map_in(str(caught.value)))


def test_a_second_class_that_may_be_255_is_reported_and_trained_without(add, fit, caplog):
    add("train", *[checks(ids=(0, 1, 255))] * 3)
    add("val", checks(ids=(0, 0, 1)))
    assert fit()["val/classes"] == 2
    (line,) = [message for message in caplog.messages if "counts as void" in message]
    assert line.startswith("folder, split train: 255 counts as void: 33.3% of the pixels of the 3 training labels")


def test_a_class_that_is_never_labelled_is_reported_once_before_training(add, fit, root, caplog):
    (root / "classes.txt").write_text("background\nobject\nnever\n")
    add("train", *[checks()] * 3)
    add("val", checks())
    fit()
    assert caplog.messages.count("folder, split train: 1 of 3 classes not in the 3 training labels: never") == 1


def test_what_is_left_out_of_validation_is_no_fault(add, fit, tmp_path, caplog):
    add("train", *[checks()] * 3)
    add("val", checks(ids=(0, 0)))
    assert fit()["val/classes"] >= 1
    options = [f"ckpt={tmp_path / 'run'}", f"output={tmp_path / 'evaluated'}", "split=val", "trainer.accelerator=cpu"]
    evaluate.score(cli.compose("evaluate", options))
    assert "classes not in" not in caplog.text


def test_unreadable_labels_beyond_the_probes_are_left_to_on_corrupt(add, root, monkeypatch):
    (root / "classes.txt").write_text("background\nobject\nnever\n")
    add("train", *[checks((4, 4))] * 30)
    add("val", checks((4, 4)))
    monkeypatch.setattr(check, "PROBES", 0)
    (root / "labels/train/3.png").write_bytes(b"")
    common = ["data=folder", f"data.root={root}", "run_dir=run"]
    with pytest.raises(DataError, match=r"3\.png"):
        build.build_data(cli.compose("train", common)).setup("fit")
    build.build_data(cli.compose("train", [*common, "data.on_corrupt=skip"])).setup("fit")
