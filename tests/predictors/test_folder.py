"""A folder of predictions: no name for two images, and no file under a record that did not make it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from seglab.data.spec import DatasetSpec
from seglab.errors import ConfigError
from seglab.predictors.folder import REPLACED, PredictionFolder, assign, stem
from seglab.predictors.pixels import SUFFIXES, PixelWriter
from seglab.runs import atomic

KINDS = tuple(SUFFIXES)
SPEC = DatasetSpec("toy", ("a", "b"), ((0, 0, 0), (9, 9, 9)))

ASKED = {"source": "somewhere", "write": ["index"]}


def made_by(checksum: str = "one", **changes) -> dict:
    about = {"path": f"/runs/{checksum}.ckpt", "step": 7, "checksum": checksum}
    return {"checkpoint": about, "network": "n", "protocol": {"flip": False}, "labels_out": "train", **changes}


@pytest.fixture
def root(tmp_path):
    """Two images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_text(name)
    return folder


def opened(output: Path) -> PredictionFolder:
    return PredictionFolder(output, PixelWriter(output, KINDS, SPEC))


def begin(
    output: Path, root: Path, images: list[str] | None = None, overwrite: bool = False, **how
) -> PredictionFolder:
    folder = opened(output)
    images = images or sorted(path.name for path in root.iterdir())
    folder.begin(made_by(**how), root, images, overwrite, ASKED)
    return folder


def fill(folder: PredictionFolder, text: str = "prediction", kinds=KINDS) -> None:
    for name in folder.stamps:
        for kind in kinds:
            target = folder.writer.target(name, kind)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)


def everything(output: Path) -> dict[str, str]:
    """The predictions below a folder, those that made room included, by their path from the kind's folder on."""
    found = {}
    for path in output.rglob("*"):
        if path.is_file() and path.name != "report.json":
            parts = path.relative_to(output).parts
            found["/".join(parts[2:] if parts[0] == REPLACED else parts)] = path.read_text()
    return found


@pytest.mark.parametrize("seed", range(200))
def test_no_two_images_ever_share_a_name_and_a_name_stays_with_its_image(seed):
    draw = random.Random(seed)
    parts = ["a", "b", "A", "a.png", "sub/a", "a~2", "a.png~2"]
    suffixes = [".png", ".PNG", ".jpg", ".bmp", ".png.bmp", ".jpg.png"]
    known: dict[str, str] = {}
    for _ in range(3):  # what a folder holds changes between the calls
        images = sorted({draw.choice(parts) + draw.choice(suffixes) for _ in range(draw.randint(1, 6))})
        names = assign(images, known)
        assert sorted(names) == images
        assert len(set(names.values())) == len(images)
        for image, name in names.items():
            assert known.get(name, image) == image, "a name that stood for another image"
        for name, image in known.items():
            assert names.get(image, name) == name, "an image that has got another name"
        known |= {name: image for image, name in names.items()}


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["a.png"], ["a"]),
        (["deep/a.PNG", "a.jpg"], ["deep/a", "a"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.png", "a.png.bmp"], ["a", "a.png"]),
        (["a.jpg", "a.png", "a.png.bmp"], ["a.jpg", "a.png", "a.png.bmp"]),
    ],
)
def test_a_name_is_the_path_without_its_suffix_where_that_is_one_images_alone(images, names):
    assert [assign(images, {})[image] for image in images] == names
    assert all(stem(image) == name for image, name in zip(images, names, strict=True) if len(images) == 1)


def test_the_record_is_there_before_the_first_prediction(root, tmp_path):
    begin(tmp_path / "out", root)
    record = json.loads((tmp_path / "out/report.json").read_text())
    assert record["status"] == "running"
    assert record["checkpoint"]["checksum"] == "one"
    assert record["predictions"]["a"]["image"] == str(root / "a.png")


def test_an_interrupted_folder_is_gone_on_with(root, tmp_path):
    fill(begin(tmp_path / "out", root))
    folder = opened(tmp_path / "out")
    entries, said = folder.begin(made_by(), root, ["a.png", "b.png"], False, ASKED)
    assert [entry.name for entry in entries] == ["a", "b"]
    assert all(folder.writer.done(entry.name) for entry in entries)
    assert not said


def test_what_only_trades_memory_for_time_may_change(root, tmp_path):
    fill(begin(tmp_path / "out", root, protocol={"flip": False, "window_batch": 4, "accumulate": "device"}))
    folder = begin(tmp_path / "out", root, protocol={"flip": False, "window_batch": 1, "accumulate": "cpu"})
    assert folder.writer.done("a")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checksum": "two"}, r"another checkpoint \(/runs/one\.ckpt, step 7; now /runs/two\.ckpt, step 7\)"),
        ({"network": "m"}, "another checkpoint"),
        ({"protocol": {"flip": True}}, r"evaluation\.flip=false \(now true\)"),
        ({"labels_out": "raw"}, r"labels_out=train \(now raw\)"),
    ],
)
def test_what_would_be_made_otherwise_is_refused_and_untouched(root, tmp_path, changes, said):
    fill(begin(tmp_path / "out", root))
    before = (everything(tmp_path / "out"), (tmp_path / "out/report.json").read_text())
    with pytest.raises(ConfigError, match=f"(?s)output=.*{said}.*overwrite=true"):
        begin(tmp_path / "out", root, **changes)
    assert (everything(tmp_path / "out"), (tmp_path / "out/report.json").read_text()) == before


def test_overwriting_moves_all_of_another_checkpoint_out_of_the_way_and_deletes_nothing(root, tmp_path):
    fill(begin(tmp_path / "out", root), "old")
    (root / "b.png").unlink()  # its prediction would stay, under the new record
    folder = begin(tmp_path / "out", root, overwrite=True, checksum="two")
    assert not folder.writer.files("a")
    assert set(everything(tmp_path / "out").values()) == {"old"}
    assert len(everything(tmp_path / "out")) == 6
    assert list(folder.stamps) == ["a"]
    (kept,) = (tmp_path / "out" / REPLACED).iterdir()
    assert json.loads((kept / "report.json").read_text())["checkpoint"]["checksum"] == "one"


def test_overwriting_twice_in_a_second_keeps_both(root, tmp_path):
    for number in range(3):
        fill(begin(tmp_path / "out", root, overwrite=True, checksum=str(number)), str(number))
    assert sorted(path.read_text() for path in (tmp_path / "out").rglob("index/a.png")) == ["0", "1", "2"]


@pytest.mark.parametrize("report", [None, '{"images": 2, "done": 2, "failed": {}}', "not JSON", '{"format": 1}', "[]"])
def test_predictions_that_no_record_explains_are_refused_and_moved_only_when_asked(root, tmp_path, report):
    (tmp_path / "out/index").mkdir(parents=True)
    (tmp_path / "out/index/mine.png").write_text("mine")
    if report:
        (tmp_path / "out/report.json").write_text(report)
    with pytest.raises(ConfigError, match=r"report\.json.*overwrite=true"):
        begin(tmp_path / "out", root)
    begin(tmp_path / "out", root, overwrite=True)
    assert everything(tmp_path / "out") == {"index/mine.png": "mine"}
    assert not (tmp_path / "out/index").exists()


def test_a_report_of_something_else_is_not_replaced(root, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.json").write_text('{"bugs": 3}')
    with pytest.raises(ConfigError, match=r"report\.json"):
        begin(tmp_path / "out", root)
    assert (tmp_path / "out/report.json").read_text() == '{"bugs": 3}'


def test_a_file_that_the_record_does_not_know_is_not_taken_for_a_prediction(root, tmp_path):
    fill(begin(tmp_path / "out", root, ["a.png"]))
    (tmp_path / "out/index/b.png").write_text("mine")
    with pytest.raises(ConfigError, match=r"1 files that report\.json does not know, such as .*index/b\.png"):
        begin(tmp_path / "out", root)
    begin(tmp_path / "out", root, overwrite=True)
    assert not (tmp_path / "out/index/b.png").exists()
    assert everything(tmp_path / "out")["index/b.png"] == "mine"


def test_the_prediction_of_an_image_that_has_changed_makes_room_for_a_new_one(root, tmp_path):
    fill(begin(tmp_path / "out", root), "old")
    (root / "a.png").write_text("another content")
    folder = opened(tmp_path / "out")
    _, said = folder.begin(made_by(), root, ["a.png", "b.png"], False, ASKED)
    assert "1 image has changed" in said[0]
    assert not folder.writer.files("a")
    assert folder.writer.done("b")
    assert len(everything(tmp_path / "out")) == 6


def test_an_image_that_comes_later_does_not_get_the_name_of_an_earlier_one(root, tmp_path):
    fill(begin(tmp_path / "out", root))
    (root / "a.jpg").write_text("new")
    folder = begin(tmp_path / "out", root)
    assert {name: Path(found.image).name for name, found in folder.stamps.items()} == {
        "a": "a.png", "b": "b.png", "a.jpg": "a.jpg",
    }  # fmt: skip
    (root / "a.png").unlink()  # and it keeps its own when the other is gone
    assert "a.jpg" in begin(tmp_path / "out", root, ["a.jpg"]).stamps


def test_images_of_the_same_path_below_another_folder_are_not_taken_for_these(root, tmp_path):
    fill(begin(tmp_path / "out", root), "photos")
    other = tmp_path / "others"
    other.mkdir()
    (other / "a.png").write_text("another")
    with pytest.raises(ConfigError, match=rf"other images of the same names \(1, such as a of {root}/a\.png\)"):
        begin(tmp_path / "out", other)
    folder = begin(tmp_path / "out", other, overwrite=True)
    assert folder.stamps["a"].image == str(other / "a.png")
    assert folder.writer.done("b")
    assert len(everything(tmp_path / "out")) == 6


def test_another_process_that_predicts_into_the_same_folder_keeps_its_names(root, tmp_path):
    ours = begin(tmp_path / "out", root, ["a.png"])
    theirs = begin(tmp_path / "out", root, ["b.png"])
    ours.finish({"status": "done"})
    theirs.finish({"status": "done"})
    assert json.loads((tmp_path / "out/report.json").read_text())["predictions"].keys() == {"a", "b"}


def test_a_record_with_foreign_entries_knows_only_the_others(root, tmp_path):
    fill(begin(tmp_path / "out", root))
    path = tmp_path / "out/report.json"
    record = json.loads(path.read_text())
    record["predictions"] |= {"b": 3, "c": {"image": ["x"], "bytes": 1, "modified_ns": 1}, "d": {}}
    path.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"index/b\.png"):
        begin(tmp_path / "out", root)


@pytest.mark.parametrize("where", ["file/out", "x" * 300, "file"])
def test_a_folder_that_cannot_be_made_is_named(root, tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(atomic.Unwritable, match=r"cannot be written"):
        begin(tmp_path / where, root)


def test_links_in_the_output_are_moved_and_not_what_they_point_to(root, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.png").write_text("mine")
    (tmp_path / "out").mkdir()
    os.symlink(tmp_path / "mine", tmp_path / "out/index")
    begin(tmp_path / "out", root, overwrite=True)
    assert (tmp_path / "mine/a.png").read_text() == "mine"
