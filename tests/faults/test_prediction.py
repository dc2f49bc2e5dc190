"""Prediction when files, disks, devices and signals do their worst: one image never ends the rest, nothing is mistaken."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from seglab import export, predict, visualize
from seglab.errors import CheckpointError, ConfigError, DataError
from seglab.models.segmenter import Segmenter
from seglab.runs import atomic
from seglab.runs.signals import Stopped
from tests.predicting import network, photograph, runner


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    return network(tmp_path_factory.mktemp("net") / "net.ckpt")


@pytest.fixture
def source(tmp_path):
    """Four images; that of 30x43 is the odd one."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        photograph(folder / name, seed=number)
    photograph(folder / "b_odd.png", size=(30, 43))
    return folder


@pytest.fixture
def run(ckpt, source, tmp_path):
    return runner(ckpt, source, tmp_path / "out")


@pytest.fixture
def report(tmp_path):
    return lambda: json.loads((tmp_path / "out/report.json").read_text())


@pytest.fixture
def seen(monkeypatch):
    """What the network is shown (``widths``), and what it raises at the odd image, or ``everywhere``."""

    found = SimpleNamespace(widths=[], error=None, everywhere=False)
    forward = Segmenter.forward

    def spied(self, image, target=None, **named):
        found.widths.append(image.shape[-1])
        if found.error is not None and (found.everywhere or image.shape[-1] == 43):
            raise found.error
        return forward(self, image, target, **named)

    monkeypatch.setattr(Segmenter, "forward", spied)
    return found


def index(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "index").glob("*")}


# What made the predictions


def test_predictions_of_another_checkpoint_are_refused_and_kept(run, tmp_path):
    out = run("write=[index]")
    before = index(out)
    other = network(tmp_path / "other.ckpt", step=9)
    with pytest.raises(ConfigError, match=r"net\.ckpt, step 7; now .*other\.ckpt, step 9.*overwrite=true"):
        run("write=[index]", f"ckpt={other}")
    assert index(out) == before
    run("write=[index]", f"ckpt={other}", "overwrite=true")
    assert index(out) != before
    (kept,) = (out / ".replaced").iterdir()
    assert index(kept) == before


def test_a_checkpoint_that_does_not_exist_is_said_so_although_nothing_is_left_to_do(run):
    run("write=[index]")
    with pytest.raises(CheckpointError, match="nowhere"):
        run("write=[index]", "ckpt=/nowhere/best.ckpt")


@pytest.mark.parametrize("change", ["evaluation.flip=true", "evaluation.long_short=[64,32]"])
def test_predictions_of_another_protocol_are_refused(run, change):
    run("write=[index]")
    with pytest.raises(ConfigError, match=change.partition("=")[0]):
        run("write=[index]", change)


def test_its_export_is_the_same_checkpoint_and_other_kinds_and_images_may_follow(
    run, seen, compose, ckpt, source, tmp_path
):
    from omegaconf import OmegaConf

    out = run("write=[index]")
    export.export(OmegaConf.create(compose("export", [f"ckpt={ckpt}", f"output={tmp_path / 'exported'}"])))
    photograph(source / "later.png")
    before = index(out)
    seen.widths = []
    run(f"ckpt={tmp_path / 'exported'}", "write=[index,overlay]")
    assert len(seen.widths) == 5, "the overlays of all, and the index of the new one"
    assert before.items() <= index(out).items()
    assert (out / "overlay/a.jpg").is_file()
    run("write=[overlay]")
    assert len(seen.widths) == 5


def test_the_report_says_what_made_the_predictions(run, report, ckpt, source):
    run("write=[index]", "evaluation.flip=true")
    about = report()
    assert about["checkpoint"] | {"checksum": 0} == {"path": str(ckpt), "step": 7, "checksum": 0}
    assert about["protocol"]["flip"] is True
    assert (about["source"], about["write"], about["labels_out"]) == (str(source), ["index"], "train")
    assert (about["status"], about["images"], about["done"], about["failed"]) == ("done", 4, 4, {})


def test_a_folder_of_an_older_version_is_refused(run):
    out = run("write=[index]")
    (out / "report.json").write_text('{"images": 4, "done": 4, "failed": {}}')
    with pytest.raises(ConfigError, match=r"report\.json"):
        run("write=[index]")


def test_after_a_kill_only_the_rest_is_predicted(run, seen, monkeypatch):
    seen.error = SystemExit(9)
    with monkeypatch.context() as killed:
        killed.setattr(predict.PredictionFolder, "finish", lambda *_: None)
        with pytest.raises(SystemExit):
            run("write=[index]")
    seen.error, seen.widths = None, []
    assert len(index(run("write=[index]"))) == 4
    assert seen.widths == [43, 41], "the odd one and what comes after it"


# Names


def test_images_of_almost_the_same_name_have_a_prediction_each(run, tmp_path):
    folder = tmp_path / "names"
    shades = {"a.jpg": 0, "a.png": 100, "a.png.bmp": 200, "A.PNG": 50}
    for name, shade in shades.items():
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 9 + shade // 50, 3), shade, np.uint8)).save(folder / name)
    out = run(f"source={folder}", "write=[index]")
    widths = {path.name: Image.open(path).width for path in (out / "index").iterdir()}
    assert widths == {"a.jpg.png": 9, "a.png.png": 11, "a.png.bmp.png": 13, "A.png": 10}


def test_an_image_that_comes_later_is_not_taken_for_predicted(run, source, tmp_path):
    out = run(f"source={source / 'a.png'}", "write=[index]")
    photograph(source / "a.jpg", seed=5, size=(20, 20))
    run("write=[index]")
    assert Image.open(out / "index/a.png").size == (41, 30)
    assert Image.open(out / "index/a.jpg.png").size == (20, 20)


def test_one_file_after_another_of_the_same_stem_are_two_images(run, source):
    photograph(source / "a.jpg", size=(20, 20))
    run(f"source={source / 'a.png'}", "write=[index]")
    out = run(f"source={source / 'a.jpg'}", "write=[index]")
    assert sorted(index(out)) == ["a.jpg.png", "a.png"]


def test_an_image_that_was_changed_is_predicted_again(run, source):
    out = run("write=[index]")
    photograph(source / "a.png", size=(20, 22))
    run("write=[index]")
    assert Image.open(out / "index/a.png").size == (22, 20)


@pytest.mark.parametrize("name", ["a[/red]", "a\nb", b"caf\xe9".decode(errors="surrogateescape")])
def test_a_file_name_may_be_anything(run, tmp_path, name):
    path = tmp_path / "names" / f"{name}.png"
    path.parent.mkdir(parents=True)
    photograph(tmp_path / "x.png").rename(path)
    out = run(f"source={tmp_path / 'names'}", "write=[index]")
    assert os.path.isfile(out / "index" / f"{name}.png")


# One odd image


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (1, 1)])
def test_an_image_of_one_row_or_column_is_predicted(run, tmp_path, size):
    photograph(tmp_path / "odd/x.png", size=size)
    out = run(f"source={tmp_path / 'odd'}")
    assert Image.open(out / "index/x.png").size == size[::-1]
    assert max(Image.open(out / "overlay/x.jpg").size) <= max(480, *size) + 50


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 34.3 GiB"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 36864000000 bytes."),
        RuntimeError("Kernel size can't be greater than actual input size"),
        ConfigError("an image of 30x43 for backbone vit, which was built for 30x41"),
    ],
    ids=["numpy", "cuda", "torch", "unexpected", "refused"],
)
def test_one_image_that_fails_is_named_and_the_rest_is_predicted(run, seen, report, source, error):
    seen.error = error
    with pytest.raises(predict.PartialPrediction, match=r"1 of 4 images"):
        run("write=[index]")
    about = report()
    assert (about["status"], about["done"]) == ("partial", 3)
    reason = about["failed"].pop(str(source / "b_odd.png"))
    assert reason.startswith(str(source / "b_odd.png"))
    assert str(error).split(":")[0] in reason
    assert ("evaluation.mode=slide" in reason) == ("memory" in str(error) or isinstance(error, MemoryError))
    assert not about["failed"]


def test_an_image_that_the_protocol_makes_too_much_of_is_named_with_the_keys(run, report, source):
    with pytest.raises(
        DataError, match=r"a\.png: .*30x41 pixels .*60000x60000.*evaluation\.long_short.*evaluation\.divisor"
    ):
        run(f"source={source / 'a.png'}", "write=[index]", "evaluation.divisor=60000")
    assert report()["status"] == "failed"


def test_scores_that_would_fill_the_memory_are_refused_unless_max_pixels_lets_them_in(run, source, monkeypatch):
    from seglab.predictors import pixels

    monkeypatch.setattr(pixels, "MAX_SCORES", 3 * 30 * 41)
    flipped = ["write=[index]", "evaluation.flip=true"]
    with pytest.raises(
        predict.PartialPrediction, match=r"b_odd\.png: .*evaluation\.flip=false.*max_pixels=1290"
    ) as raised:
        run(*flipped)
    assert "a.png" not in str(raised.value)
    assert len(index(run(*flipped, "max_pixels=1290"))) == 4


def test_a_large_image_is_told_the_key_that_exists_here(run):
    with pytest.raises(predict.PartialPrediction, match=r"43x30 pixels.* set max_pixels") as raised:
        run("write=[index]", "max_pixels=1230")
    assert "data.dataset" not in str(raised.value)


def test_a_name_that_is_too_long_with_its_suffix_fails_alone(run, source, report):
    long = f"{'ä' * 124}x.tif"  # 253 bytes; with .png and the temporary file's dot and number too many
    photograph(source / "a.png").rename(source / long.replace(".tif", ".png"))
    photograph(source / "d.tif").rename(source / long)
    with pytest.raises(predict.PartialPrediction, match=r"2 of 5 images"):
        run("write=[index]")
    assert report()["done"] == 3


def test_a_folder_that_is_in_the_way_of_one_prediction_fails_it_alone(run, report):
    out = run("write=[index]")
    (out / "colour/b.png").mkdir(parents=True)
    with pytest.raises(
        predict.PartialPrediction, match=r"b\.png: .*prediction \(b\) cannot be written \(Is a directory\)"
    ):
        run()
    assert report()["done"] == 3


def test_files_that_are_no_images_are_left_out_by_name(run, source, report):
    (source / "folder.png").mkdir()
    (source / "gone.png").symlink_to(source / "nowhere.png")
    with pytest.raises(predict.PartialPrediction, match=r"2 of 6 images"):
        run("write=[index]")
    assert sorted(Path(path).name for path in report()["failed"]) == ["folder.png", "gone.png"]


# All images


def test_a_programs_error_is_no_images_and_ends_the_run_early(run, seen, report):
    seen.error, seen.everywhere = TypeError("'NoneType' object is not subscriptable"), True
    with pytest.raises(TypeError, match="NoneType"):
        run("write=[index]")
    assert len(seen.widths) == 3
    assert (report()["status"], report()["done"]) == ("failed", 0)
    assert "TypeError" in next(iter(report()["failed"].values()))


def test_no_image_that_could_be_predicted_is_bad_input(run, source, report):
    for path in source.iterdir():
        path.write_text("<html>")
    with pytest.raises(DataError, match=r"no image could be predicted") as raised:
        run()
    assert raised.value.exit_code == 2
    assert (report()["status"], len(report()["failed"])) == ("failed", 4)


def test_a_device_that_is_lost_ends_the_run(run, seen, monkeypatch, report):
    from seglab.predictors.base import Predictor

    seen.error = RuntimeError("CUDA error: device-side assert triggered")
    monkeypatch.setattr(Predictor, "works", lambda self: False)
    with pytest.raises(RuntimeError, match="device-side"):
        run("write=[index]")
    assert report()["done"] == 2


@pytest.mark.parametrize(("number", "status", "code"), [("SIGINT", "interrupted", 130), ("SIGTERM", "preempted", 143)])
def test_a_signal_ends_the_run_in_order(run, report, monkeypatch, number, status, code):
    handler = signal.getsignal(getattr(signal, number))
    forward = Segmenter.forward

    def signalled(self, image, target=None, **named):
        if image.shape[-1] == 43:
            os.kill(os.getpid(), getattr(signal, number))
        return forward(self, image, target, **named)

    monkeypatch.setattr(Segmenter, "forward", signalled)
    with pytest.raises(Stopped) as left:
        run("write=[index]")
    assert left.value.code == code
    assert (report()["status"], report()["done"]) == (status, 2)
    assert signal.getsignal(getattr(signal, number)) is handler
    monkeypatch.setattr(Segmenter, "forward", forward)
    assert len(index(run("write=[index]"))) == 4


def full(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_full_disk_ends_the_run_at_once_and_keeps_what_is_there(run, seen, monkeypatch, report):
    save_to = visualize.save

    def limited(image, path):
        with atomic.replacing(Path(path)):  # as the disk would say it
            if Path(path).stem == "b":
                full(path)
        save_to(image, path)

    monkeypatch.setattr(visualize, "save", limited)
    with pytest.raises(atomic.DiskFull, match=r"no space.*1 of 4 images done, the same command predicts the rest"):
        run("write=[index]")
    assert len(seen.widths) == 2
    assert report()["done"] == 1
    monkeypatch.setattr(visualize, "save", save_to)
    assert len(index(run("write=[index]"))) == 4


def test_a_disk_that_has_become_read_only_is_not_tried_image_by_image(run, seen, monkeypatch):
    from seglab.predictors import folder

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(visualize, "save", refused)
    monkeypatch.setattr(folder.tempfile, "TemporaryFile", refused)
    with pytest.raises(atomic.Unwritable, match=r"cannot be written \(Read-only"):
        run("write=[index]")
    assert len(seen.widths) == 1


# Options


@pytest.mark.parametrize(
    "override",
    [
        "write=[]", "write=index", "write=[index,masks]", "write=[[index]]", "labels_out=null", "labels_out=[train]",
        "max_pixels=-1", "max_pixels=0", "max_pixels=many", "max_pixels=1.5", "max_pixels=true", "device=3", "device=abacus",
        "'device=cpu:x'", "device=cuda:99", "overwrite=maybe", "trust=1", "output=2024", "source=1e3", "protocol=best",
        "evaluation.flip=maybe", "evaluation.ratios=0.5", "evaluation.ratios=[x]", "evaluation.ratios=[1e308]",
        "evaluation.long_short=true", "evaluation.long_short=[2048,x]", "evaluation.divisor=wide", "evaluation.window_batch=0",
        "evaluation.mode=3",
    ],
)  # fmt: skip
def test_an_option_of_a_wrong_kind_is_refused_by_its_key(run, override, tmp_path):
    override = override.strip("'")
    with pytest.raises(ConfigError, match=rf"^{override.partition('=')[0]}"):
        run(override)
    assert not (tmp_path / "out").exists()
