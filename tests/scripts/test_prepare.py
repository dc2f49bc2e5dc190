from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglab.data import check, convert, datasets
from seglab.data.tables import class_list, coco_stuff10k_split, nyudv2_official
from seglab.errors import DataError
from tests.pages import script

savemat = pytest.importorskip("scipy.io", reason="scipy is needed for .mat files").savemat

COCO, CITY, PASCAL, VOC, NYU = (
    script(f"prepare_{name}") for name in ("coco_stuff", "cityscapes", "pascal_context", "voc2012", "nyudv2")
)


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 2)).save(path)


def mat(path: Path, field: str, ids) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {field: np.array([ids, ids], np.uint16), "captions": ["a", "b"]}, do_compression=True)
    return path


def grey(path: Path, ids) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([ids, ids], np.uint8)).save(path)
    return path


@pytest.fixture
def coco10k(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        for name in coco_stuff10k_split(split)[:count]:
            write_image(tmp_path / "images" / f"{name}.jpg")
            mat(tmp_path / "annotations" / f"{name}.mat", "S", (0, 1, 13, 182))
    return tmp_path


def test_coco_stuff_10k_mat_files_become_a_dataset(coco10k):
    assert COCO.prepare_10k(str(coco10k)) == 5
    source = datasets.CocoStuff10k(coco10k)
    for split, count in (("train", 3), ("test", 2)):
        check.run(source, split, "full")
        assert len(source.names(split)) == count
        assert source.read(split, 0).label[0].tolist() == [255, 0, 11, 170]


def test_a_second_run_writes_only_what_is_missing(coco10k):
    COCO.prepare_10k(str(coco10k))
    files = sorted((coco10k / "annotations").rglob("*.png"))
    dates = [file.stat().st_mtime_ns for file in files]
    assert COCO.prepare_10k(str(coco10k)) == 0
    assert [file.stat().st_mtime_ns for file in files] == dates
    files[0].unlink()
    assert COCO.prepare_10k(str(coco10k)) == 1


def test_version_1_0_is_refused_before_anything_is_written(coco10k):
    for path in coco10k.rglob("*.mat"):
        mat(path, "S", (1, 2, 100, 172))
    with pytest.raises(DataError, match=r"version 1\.0"):
        COCO.prepare_10k(str(coco10k))
    assert not list(coco10k.rglob("*.png"))


def test_an_id_that_was_never_annotated_is_named_with_its_file(coco10k):
    path = mat(next(coco10k.rglob("*.mat")), "S", (0, 12, 1, 1))
    with pytest.raises(DataError, match=rf"{path.stem}.*label ids 12"):
        COCO.prepare_10k(str(coco10k))


def test_a_damaged_or_foreign_mat_file_is_named(coco10k):
    path = next(coco10k.rglob("*.mat"))
    mat(path, "LabelMap", (0, 1, 2, 3))
    with pytest.raises(DataError, match=rf"{path.stem}.*no field S"):
        COCO.prepare_10k(str(coco10k))
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match=rf"{path.stem}.*MATLAB"):
        COCO.prepare_10k(str(coco10k))


def test_every_official_coco_id_has_its_place():
    from seglab.data.datasets.coco_stuff import TABLE

    assert len(COCO.LABEL_IDS) == 172
    assert COCO.LABEL_IDS[0] == 0
    assert sorted(COCO.LABEL_IDS.values()) == list(range(172))
    assert COCO.LABEL_IDS[TABLE.raw[80]] == 81
    assert TABLE.raw[80] == 92
    assert set(range(183)) - set(COCO.LABEL_IDS) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}


def test_coco_stuff_164k_is_converted_beside_the_published_files(tmp_path):
    for split in ("train2017", "val2017"):
        write_image(tmp_path / "images" / split / "000000000009.jpg")
        grey(tmp_path / "annotations" / split / "000000000009.png", (0, 12, 181, 255))
    assert COCO.prepare_164k(str(tmp_path)) == 2
    assert COCO.prepare_164k(str(tmp_path)) == 0
    raw, converted = (datasets.CocoStuff164k(tmp_path, labels=kind) for kind in ("raw", "train_ids"))
    for split in raw.splits:
        check.run(converted, split, "full")
        assert np.array_equal(raw.read(split, 0).label, converted.read(split, 0).label)
        assert converted.read(split, 0).label[0].tolist() == [0, 11, 170, 255]


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    for split, city in (("train", "aachen"), ("val", "lindau")):
        frame = f"{city}/{city}_000000_000019"
        write_image(tmp_path / "leftImg8bit" / split / f"{frame}_leftImg8bit.png")
        grey(tmp_path / "gtFine" / split / f"{frame}_gtFine_labelIds.png", (0, 7, 26, 33))
    assert CITY.prepare(str(tmp_path)) == 2
    source = datasets.Cityscapes(tmp_path, labels="train_ids")
    for split in ("train", "val"):
        check.run(source, split, "full")
        assert source.read(split, 0).label[0].tolist() == [255, 0, 13, 18]
    stored = Image.open(next((tmp_path / "gtFine").rglob("*_labelTrainIds.png")))
    assert stored.mode == "L"


@pytest.fixture
def voc(tmp_path):
    lists = {"train": ("2008_000008", "2009_000001"), "val": ("2008_000002",)}
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in lists.items():
        (tmp_path / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            write_image(tmp_path / "JPEGImages" / f"{name}.jpg")
            mat(tmp_path / "trainval" / f"{name}.mat", "LabelMap", (1, 2, 284, 458))
    return tmp_path


def test_pascal_context_mat_files_become_a_dataset_of_59_and_of_60_classes(voc):
    assert PASCAL.prepare(str(voc)) == 3
    assert PASCAL.prepare(str(voc)) == 0
    raw = class_list("pascal_context").raw
    expected = [raw.index(i) if i in raw else 0 for i in (1, 2, 284, 458)]
    assert expected[1] == 1
    assert expected[3] == 59
    sixty, fifty_nine = datasets.PascalContext60(voc), datasets.PascalContext59(voc)
    for source in (sixty, fifty_nine):
        for split, count in (("train", 2), ("val", 1)):
            check.run(source, split, "full")
            assert len(source.names(split)) == count
    assert sixty.read("val", 0).label[0].tolist() == expected
    assert fifty_nine.read("val", 0).label[0].tolist() == [k - 1 if k else 255 for k in expected]


def test_a_missing_pascal_label_is_listed_and_no_list_is_written(voc):
    (voc / "trainval" / "2008_000002.mat").unlink()
    with pytest.raises(DataError, match=r"1 of 3 label files are missing: 2008_000002.*--mat"):
        PASCAL.prepare(str(voc))
    assert not (voc / "ImageSets" / "SegmentationContext").exists()


VOC_TRAIN, VOC_VAL = ("2007_000032", "2011_003271"), ("2007_000033", "2008_000002")
SBD_TRAIN, SBD_VAL = ("2011_003271", "2008_000019", "2007_000033"), ("2008_000015", "2008_000002")
"""SBD divides otherwise: its train holds an image of VOC's train, and one of VOC's val."""


def sbd_mat(path: Path, ids, field: str = "GTcls") -> Path:
    """A file of SBD: a struct of the class map, sparse boundaries per class, and the classes that are there."""
    from scipy.sparse import csc_matrix

    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [csc_matrix(np.zeros((2, len(ids)))) for _ in range(20)]
    segmentation, present = np.array([ids, ids], np.uint8), np.array([[k] for k in sorted(set(ids) - {0})], np.uint8)
    content = {"Boundaries": boundaries, "Segmentation": segmentation, "CategoriesPresent": present}
    savemat(path, {field: content}, do_compression=True)
    return path


@pytest.fixture
def voc2012(tmp_path):
    """VOC2012 and SBD beside each other, as unpacked."""
    base, sbd = tmp_path / "VOCdevkit" / "VOC2012", tmp_path / "benchmark_RELEASE" / "dataset"
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    (sbd / "img").mkdir(parents=True)
    for split, names in (("train", VOC_TRAIN), ("val", VOC_VAL)):
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            grey(base / "SegmentationClass" / f"{name}.png", (0, 15, 20, 255))
    for split, names in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        (sbd / f"{split}.txt").write_text("\n".join(names) + "\n")
        for name in names:
            sbd_mat(sbd / "cls" / f"{name}.mat", (0, 15, 20, 20))
            sbd_mat(sbd / "inst" / f"{name}.mat", (0, 1, 2, 2), "GTinst")
    for name in {*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL}:
        write_image(base / "JPEGImages" / f"{name}.jpg")
    return tmp_path


@pytest.mark.parametrize("sbd", ["", "benchmark_RELEASE", "benchmark_RELEASE/dataset"])
def test_sbd_and_voc_train_without_voc_val_are_trainaug(voc2012, sbd):
    written, lists = VOC.prepare(str(voc2012), str(voc2012 / sbd))
    assert written == 2
    assert lists.aug == ["2008_000015", "2008_000019"]
    assert lists.trainaug == sorted([*VOC_TRAIN, *lists.aug])
    source = datasets.VOC2012(voc2012)
    check.run(source, "trainaug", "full")
    assert [name.rpartition("/")[2] for name in source.names("trainaug")] == lists.trainaug
    labels = [source.read("trainaug", index).label[0].tolist() for index in range(4)]
    assert labels == [[0, 15, 20, 255], [0, 15, 20, 20], [0, 15, 20, 20], [0, 15, 20, 255]]
    folder = voc2012 / "VOCdevkit" / "VOC2012"
    assert (folder / "ImageSets" / "Segmentation" / "aug.txt").read_text().split() == lists.aug
    assert sorted(path.stem for path in (folder / "SegmentationClassAug").iterdir()) == lists.aug
    assert VOC.prepare(str(folder), str(voc2012 / sbd)) == (0, lists)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda path: path.unlink(), "1 of 2 masks are missing: 2008_000015"),
        (lambda path: path.write_bytes(b"junk"), r"2008_000015\.mat: cannot be read as a MATLAB file"),
        (lambda path: path.write_bytes(path.read_bytes()[:150]), r"2008_000015\.mat: cannot be read as a MATLAB file"),
        (lambda path: sbd_mat(path, (0, 1), "GTinst"), r"2008_000015\.mat: no field GTcls\.Segmentation"),
        (lambda path: savemat(path, {"GTcls": np.eye(2)}), r"2008_000015\.mat: no field GTcls\.Segmentation"),
        (lambda path: savemat(path, {"GTcls": {"Boundaries": 1}}), r"2008_000015\.mat: no field GTcls\.Segmentation"),
        (lambda path: sbd_mat(path, (0, 21, 20, 90)), r"2008_000015\.mat: ids 21, 90 — 0\.\.20, 255 are expected"),
        (lambda path: savemat(path, {"GTcls": {"Segmentation": "text"}}), r"2008_000015\.mat: .* whole numbers"),
    ],
)
def test_a_mask_of_sbd_that_is_missing_or_of_another_kind_is_named_and_no_list_is_written(voc2012, broken, says):
    sbd = voc2012 / "benchmark_RELEASE" / "dataset"
    broken(sbd / "cls" / "2008_000015.mat")
    with pytest.raises(DataError, match=says):
        VOC.prepare(str(voc2012), str(sbd))
    lists = sorted(path.name for path in (voc2012 / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation").iterdir())
    assert lists == ["train.txt", "val.txt"]


def test_lists_of_voc_in_the_place_of_sbds_are_refused(voc2012):
    sbd = voc2012 / "benchmark_RELEASE" / "dataset"
    for split, names in (("train", VOC_TRAIN), ("val", VOC_VAL)):
        (sbd / f"{split}.txt").write_text("\n".join(names))
    with pytest.raises(DataError, match="no image beyond those of .*SBD's own lists"):
        VOC.prepare(str(voc2012), str(sbd))


def test_a_folder_of_something_else_is_refused(voc2012):
    root, sbd = str(voc2012 / "VOCdevkit"), str(voc2012 / "benchmark_RELEASE")
    with pytest.raises(DataError, match=rf"{root}: no folder cls in it — .*benchmark\.tgz is expected — unpack"):
        VOC.prepare(root, root)
    with pytest.raises(DataError, match=rf"{sbd}: no folder ImageSets/Segmentation in it — .*VOC2012 of VOCtrainval"):
        VOC.prepare(sbd, sbd)


def test_the_script_for_voc_says_what_trainaug_holds(voc2012, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare", str(voc2012), str(voc2012), "--workers", "1"])
    VOC.main()
    assert "2 label files written" in (said := capsys.readouterr().out)
    assert "trainaug has 4 images (the official one 10582)" in said


NYU_SPLITS = {"train": (1, 4), "test": (2, 3)}
NYU_IDS = np.array([[0, 21, 20], [894, 11, 5]], np.uint16)
"""Of the 894 names: void, wall, unknown (which is a class: otherprop), and others."""


def labeled_mat(path: Path, **changes) -> Path:
    """The official file in miniature: 4 images of 2x3 pixels, axes as MATLAB stores them, names as references."""
    h5py = pytest.importorskip("h5py", reason="h5py is needed for MATLAB's v7.3 files")
    numbers = np.arange(4)
    images = np.arange(4 * 3 * 3 * 2, dtype=np.uint8).reshape(4, 3, 3, 2)
    depth = np.full((4, 3, 2), 1.2344, np.float32) + numbers[:, None, None].astype(np.float32)
    raw = np.where(np.arange(2) == 0, np.float32(0), depth)
    labels = np.stack([np.roll(NYU_IDS, k, axis=1).T for k in numbers])
    names = ["another"] * 894
    for name, i in zip(class_list("nyudv2_40").classes, nyudv2_official().id_894, strict=True):
        if i is not None:
            names[i - 1] = name
    content = {"images": images, "depths": depth, "rawDepths": raw, "labels": labels, "names": names} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:  # MATLAB's own header
        for name, value in content.items():
            if name != "names":
                if value is not None:
                    file[name] = value
                continue
            cells = file.create_dataset("names", (1, len(value)), h5py.ref_dtype)
            for text in set(value):
                file[f"#refs#/{text}"] = np.array([[ord(letter)] for letter in text], np.uint16)
            cells[0] = [file[f"#refs#/{text}"].ref for text in value]
    return path


def test_the_official_file_of_nyu_becomes_a_dataset(tmp_path):
    file, root = labeled_mat(tmp_path / "nyu.mat"), tmp_path / "nyu"
    assert NYU.prepare(str(root), str(file), splits=NYU_SPLITS) == 4 * 4
    source, raw = datasets.NYUDv2(root), datasets.NYUDv2(root, depth="raw")
    table = np.array(nyudv2_official().from_894)
    assert table[NYU_IDS].tolist()[0] == [0, 1, 40]
    images = np.arange(4 * 3 * 3 * 2).reshape(4, 3, 3, 2)
    for split, numbers in NYU_SPLITS.items():
        check.run(source, split, "full")
        assert [Path(name).name for name in source.names(split)] == [f"{number:04d}" for number in numbers]
        for i, number in enumerate(numbers):
            sample = source.read(split, i)
            for row, column in np.ndindex(2, 3):
                assert sample.image[row, column].tolist() == images[number - 1, :, column, row].tolist()
            stored = table[np.roll(NYU_IDS, number - 1, axis=1)]
            assert np.array_equal(sample.label, np.where(stored == 0, 255, stored - 1))
            assert sample.depth == pytest.approx(np.full((2, 3), number + 0.2344), abs=5e-4)
            assert (raw.read(split, i).depth[0] == 0).all()
            assert raw.read(split, i).depth[1] == pytest.approx(sample.depth[1])


def test_a_preparation_of_nyu_that_was_cut_short_is_no_dataset_and_is_gone_on_with(tmp_path, monkeypatch):
    file, root = labeled_mat(tmp_path / "nyu.mat"), tmp_path / "nyu"

    def stop(stored):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(NYU, "rgb", stop)
        with pytest.raises(KeyboardInterrupt):
            NYU.prepare(str(root), str(file), 1, NYU_SPLITS)
    with pytest.raises(DataError, match=r"prepare_nyudv2\.py"):
        check.run(datasets.NYUDv2(root), "train")
    written = {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}
    assert len(written) == 3 * 4
    assert NYU.prepare(str(root), str(file), 1, NYU_SPLITS) == 4
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert NYU.prepare(str(root), str(file), 1, NYU_SPLITS) == 0
    check.run(datasets.NYUDv2(root), "train", "full")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depths": None}, r"depths missing.*4 images \[3, width, height\]"),
        ({"labels": np.zeros((3, 3, 2), np.uint16)}, r"labels \[3, 3, 2\]"),
        ({"images": np.zeros((4, 2, 3, 3), np.uint8)}, r"images \[4, 2, 3, 3\]"),
        ({"names": ["wall"] * 894}, r"894 names of classes, of which 36 are others than known \(.* wall for floor"),
        ({"names": ["wall"] * 20}, r"20 names of classes, of which 37 are"),
        ({"labels": np.full((4, 3, 2), 895, np.uint16)}, r"labels/1 holds ids 895, and 0\.\.894 are expected"),
        ({"labels": np.zeros((4, 3, 2), np.float32)}, "labels/1 holds float32, and whole numbers"),
        ({"images": np.zeros((4, 3, 3, 2), np.uint16)}, "images/1 holds uint16, and 8-bit colours"),
        ({"depths": np.full((4, 3, 2), 70.0)}, r"depths/1 holds depths beyond 0\.\.65\.535 metres"),
        ({"rawDepths": np.full((4, 3, 2), np.nan)}, "rawDepths/1 holds depths beyond"),
    ],
)
def test_what_is_not_the_official_file_of_nyu_is_named(tmp_path, changes, says):
    file = labeled_mat(tmp_path / "nyu.mat", **changes)
    with pytest.raises(DataError, match=rf"nyu\.mat: .*{says}.* — take nyu_depth_v2_labeled\.mat"):
        NYU.prepare(str(tmp_path / "nyu"), str(file), 1, NYU_SPLITS)
    assert not list((tmp_path / "nyu").rglob("rgb/*.png"))


def test_a_file_of_nyu_that_is_cut_short_or_of_matlabs_older_kind_is_named(tmp_path):
    file = labeled_mat(tmp_path / "nyu.mat")
    file.write_bytes(file.read_bytes()[:-2000])
    older = mat(tmp_path / "older.mat", "labels", (1, 2))
    for path in (file, older):
        with pytest.raises(DataError, match=rf"{path.name}: cannot be read as HDF5 .*nyu_depth_v2_labeled\.mat"):
            NYU.prepare(str(tmp_path / "nyu"), str(path), splits=NYU_SPLITS)


def test_without_h5py_the_extra_to_install_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"needs h5py — run: pip install 'seglab\[prepare\]'"):
        NYU.prepare(str(tmp_path), str(tmp_path / "nyu.mat"))


def test_a_label_is_written_whole_or_not_at_all(tmp_path):
    def fails(part: str) -> None:
        Path(part).write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        convert.write_whole(str(tmp_path / "x.png"), fails)
    assert list(tmp_path.iterdir()) == []


def test_what_was_converted_before_an_error_stays(tmp_path):
    conversions = [convert.Conversion(str(i), str(tmp_path / f"{i}.png")) for i in range(6)]

    def encode(source: str) -> np.ndarray:
        if source == "3":
            raise DataError("3 is bad")
        return np.zeros((2, 2), np.uint8)

    with pytest.raises(DataError, match="3 is bad"):
        convert.convert(conversions, encode, "toy", workers=1)
    assert {path.name for path in tmp_path.iterdir()} >= {"0.png", "1.png", "2.png"}
    assert convert.convert(conversions, lambda _: np.zeros((2, 2), np.uint8), "toy") <= 3


@pytest.mark.parametrize(
    ("module", "arguments"),
    [(COCO, ["10k"]), (COCO, ["164k"]), (CITY, []), (PASCAL, []), (VOC, ["nowhere"]), (NYU, ["nowhere"])],
)
def test_a_script_without_files_leaves_with_code_2_and_says_what_it_needs(
    module, arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments, str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        convert.run(module.main)
    assert left.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_script_prints_how_many_files_it_wrote(voc, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare", str(voc), "--workers", "1"])
    PASCAL.main()
    assert "3 label files written" in capsys.readouterr().out
