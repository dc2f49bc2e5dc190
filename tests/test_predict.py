"""Prediction from a checkpoint alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import seglab
from seglab import export, predict
from seglab.errors import ConfigError, DataError
from seglab.predictors.pixels import SUFFIXES
from tests.commands import run as command
from tests.predicting import NET, SPEC, files, network, photograph, runner, save


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    extra = "augment.extra=[{_target_: albumentations.GaussNoise}]"
    return network(tmp_path_factory.mktemp("net") / "net.ckpt", extra)


@pytest.fixture
def source(tmp_path):
    """Photographs in several formats and folders."""
    folder = tmp_path / "photos"
    for name, mode in {"a.png": "RGB", "deep/er/b.jpg": "RGB", "deep/grey.png": "L", "c.webp": "RGBA"}.items():
        photograph(folder / name, mode=mode)
    return folder


@pytest.fixture
def run(ckpt, source, tmp_path):
    return runner(ckpt, source, tmp_path / "out")


def test_every_image_gets_three_files_in_a_mirrored_tree(run):
    names = ["a", "c", "deep/er/b", "deep/grey"]
    expected = [f"{kind}/{name}{suffix}" for kind, suffix in SUFFIXES.items() for name in names]
    assert files(run()) == sorted([*expected, "report.json"])


def test_the_files_hold_ids_colours_and_the_image_with_a_legend(run, ckpt, source):
    out = run()
    ids = np.array(Image.open(out / "index/a.png"))
    assert ids.shape == (30, 41)
    assert ids.dtype == np.uint8

    model = seglab.load(ckpt)
    mean, std = (torch.tensor(model.description.config["normalize"][k]).view(3, 1, 1) for k in ("mean", "std"))
    image = torch.from_numpy(np.array(Image.open(source / "a.png"))).permute(2, 0, 1)
    with torch.no_grad():
        logits = model(((image - mean) / std)[None]).logits
    resized = torch.nn.functional.interpolate(logits, size=(30, 41), mode="bilinear", align_corners=False)
    assert np.array_equal(ids, resized.argmax(1)[0].numpy())

    assert np.array_equal(np.array(Image.open(out / "colour/a.png")), np.array(SPEC.palette, np.uint8)[ids])
    overlay = Image.open(out / "overlay/a.jpg")
    assert overlay.width >= 480
    assert overlay.height > 30 * overlay.width // 41


def test_one_file_is_a_source_too_and_the_kinds_are_a_choice(run, source):
    assert files(run(f"source={source / 'deep/er/b.jpg'}", "write=[index]")) == ["index/b.png", "report.json"]


def test_images_that_differ_in_their_suffix_alone_keep_it(run, source):
    Image.new("RGB", (8, 8)).save(source / "a.jpg")
    assert {"index/a.png.png", "index/a.jpg.png", "index/c.png"} <= set(files(run()))


def test_what_cannot_be_read_is_left_out_and_reported(run, source, tmp_path):
    (source / "deep/torn.jpg").write_bytes((source / "deep/er/b.jpg").read_bytes()[:200])
    (source / "empty.png").touch()
    with pytest.raises(predict.PartialPrediction, match=r"2 of 6 images") as raised:
        run()
    assert raised.value.exit_code == 3
    assert "on_corrupt" not in str(raised.value), "an option of training"
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["done"] == 4
    assert sorted(report["failed"]) == [str(source / "deep/torn.jpg"), str(source / "empty.png")]
    assert (tmp_path / "out/index/deep/er/b.png").is_file()
    assert not (tmp_path / "out/index/empty.png").exists()


def test_a_second_run_goes_on_where_the_first_stopped(run, capsys):
    out = run()
    (out / "overlay/c.jpg").unlink()
    before = (out / "index/a.png").stat().st_mtime_ns
    run()
    assert "3 of 4 images are predicted already" in capsys.readouterr().out.replace("\n", " ")
    assert (out / "overlay/c.jpg").is_file()
    assert (out / "index/a.png").stat().st_mtime_ns == before
    run("overwrite=true")
    assert (out / "index/a.png").stat().st_mtime_ns > before


def test_predictions_inside_the_source_are_not_predicted_again(run, source):
    first = files(run(f"output={source}"))
    assert files(run(f"output={source}", "overwrite=true")) == first


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["source=/nowhere"], DataError, "no such file or folder"),
        (["write=[masks]"], ConfigError, "index, colour, overlay"),
        (["labels_out=cooked"], ConfigError, "train, raw"),
        (["device=abacus"], ConfigError, "auto"),
        (["evaluation.mode=slide"], ConfigError, "evaluation.window"),
        (["labels_out=raw"], ConfigError, "use labels_out=train"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(run, overrides, error, message):
    with pytest.raises(error, match=message):
        run(*overrides)


def test_a_folder_without_images_is_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        run(f"source={tmp_path / 'empty'}")


def test_raw_ids_are_those_of_the_data_sets_files(run, compose, tmp_path):
    from seglab.data.datasets import Cityscapes

    spec = Cityscapes(None).spec
    cityscapes = save(compose("train", ["data=cityscapes", *NET]), tmp_path / "city.ckpt", spec)
    options = [f"ckpt={cityscapes}", "write=[index]", "protocol=plain"]
    train = np.array(Image.open(run(*options) / "index/a.png"))
    raw = np.array(Image.open(run(*options, "labels_out=raw", "overwrite=true") / "index/a.png"))
    back = np.vectorize(spec.label_map.get)(raw)
    assert np.array_equal(back, train)
    assert not np.array_equal(raw, train)


def test_an_exported_folder_predicts_the_same(run, ckpt, compose, tmp_path):
    from omegaconf import OmegaConf

    exported = tmp_path / "exported"
    export.export(OmegaConf.create(compose("export", [f"ckpt={ckpt}", f"output={exported}"])))
    assert files(exported) == ["config.json", "model.safetensors"]
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(seglab.load(exported)(image).logits, seglab.load(ckpt)(image).logits)
    assert "index/a.png" in files(run(f"ckpt={exported}"))


def test_the_command_leaves_with_3_and_predicts_the_rest(ckpt, source, tmp_path):
    (source / "broken.png").write_text("<html>")
    typed = [f"ckpt={ckpt}", f"source={source}", "output=out", "device=cpu"]
    done = command(*typed, cwd=tmp_path, module="seglab.predict", check=False)
    assert done.returncode == 3, done.stderr
    assert "broken.png" in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["colour", "index", "overlay", "report.json"]


def test_the_entry_points_import_nothing_heavy():
    script = (
        "import sys, seglab.predict, seglab.evaluate, seglab.export\n"
        "assert not {'torch', 'PIL', 'numpy', 'lightning', 'rich'} & sys.modules.keys()"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(seglab.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=env)


@pytest.mark.slow
def test_prediction_needs_no_library_of_augmentation(ckpt, source, tmp_path):
    out = tmp_path / "out"
    code = f"""
import sys
sys.modules["albumentations"] = None
from seglab import cli, predict
predict.predict_images(cli.compose("predict", ["ckpt={ckpt}", "source={source}", "output={out}", "device=cpu"]))
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert "index/a.png" in files(out)


def test_an_interrupted_prediction_of_a_video_begins_the_video_again(ckpt, tmp_path):
    for video, count in {"a": 3, "b": 2}.items():
        for i in range(count):
            photograph(tmp_path / f"videos/{video}/f{i}.png", seed=10 * i)
    run = runner(ckpt, tmp_path / "videos", tmp_path / "out")
    out = run("predictor=temporal_average", "write=[index]")
    whole = {name: (out / name).read_bytes() for name in files(out) if name.endswith(".png")}
    assert whole["index/a/f0.png"] == whole["index/b/f0.png"], "nothing of one video reaches the other"
    assert whole["index/a/f1.png"] == whole["index/b/f1.png"]
    still = runner(ckpt, tmp_path / "videos", tmp_path / "still")("write=[index]")
    assert (still / "index/a/f0.png").read_bytes() == whole["index/a/f0.png"]
    assert (still / "index/a/f2.png").read_bytes() != whole["index/a/f2.png"]

    (out / "index/a/f2.png").unlink()
    other = (out / "index/b/f1.png").stat().st_mtime_ns
    run("predictor=temporal_average", "write=[index]")
    assert {name: (out / name).read_bytes() for name in whole} == whole
    assert (out / "index/b/f1.png").stat().st_mtime_ns == other, "a whole video is left alone"
    report = json.loads((out / "report.json").read_text())
    assert (report["images"], report["done"], report["status"]) == (5, 5, "done")
    with pytest.raises(ConfigError, match=r'predictor=\{"refine": \{.*TemporalAverage.* \(now \{"refine": null\}\)'):
        run("write=[index]")


def test_a_folder_between_two_frames_does_not_end_their_sequence(ckpt, tmp_path):
    for i, name in enumerate(["a", "b/x", "c"]):
        photograph(tmp_path / f"inner/{name}.png", seed=i)
        photograph(tmp_path / f"plain/{name[0]}.png", seed=i)
    (tmp_path / "plain/b.png").unlink()
    found = [
        runner(ckpt, tmp_path / f, tmp_path / f"{f}_out")("predictor=temporal_average") for f in ("inner", "plain")
    ]
    assert (found[0] / "index/c.png").read_bytes() == (found[1] / "index/c.png").read_bytes()


def test_what_is_never_reset_begins_again_with_the_first_video(ckpt, tmp_path):
    for i, name in enumerate(["a/0", "a/1", "b/0", "b/1"]):
        photograph(tmp_path / f"videos/{name}.png", seed=i)
    run = runner(ckpt, tmp_path / "videos", tmp_path / "out")
    chosen = ["predictor=tent", "predictor.refine.statistics=stored", "write=[index]"]
    chosen += ["predictor.refine.reset=never", "predictor.refine.optimizer.lr=0.1"]
    out = run(*chosen)
    whole = {name: (out / name).read_bytes() for name in files(out) if name.endswith(".png")}
    (out / "index/b/1.png").unlink()
    run(*chosen)
    assert {name: (out / name).read_bytes() for name in whole} == whole


def test_another_auxiliary_network_in_the_same_file_is_refused(ckpt, source, tmp_path):
    aux = network(tmp_path / "aux.ckpt", "seed=1")
    run = runner(ckpt, source, tmp_path / "out")
    run("predictor=aux_adapt", f"predictor.aux={aux}")
    run("predictor=aux_adapt", f"predictor.aux={aux}")
    network(aux, "seed=2")
    with pytest.raises(ConfigError, match=r"predictor=.*predictor\.aux.*\(now"):
        run("predictor=aux_adapt", f"predictor.aux={aux}")


def test_a_frame_of_another_size_is_named_and_the_video_goes_on(ckpt, tmp_path):
    for i, size in enumerate([(30, 41), (60, 80), (30, 41)]):
        photograph(tmp_path / f"video/f{i}.png", seed=i, size=size)
    with pytest.raises(predict.PartialPrediction, match=r"f1\.png: a frame of the sequence \. has scores of"):
        runner(ckpt, tmp_path / "video", tmp_path / "out")("predictor=temporal_average")
    assert [name for name in files(tmp_path / "out") if name.startswith("index")] == ["index/f0.png", "index/f2.png"]


@pytest.mark.parametrize("decoder", ["fpn", "ifa"])
def test_masks_have_the_size_that_is_asked_for_whatever_their_images(decoder, source, tmp_path):
    ckpt = network(tmp_path / "net.ckpt", f"decoder={decoder}")
    out = runner(ckpt, source, tmp_path / "out")("size=[23,70]")
    for name in ("a", "c", "deep/er/b"):
        assert np.array(Image.open(out / f"index/{name}.png")).shape == (23, 70)
        assert np.array(Image.open(out / f"colour/{name}.png")).shape == (23, 70, 3)
    model = seglab.load(ckpt)
    image = torch.from_numpy(np.array(Image.open(source / "a.png"))).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = model(image, size=(23, 70)).logits
    assert (logits.shape[-2:] == (23, 70)) == (decoder == "ifa")
    resized = torch.nn.functional.interpolate(logits, size=(23, 70), mode="bilinear", align_corners=False)
    assert np.array_equal(np.array(Image.open(out / "index/a.png")), resized.argmax(1)[0].numpy())


def test_predictions_of_another_size_are_refused(run):
    run("size=[23,70]")
    with pytest.raises(ConfigError, match=r"size=\[23, 70\] \(now null\)"):
        run()
    run("size=[23,70]")


@pytest.mark.parametrize("size", ["[0,5]", "[5,-1]", "[5]", "[1,2,3]", "[10000,10000]"])
def test_a_size_of_nothing_or_beyond_the_bound_is_refused_by_name(run, size):
    with pytest.raises(ConfigError, match=r"size=\[.*expected \[height,width\]"):
        run(f"size={size}")


def test_a_size_of_what_is_no_map_is_refused():
    from seglab.inference import Protocol
    from seglab.predictors.base import Opened
    from seglab.predictors.categories import CategoryPredictor

    about = Opened(None, (), SPEC, type("", (), {"config": {}}), Protocol(), torch.device("cpu"), None, (5, 5))
    with pytest.raises(ConfigError, match="size=null"):
        CategoryPredictor(about)
