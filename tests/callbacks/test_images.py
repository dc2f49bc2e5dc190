import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from seglab.callbacks.images import Images
from seglab.errors import ConfigError


def test_each_validation_leaves_a_sheet_with_a_row_per_image(fit, tmp_path):
    fit(tmp_path, Images(count=3, width=64), max_steps=8)
    sheets = sorted((tmp_path / "images").iterdir())
    assert [p.name for p in sheets] == ["step_000004.png", "step_000008.png"]
    three = Image.open(sheets[0]).size
    fit(tmp_path / "one", Images(count=1, width=64), max_steps=4)
    one = Image.open(tmp_path / "one/images/step_000004.png").size
    assert three[0] == one[0] >= 4 * 64
    assert three[1] > 2.5 * one[1]


def test_the_same_images_are_shown_each_time(fit, tmp_path):
    fit(tmp_path, Images(count=2, width=64), max_steps=8)
    a, b = (np.asarray(Image.open(p)) for p in sorted((tmp_path / "images").iterdir()))
    image = slice(30, 80), slice(0, 64)  # the first panel
    assert np.array_equal(a[image], b[image])


@pytest.mark.parametrize(("count", "total"), [(1, 5), (3, 5), (5, 5), (4, 2), (2, 1), (0, 3)])
def test_images_are_spread_over_the_split(count, total):
    from seglab.types import Batch

    group = [Batch(image=np.zeros((2, 3, 4, 4)), label=None, names=("a", "b"))] * 2
    shown = [len(Images(count).chosen(group, index, total)) for index in range(total)]
    assert sum(shown) == min(count, 4 * total)
    assert max(shown) - min(shown) <= 1
    assert count < 2 or shown[-1] > 0


def test_tensorboard_gets_the_sheet(fit, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, Images(1, 64), max_steps=4, logger=TensorBoardLogger(str(tmp_path), "tensorboard", ""))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [image.step for image in events.Images("val/images")] == [4]


def test_training_is_not_changed_by_looking(fit, weights, tmp_path):
    fit(tmp_path / "a", Images(2, 64))
    fit(tmp_path / "b")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all((a[k] == b[k]).all() for k in a)


def test_a_negative_count_is_refused():
    with pytest.raises(ConfigError, match="count"):
        Images(-1)
