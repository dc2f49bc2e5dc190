from __future__ import annotations

import numpy as np
import pytest

from seglab.data.labels import LabelTable, ranges
from seglab.data.spec import DatasetSpec
from seglab.errors import ConfigError, DataError


def spec(classes=3, label_map=None):
    return DatasetSpec("toy", tuple("abcdefgh"[:classes]), ((0, 0, 0),) * classes, label_map)


def table(label_map=None, **options):
    return LabelTable(spec(label_map=label_map), **options)


def test_without_a_map_train_ids_and_void_pass_unchanged():
    ids = np.array([[0, 1, 2, 255]], np.uint8)
    assert np.array_equal(table()(ids, "x.png"), ids)


def test_a_map_is_applied_to_8_and_16_bit_and_signed_ids():
    mapped = table({0: 255, 7: 0, 300: 2})
    for dtype in (np.uint16, np.int32):
        assert mapped(np.array([[0, 7, 300]], dtype), "x.png").tolist() == [[255, 0, 2]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_an_unknown_id_names_file_ids_and_legal_range(dtype):
    with pytest.raises(DataError) as caught:
        table()(np.array([[0, 7, 9, 255]], dtype), "labels/x.png")
    assert "labels/x.png" in str(caught.value)
    assert "ids 7, 9" in str(caught.value)
    assert "0..2, 255" in str(caught.value)


def test_ids_beyond_16_bits_are_not_wrapped():
    for stray in (-1, 65536, 1 << 20):
        with pytest.raises(DataError, match=rf"ids {stray} "):
            table()(np.array([[0, stray]], np.int32), "x.png")


@pytest.mark.parametrize(
    ("ids", "says"), [([1, 2, 3], "start at 1"), ([0, 5, 1002], "instance ids"), ([0, 128, 255], "grey levels")]
)
def test_the_likely_cause_is_told(ids, says):
    with pytest.raises(DataError, match=says):
        table()(np.array([ids], np.uint16), "x.png")


def test_unknown_ids_are_void_only_if_asked_for():
    assert table(unknown="ignore")(np.array([[0, 7]], np.uint8), "x.png").tolist() == [[0, 255]]


def test_a_map_to_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="0..2"):
        spec(label_map={1: 3})
    with pytest.raises(ConfigError, match="one colour per class"):
        DatasetSpec("toy", ("a", "b"), ((0, 0, 0),))


def test_ranges_are_short():
    assert ranges({0, 1, 2, 5, 255}) == "0..2, 5, 255"
    assert ranges(range(0, 100, 2), limit=4) == "0, 2, 4, ..., 98"
