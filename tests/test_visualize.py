"""Images and tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from seglab import visualize
from seglab.metrics import summarise
from seglab.types import IGNORE

CLASSES = ("road", "sky", "a class with a name that is far too long for any legend to hold it in one line")
PALETTE = ((128, 64, 128), (70, 130, 180), (10, 120, 10))


def scene(height: int = 24, width: int = 32):
    label = np.zeros((height, width), np.uint8)
    label[: height // 2] = 1
    label[:2] = IGNORE
    image = np.full((height, width, 3), 120, np.uint8)
    return image, label


def test_colours_are_the_palettes_and_void_is_black():
    _, label = scene()
    image = visualize.colour_map(label, PALETTE)
    assert (image[label == 0] == PALETTE[0]).all()
    assert (image[label == IGNORE] == 0).all()


def test_only_classes_that_occur_are_present_most_pixels_first():
    label = np.array([[2, 2, 2, 0, IGNORE, IGNORE, IGNORE, IGNORE]], np.uint8)
    assert visualize.present(label) == [2, 0]
    assert visualize.present(label, np.full((1, 9), 1, np.uint8)) == [1, 2, 0]


def test_planes_become_an_image_of_the_same_levels():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    shown = visualize.to_image(torch.from_numpy(image).permute(2, 0, 1))
    assert np.array_equal(shown, image)
    assert shown.flags.c_contiguous


def test_errors_are_red_void_is_black_and_the_rest_is_grey():
    image, label = scene()
    prediction = np.zeros_like(label)
    image = visualize.error_map(image, label, prediction).astype(int)
    wrong, void = (label == 1), (label == IGNORE)
    assert (image[wrong][:, 0] > image[wrong][:, 1] + 80).all()
    assert (image[void] == 0).all()
    right = image[~wrong & ~void]
    assert (right[:, 0] == right[:, 1]).all()


def test_an_overlay_keeps_the_image_where_void_and_has_the_classes_in_its_legend():
    image, label = scene()
    shown = visualize.overlay(image, label, PALETTE)
    assert (shown[0, :-1] == image[0, :-1]).all()
    image = visualize.overlay_with_legend(image, label, CLASSES, PALETTE)
    assert image.shape[1] == 480
    legend = image[360:].reshape(-1, 3)
    assert (legend == PALETTE[0]).all(1).any()
    assert not (legend == PALETTE[2]).all(1).any()


@pytest.mark.parametrize(("height", "width"), [(20000, 1), (1, 20000), (1, 1), (48, 20)])
def test_an_overlay_is_not_longer_than_its_image_unless_that_is_small(height, width):
    image, ids = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    shown = visualize.overlay_with_legend(image, ids, CLASSES, PALETTE)
    assert shown.shape[1] == max(480, width)
    assert shown.shape[0] <= max(500, height) + 100


def test_an_overlay_fits_into_a_jpeg_whatever_its_image(tmp_path):
    image, ids = np.zeros((70_000, 3, 3), np.uint8), np.zeros((70_000, 3), np.uint8)
    visualize.save(visualize.overlay_with_legend(image, ids, CLASSES, PALETTE), tmp_path / "a.jpg")
    assert 20_000 < Image.open(tmp_path / "a.jpg").height < 65_500


def test_the_height_of_a_panel_is_bounded():
    assert visualize.fit(np.zeros((20_000, 1, 3), np.uint8), 360).shape == (2**15, 360, 3)


def test_a_legend_flows_over_lines_and_shortens_what_does_not_fit():
    entries = list(zip(CLASSES, PALETTE, strict=True))
    narrow, wide = visualize.legend(entries, 150), visualize.legend(entries, 1500)
    assert narrow.shape[1] == 150
    assert narrow.shape[0] == 2 * wide.shape[0]
    assert (narrow[:, -2:] == 255).all()


def test_a_strip_has_a_panel_each_and_an_error_panel_for_one_prediction():
    image, label = scene()
    one = visualize.strip(image, label, label, CLASSES, PALETTE, width=100)
    many = visualize.strip(image, label, {"linear": label, "cac": label}, CLASSES, PALETTE, width=100)
    alone = visualize.strip(image, None, label, CLASSES, PALETTE, width=100)
    assert [one.shape[1], many.shape[1], alone.shape[1]] == [4 * 106 - 6, 4 * 106 - 6, 2 * 106 - 6]


def test_a_label_is_scaled_without_mixing_ids():
    _, label = scene()
    assert set(np.unique(visualize.fit(label, 77))) == {0, 1, IGNORE}


def test_the_confusion_figure_leaves_out_what_never_occurs():
    matrix = torch.zeros(60, 60, dtype=torch.int64)
    matrix[3, 3] = matrix[3, 9] = 5
    small = visualize.confusion_figure(matrix, [str(k) for k in range(60)])
    large = visualize.confusion_figure(torch.eye(60), [str(k) for k in range(60)])
    assert small.shape[0] < large.shape[0] / 3
    assert visualize.confusion_figure(torch.zeros(2, 2), ["a", "b"]).shape[2] == 3


def test_the_table_is_in_percent_and_counts_the_classes_that_occur():
    results = summarise(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(visualize.class_table(results, CLASSES))
    text = console.export_text()
    assert "75.00" in text
    assert "77.50" in text
    assert "2 of 3 occur" in text
    assert "–" in text


def test_an_image_is_saved_in_the_format_of_its_suffix(tmp_path):
    image, _ = scene()
    for name in ("deep/a.png", "b.jpg"):
        visualize.save(image, tmp_path / name)
        assert Image.open(tmp_path / name).size == (32, 24)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_panels_of_an_image_one_pixel_wide_do_not_become_millions_of_rows():
    image, label = scene(20000, 1)
    assert visualize.strip(image, label, label, CLASSES, PALETTE, width=100).shape[0] < 600
    image, label = scene(1, 20000)
    assert visualize.strip(image, label, label, CLASSES, PALETTE, width=100).shape[0] < 600
