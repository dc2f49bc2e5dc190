"""Every target of the table goes the same way: through sample, item and batch, without being named anywhere else."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from seglab.data import targets
from seglab.data.collate import TENSORS, group, stack
from seglab.data.source import Sample
from seglab.data.targets import TARGETS, Item
from seglab.errors import ConfigError, DataError
from seglab.types import IGNORE, Batch

OF_VIDEOS = ("sequence", "flow", "clip")
"""What only frames of videos have, given by no sample."""


def item(name: str = "a", size: tuple[int, int] = (2, 3), **values) -> Item:
    return Item(image=torch.zeros(3, *size), name=name, **values)


def test_sample_item_and_batch_have_the_fields_of_the_table():
    assert {f.name for f in fields(Sample)} == {"image", "name", *TARGETS}
    assert {f.name for f in fields(Item)} == {"image", "name", *OF_VIDEOS, *TARGETS}
    assert {f.name for f in fields(Batch)} == {"image", "names", *OF_VIDEOS, *TARGETS}
    assert set(TENSORS) == {"image", "flow", *TARGETS}


def test_a_sample_gives_what_it_has_and_an_item_gets_a_copy():
    label = np.zeros((2, 3), np.uint8)
    label.flags.writeable = False
    sample = Sample(image=np.zeros((2, 3, 3), np.uint8), name="a", label=label)
    assert targets.given(sample).keys() == {"label"}
    sample.category = 0  # the first class is a class
    made = targets.tensors(targets.given(sample))
    assert made.keys() == {"label", "category"}
    assert {value.dtype for value in made.values()} == {torch.int64}
    assert made["category"].shape == ()
    made["label"] += 1
    assert not label.any()


def test_a_map_is_padded_with_its_fill_value():
    padded = targets.padded("label", np.ones((2, 3), np.uint8), 3, 5)
    assert padded.tolist() == [[1, 1, 1, IGNORE, IGNORE]] * 2 + [[IGNORE] * 5]
    assert padded.dtype == torch.int64
    assert TARGETS["label"].is_map
    assert not TARGETS["category"].is_map


def test_a_batch_has_the_fields_that_its_items_have():
    plain = stack([item("a"), item("b")])
    assert (plain.label, plain.category, plain.names) == (None, None, ("a", "b"))
    batch = stack([item(category=torch.tensor(k), label=torch.full((2, 3), k)) for k in (4, 5)])
    assert batch.category.tolist() == [4, 5]
    assert batch.label[:, 0, 0].tolist() == [4, 5]
    assert batch.image.shape == (2, 3, 2, 3)


def test_a_target_that_some_lack_is_refused_by_name():
    with pytest.raises(DataError, match="b: no category, which others of its batch have"):
        stack([item("a", category=torch.tensor(1)), item("b")])


def test_images_of_different_sizes_make_no_batch():
    with pytest.raises(ConfigError, match=r"augment\.crop=\[H,W\]"):
        stack([item(), item(size=(3, 3))])


def test_neighbours_alike_in_all_fields_are_grouped_in_order():
    one, other = torch.zeros(2, 3), torch.zeros(4, 6)
    items = [
        item("a", label=one), item("b", label=one), item("c", label=other), item("d"), item("e"),
        item("f", category=torch.tensor(1)), item("g", (4, 6)), item("h", label=one),
    ]  # fmt: skip
    assert [batch.names for batch in group(items)] == [("a", "b"), ("c",), ("d", "e"), ("f",), ("g",), ("h",)]
