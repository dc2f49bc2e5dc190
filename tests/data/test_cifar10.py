from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from seglab.data import check
from seglab.data.datasets import CIFAR10
from seglab.data.datasets.cifar10 import BATCHES, PIXELS, Plain
from seglab.errors import ConfigError, DataError

LAYOUTS = ("py", "bin")
LAST = {"py": "test_batch", "bin": "test_batch.bin"}


@pytest.fixture
def made(cifar10_miniature, tmp_path):
    def write(layout: str, per_class: int = 3):
        return cifar10_miniature.write(tmp_path, per_class, layout)

    return write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_published_layouts_are_read(made, layout, tmp_path, caplog):
    folder = made(layout)
    for root in (tmp_path, folder, str(folder)):
        source = CIFAR10(root)
        for split, count in {"train": 30, "test": 10}.items():
            check.run(source, split, "full")
            names = source.names(split)
            assert (len(names), names[0], names[-1]) == (count, f"{split}/00000", f"{split}/{count - 1:05d}")
            samples = [source.read(split, index) for index in range(count)]
            assert [sample.name for sample in samples] == names
            assert np.bincount([sample.category for sample in samples]).tolist() == [count // 10] * 10
            assert {(s.image.shape, s.image.dtype.name, s.label) for s in samples} == {((32, 32, 3), "uint8", None)}
    assert "split train: 30 images; the official split has 50000" in caplog.text
    with pytest.raises(IndexError, match="test has no index 10"):
        source.read("test", 10)
    with pytest.raises(ConfigError, match=r"no split 'val' — it has train, test — change data\.splits"):
        source.names("val")


def test_the_layouts_hold_the_same_images_and_have_one_fingerprint(made):
    python, binary = CIFAR10(made("py")), CIFAR10(made("bin"))
    for split in ("train", "test"):
        assert python.fingerprint(split) == binary.fingerprint(split)
        for index in range(len(python.names(split))):
            a, b = python.read(split, index), binary.read(split, index)
            assert np.array_equal(a.image, b.image)
            assert (a.category, a.name) == (b.category, b.name)
    assert python.fingerprint("train") != python.fingerprint("test")


def test_the_planes_are_red_green_blue_row_by_row(made):
    folder = made("bin")
    record = np.arange(PIXELS + 1, dtype=np.uint16).astype(np.uint8)
    record[0] = 7
    (folder / "test_batch.bin").write_bytes(record.tobytes())
    sample = CIFAR10(folder).read("test", 0)
    assert sample.category == 7
    for channel in range(3):
        expected = (1 + 1024 * channel + np.arange(1024)).astype(np.uint8).reshape(32, 32)
        assert np.array_equal(sample.image[..., channel], expected)


def test_the_published_way_of_reading_reads_the_miniature(made):
    folder = made("py")
    with open(folder / "data_batch_2", "rb") as file:
        content = pickle.load(file, encoding="bytes")
    source = CIFAR10(folder)
    start = len(source.batches("train")[0][1])
    assert content[b"data"][0].tolist() == source.read("train", start).image.transpose(2, 0, 1).ravel().tolist()
    assert content[b"labels"][0] == source.read("train", start).category
    with open(folder / "batches.meta", "rb") as file:
        assert tuple(pickle.load(file, encoding="latin1")["label_names"]) == source.spec.classes


def test_pickles_that_python_3_wrote_are_read_as_well(made):
    folder = made("py")
    content = {"data": np.full((2, PIXELS), 9, np.uint8), "labels": [1, 2]}
    for protocol in (0, 2, 4):
        (folder / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
        source = CIFAR10(folder)
        assert [source.read("test", index).category for index in (0, 1)] == [1, 2]
        assert (source.read("test", 1).image == 9).all()


class Canary:
    """Writes a file when it is unpickled by an unpickler that runs what it is told."""

    def __init__(self, call, *arguments):
        self.made = call, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("place", ["whole", "data", "labels", "behind"])
def test_a_pickle_that_runs_something_is_refused_and_runs_nothing(made, place, tmp_path):
    folder, sign = made("py"), tmp_path / "sign"
    canary = Canary(exec, f"open({str(sign)!r}, 'w').close()")
    content = {b"data": np.zeros((2, PIXELS), np.uint8), b"labels": [0, 1]}
    parts = {"whole": canary, "behind": {**content, b"more": canary}}
    bad = parts.get(place) or {**content, place.encode(): canary}
    path = folder / "test_batch"
    path.write_bytes(pickle.dumps(bad, protocol=2))
    with pytest.raises(DataError, match=r"test_batch: names (__builtin__|builtins)\.exec, which was not run"):
        CIFAR10(folder).names("test")
    assert not sign.exists()
    with path.open("rb") as file:
        pickle.load(file)
    assert sign.exists(), "the canary works"


@pytest.mark.parametrize(
    "named",
    [
        b"cos\nsystem\n",
        b"cnumpy\nload\n",
        b"cnumpy.core.multiarray\nfromfile\n",
        b"c_codecs\nlookup\n",
        b"cnumpy\nndarray.tofile\n",
    ],
)
def test_only_what_stands_for_arrays_may_be_named(named, tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x02" + named + b".")
    with path.open("rb") as file, pytest.raises(DataError, match="which was not run"):
        Plain(file, str(path)).load()


def test_even_what_may_be_named_does_nothing_but_hold_what_the_file_says(made, tmp_path):
    """``numpy.ndarray`` is a word, not the class: with a buffer and the type object it could be given any address."""
    folder = made("py")
    (folder / "test_batch").write_bytes(b"\x80\x02cnumpy\nndarray\n(K\x01\x85U\x01OU\x08AAAAAAAAtR.")
    with pytest.raises(DataError, match="no whole pickle"):
        CIFAR10(folder).names("test")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_and_missing_files_are_named(made, layout):
    folder = made(layout)
    path = folder / LAST[layout]
    whole = path.read_bytes()
    for content in (whole[:-100], whole[: len(whole) // 2 + 1], b"", b"no such thing"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{path.name}: .*expected.*unpack the official archive again"):
            CIFAR10(folder).names("test")
        assert CIFAR10(folder).names("train")
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: No such file.*unpack"):
        CIFAR10(folder).names("test")
    path.mkdir()
    with pytest.raises(DataError, match=path.name):
        CIFAR10(folder).names("test")


@pytest.mark.parametrize(("split", "name"), [("train", "data_batch_3.bin"), ("test", "test_batch.bin")])
def test_a_file_that_ends_between_two_records_is_refused_where_others_are_whole(tmp_path, split, name):
    files = [f"{stem}.bin" for stems in BATCHES.values() for stem in stems]
    for file in files:
        (tmp_path / file).touch()
        os.truncate(tmp_path / file, 30_730_000)
    os.truncate(tmp_path / name, 9_999 * (PIXELS + 1))
    source = CIFAR10(tmp_path)
    for _ in range(2):  # what was refused is not kept
        with pytest.raises(DataError, match=rf"{name}: 9999 images, and files beside it are whole — expected 10000"):
            source.names(split)
    other = {"train": "test", "test": "train"}[split]
    assert len(source.names(other)) == {"train": 50000, "test": 10000}[other]


def test_a_pipe_in_the_place_of_a_batch_is_not_waited_at(made, pipe):
    folder = made("py")
    (folder / "test_batch").unlink()
    (folder / "test_batch").symlink_to(pipe)
    with pytest.raises(DataError, match="test_batch: no regular file"):
        CIFAR10(folder).names("test")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("label", [10, 255])
def test_a_label_that_is_no_class_is_refused(made, cifar10_miniature, layout, label):
    folder = made(layout)
    labels, pixels = np.array([3, label]), np.zeros((2, PIXELS), np.uint8)
    make = {"py": lambda: cifar10_miniature.as_python2({b"data": pixels, b"labels": labels.tolist()}),
            "bin": lambda: cifar10_miniature.records(pixels, labels)}[layout]  # fmt: skip
    (folder / LAST[layout]).write_bytes(make())
    with pytest.raises(DataError, match=rf"test_batch(\.bin)?: label {label} of image 1 — expected 0 to 9"):
        CIFAR10(folder).names("test")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({b"data": np.zeros((2, 99), np.uint8)}, r"expected uint8 \[images, 3072\]"),
        ({b"data": np.zeros((2, PIXELS), np.float32)}, r"expected uint8 \[images, 3072\]"),
        ({b"data": np.zeros((0, PIXELS), np.uint8)}, r"expected uint8 \[images, 3072\]"),
        ({b"data": np.asfortranarray(np.ones((2, PIXELS), np.uint8))}, r"expected uint8 \[images, 3072\]"),
        ({b"data": np.array([[None] * PIXELS] * 2)}, r"expected uint8 \[images, 3072\]"),
        ({b"data": b"pixels"}, r"data is no array"),
        ({b"labels": [1]}, "labels are no list of 2 whole numbers"),
        ({b"labels": [1, 2.5]}, "labels are no list of 2 whole numbers"),
        ({b"labels": [1, 10**40]}, "label 1000000.* of image 1 — expected 0 to 9"),
        ({b"labels": [-1, 1]}, "label -1 of image 0"),
        ({b"labels": None}, "labels are no list"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_batch_is_refused(made, cifar10_miniature, changes, says):
    folder = made("py")
    content = {b"data": np.zeros((2, PIXELS), np.uint8), b"labels": [0, 1]}
    (folder / "test_batch").write_bytes(cifar10_miniature.as_python2({**content, **changes}))
    with pytest.raises(DataError, match=rf"test_batch: .*{says}"):
        CIFAR10(folder).names("test")


def test_a_folder_without_batches_shows_the_expected_tree(tmp_path):
    with pytest.raises(DataError, match=r"data\.root is not set(.|\n)*cifar-10-batches-bin"):
        CIFAR10(None).names("train")
    with pytest.raises(DataError, match=r"set data\.root=FOLDER(.|\n)*cifar-10-batches-py"):
        CIFAR10(tmp_path).names("train")
    assert CIFAR10(None).spec.num_classes == 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_process_opens_the_files_itself(made, layout):
    source = CIFAR10(made(layout))
    source.names("train")
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).read("train", 5).image, source.read("train", 5).image)


def test_the_classes_of_the_miniature_can_be_told_apart(made):
    """By the class of the nearest mean colour, which is what a network learns first."""
    source = CIFAR10(made("bin", per_class=20))

    def colours(split):
        samples = [source.read(split, index) for index in range(len(source.names(split)))]
        return np.array([s.image.mean((0, 1)) for s in samples]), np.array([s.category for s in samples])

    train, classes = colours("train")
    test, expected = colours("test")
    means = np.stack([train[classes == k].mean(0) for k in range(10)])
    found = np.linalg.norm(test[:, None] - means, axis=-1).argmin(1)
    assert 0.4 < (found == expected).mean() < 1, "better than a guess, and not by colour alone"
