from __future__ import annotations

import numpy as np
import pytest

from seglab.data.labels import LabelTable, Seen, histogram, judge, ranges, reading
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


def test_the_likely_cause_is_told():
    with pytest.raises(DataError, match="instance ids"):
        table()(np.array([[0, 5, 1002]], np.uint16), "x.png")


def test_one_label_without_class_0_is_no_reason_to_shift_them_all():
    with pytest.raises(DataError) as caught:
        table()(np.array([[1, 2, 3]], np.uint8), "x.png")
    assert "start at 1" not in str(caught.value)


def typed(label_map):
    return f"<{dict(sorted(label_map.items()))}>"


@pytest.mark.parametrize(
    ("classes", "ids", "says"),
    [
        (3, {1, 2, 3}, "labels start at 1, none of those read holds 0: set <{1: 0, 2: 1, 3: 2}>"),
        (3, {1, 3, 255}, "labels start at 1, none of those read holds 0: set <{1: 0, 2: 1, 3: 2, 255: 255}>"),
        (3, {0, 127, 255}, "as many ids as classes (3): set <{0: 0, 127: 1, 255: 2}>"),
        (4, {0, 85, 170, 255}, "as many ids as classes (4): set <{0: 0, 85: 1, 170: 2, 255: 3}>"),
        (2, {0, 5}, "as many ids as classes (2): set <{0: 0, 5: 1}>"),
        (2, {0, 1, 2}, "one id more than classes: if 0 is void and no name is missing: set <{0: 255, 1: 0, 2: 1}>"),
        (2, {0, 127, 255}, None),  # an edge, or a class that has no name?
        (3, {0, 7}, None),
        (3, {1, 2, 1003}, None),
    ],
)
def test_many_labels_with_strange_ids_are_read_by_a_whole_map_or_not_at_all(classes, ids, says):
    assert reading(ids, spec(classes), typed) == says


def test_a_map_that_is_the_data_sets_own_is_not_to_be_changed():
    assert reading({1, 2, 3}, spec(3), lambda label_map: None) is None


def held(*labels, times=1):
    """What labels with these ids, of as many pixels each, hold."""
    seen = Seen()
    for i, ids in enumerate([*labels] * times):
        seen.add(dict.fromkeys(ids, 10), f"{i}.png")
    return seen


def judged(seen, classes, label_map=None, total=None, remap=typed):
    return judge(seen, total or seen.read, LabelTable(spec(classes, label_map)), remap)


@pytest.mark.parametrize(
    ("classes", "labels", "label_map", "mends"),
    [
        (2, [[0, 255], [0]], None, "class a in the 2 training labels (stored: 0, 255; void: 33.3% of the pixels) — at "
         "least two classes are expected — if 255 is a class, set <{0: 0, 255: 1}>"),
        (2, [[1, 255]], None, "if 255 is a class, set <{1: 1, 255: 0}>"),
        (3, [[0, 255]], None, "if 255 is a class, set <{0: 0, 2: 2, 255: 1}>"),
        (2, [[255]], None, "nothing but void in the 1 training labels (stored: 255; void: 100.0% of the pixels)"),
        (2, [[0]], None, "check the label files"),
        (2, [[0, 255]], {0: 0, 255: 255}, "as many stored ids as classes: set <{0: 0, 255: 1}>"),
        (3, [[0, 255]], {0: 0, 255: 0}, "mend data.dataset.label_map"),
        (1, [[0, 255]], None, "name the others in the class file"),
    ],
)  # fmt: skip
def test_labels_of_one_class_are_fatal_and_their_map_is_given_where_it_would_help(classes, labels, label_map, mends):
    doubt = judged(held(*labels), classes, label_map)
    assert doubt.fatal
    assert mends in doubt.text


def test_a_map_that_leaves_one_class_is_not_suggested():
    assert "<" not in judged(held([255]), 2).text
    assert "<" not in judged(held([0]), 2).text


def test_a_class_that_is_in_no_label_is_named():
    doubt = judged(held([0, 1], times=4), 3)
    assert not doubt.fatal
    assert doubt.text == "1 of 3 classes not in the 4 training labels: c"
    assert judged(held([0, 1, 2]), 3) is None


def test_a_missing_class_may_be_stored_as_255_or_the_first_of_those_from_1():
    assert judged(held([0, 1, 255]), 3).text.endswith(
        "255 counts as void (33.3% of the pixels): if it is a class, set <{0: 0, 1: 1, 255: 2}>"
    )
    assert judged(held([1, 2]), 3).text.endswith("if labels start at 1, set <{1: 0, 2: 1, 3: 2}>")
    assert "start at 1" not in judged(held([1]), 3).text  # more than the shift would explain


def test_two_classes_and_an_undeclared_255_are_reported_until_the_map_says_what_it_is():
    text = judged(held([0, 1, 255], [0]), 2).text
    assert "255 counts as void: 25.0% of the pixels" in text
    assert "if it is a class, set <{0: 0, 1: 1, 255: 1}>; if not, <{0: 0, 1: 1, 255: 255}> says so" in text
    assert judged(held([0, 1, 255]), 2, {0: 0, 1: 1, 255: 255}) is None
    assert judged(held([0, 1, 2, 255]), 3) is None  # with more classes 255 is what everyone calls void


def test_a_sample_speaks_of_a_missing_class_only_where_none_is_rare():
    common, rare = held([0, 1], times=3), held([0, 1], [0, 1], [0, 1, 2])
    assert (
        "2 of 4 classes not in 3 of 9 training labels: c, d (data.check=full reads all)"
        in judged(common, 4, total=9).text
    )
    assert judged(rare, 4, total=9) is None
    assert judged(rare, 4).text == "1 of 4 classes not in the 3 training labels: d"


def test_many_missing_classes_are_one_short_line():
    many = DatasetSpec("toy", tuple(f"class {k}" for k in range(150)), ((0, 0, 0),) * 150)
    text = judge(held([1, 2, 3, 255]), 1, LabelTable(many), lambda label_map: None).text
    assert text.startswith("147 of 150 classes not in the 1 training labels: class 0, class 4,")
    assert len(text) < 150


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_pixels_are_counted_per_stored_id(dtype):
    assert histogram(np.array([[0, 7, 7], [0, 200, 7]], dtype)) == {0: 2, 7: 3, 200: 1}


def test_unknown_ids_are_void_only_if_asked_for():
    assert table(unknown="ignore")(np.array([[0, 7]], np.uint8), "x.png").tolist() == [[0, 255]]


def test_a_map_to_a_class_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="0..2"):
        spec(label_map={1: 3})
    for raw in (-1, 1 << 16):
        with pytest.raises(ConfigError, match=r"stored ids are 0\.\.65535"):
            spec(label_map={raw: 0})
    with pytest.raises(ConfigError, match="one colour per class"):
        DatasetSpec("toy", ("a", "b"), ((0, 0, 0),))


def test_ranges_are_short():
    assert ranges({0, 1, 2, 5, 255}) == "0..2, 5, 255"
    assert ranges(range(0, 100, 2), limit=4) == "0, 2, 4, ..., 98"
