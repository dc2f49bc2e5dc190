from __future__ import annotations

import numpy as np
import pytest

from seglab.data.augment import choose_window


@pytest.mark.golden("aug_crop")
def test_the_window_taken_is_that_of_the_published_rule(golden):
    facts, tensors = golden.sidecar, golden.tensors
    crop = tuple(facts["crop"])
    for i, accepted in enumerate(facts["accepted"]):
        label = tensors[f"label.{i}"].numpy().astype(np.uint8)
        offsets = [(int(top), int(left)) for top, left in tensors[f"offset.{i}"]]
        retries = len(offsets) - 1
        number, offset = choose_window(label, crop, offsets, facts["cat_max_ratio"], retries)
        assert (number, offset) == (accepted, offsets[accepted]), f"case {i}"
