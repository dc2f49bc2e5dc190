"""Images and tables of what a network predicts.

Labels and predictions are maps of train ids [H, W] uint8 (``IGNORE`` where void), images [H, W, 3] uint8 RGB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seglab import figures
from seglab.runs import atomic
from seglab.scores import Score
from seglab.types import IGNORE, Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table
    from torch import Tensor

Palette = Sequence[tuple[int, int, int]]

VOID = (0, 0, 0)
INK, PAPER = (30, 30, 30), (255, 255, 255)
WRONG = (214, 39, 40)
OF_VIDEO = ("flicker", "TC", "PC", "AUROC_confidence", "AUROC_PC")
"""Numbers of ``metrics=video`` that stand below the table."""
SHORTEST, LONGEST = 480, 2**15
"""Of an overlay's longer side, in pixels. JPEG holds no side above 65500, and few viewers half of that."""


def to_image(image: Tensor) -> np.ndarray:
    """RGB [H, W, 3] of [3, H, W] uint8; ``Normalise.to_uint8`` makes that of a normalised image."""
    return np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())


def colour_map(ids: np.ndarray, palette: Palette) -> np.ndarray:
    """Ids -> RGB; void is black."""
    table = np.full((256, 3), VOID, np.uint8)
    table[: len(palette)] = palette
    return table[ids]


def present(*maps: np.ndarray) -> list[int]:
    """Ids that occur in any of the maps, void left out, most pixels first."""
    counts = sum(np.bincount(np.asarray(ids, np.uint8).ravel(), minlength=256) for ids in maps)
    counts = np.asarray(counts)
    counts[IGNORE] = 0
    return [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]


def overlay(image: np.ndarray, ids: np.ndarray, palette: Palette, opacity: float = 0.55) -> np.ndarray:
    """The image, grey and pale, under the colours of its classes, dark lines between them; void shows the image."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    mixed = (1 - opacity) * (50 + 0.8 * grey) + opacity * colour_map(ids, palette).astype(np.float32)
    mixed = np.where((ids == IGNORE)[..., None], image, mixed)
    return np.where(contours(ids)[..., None], mixed * 0.45, mixed).round().astype(np.uint8)


def contours(ids: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour has another id."""
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    return edge


def stretch(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """An image [h, w, 3] at another [height, width]."""
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def error_map(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The image, greyed and light where the prediction is right; red where it is wrong; black where nobody knows."""
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None].repeat(3, -1)
    right = 0.45 * grey + 0.55 * 255
    wrong = 0.25 * grey + 0.75 * np.asarray(WRONG, np.float32)
    shown = np.where((label == prediction)[..., None], right, wrong)
    return np.where((label == IGNORE)[..., None], np.asarray(VOID, np.float32), shown).round().astype(np.uint8)


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font that comes with Pillow."""
    return ImageFont.load_default(size)


def legend(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int, size: int = 14) -> np.ndarray:
    """Colour patches with names, flowing over lines no wider than ``width`` (a longer name is shortened)."""
    letters, gap, line = font(size), size // 2, int(size * 1.7)
    places: list[tuple[int, int, str, tuple[int, int, int]]] = []
    x, y = gap, 0
    for name, colour in entries:
        name = shorten(name, letters, width - 3 * gap - size)
        step = size + gap + math.ceil(letters.getlength(name)) + 2 * gap
        if x > gap and x + step - gap > width:
            x, y = gap, y + line
        places.append((x, y, name, colour))
        x += step
    sheet = Image.new("RGB", (width, y + line if places else 1), PAPER)
    draw = ImageDraw.Draw(sheet)
    for x, y, name, colour in places:
        middle = y + line // 2
        draw.rectangle((x, middle - size // 2, x + size - 1, middle + size // 2), fill=tuple(colour), outline=INK)
        draw.text((x + size + gap // 2, middle), name, fill=INK, font=letters, anchor="lm")
    return np.asarray(sheet)


def shorten(text: str, letters: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> str:
    """The text, cut with an ellipsis to fit."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def overlay_with_legend(image: np.ndarray, ids: np.ndarray, classes: Sequence[str], palette: Palette) -> np.ndarray:
    """The overlay above a legend of the classes in it, at least 480 pixels wide so that the legend can be read."""
    image, ids = scale_for_display(image), scale_for_display(ids)
    entries = [(classes[k], palette[k]) for k in present(ids)]
    width = max(image.shape[1], SHORTEST)
    return stack([overlay(image, ids, palette), legend(entries, width, size=int(np.clip(width / 45, 14, 40)))])


def strip(
    image: np.ndarray,
    label: np.ndarray | None,
    predictions: np.ndarray | Mapping[str, np.ndarray],
    classes: Sequence[str],
    palette: Palette,
    width: int = 360,
) -> np.ndarray:
    """One row: image, label, prediction (one, or several under their names), error; a legend below.

    The error panel shows a single prediction only. ``width`` is that of a panel, in pixels; panels are at most four
    times as high, so that an image one pixel wide does not become millions of rows.
    """
    named = predictions if isinstance(predictions, Mapping) else {"prediction": predictions}
    highest = 4 * width
    photo = fit(image, width, highest)
    panels = {"image": photo}
    maps = list(named.values()) if label is None else [label, *named.values()]
    entries = [(classes[k], palette[k]) for k in present(*maps)]
    if label is not None:
        panels["label"] = colour_map(fit(label, width, highest), palette)
    for name, prediction in named.items():
        panels[name] = colour_map(fit(prediction, width, highest), palette)
    if label is not None:
        valid = label != IGNORE
        if not valid.all():
            entries.append(("void", VOID))
        if len(named) == 1 and valid.any():
            wrong = (label != maps[-1])[valid].mean()
            shown = (fit(ids, width, highest) for ids in (label, maps[-1]))
            panels[f"error ({wrong:.1%} of pixels)"] = error_map(photo, *shown)
            entries.append(("wrong", WRONG))
    row = side_by_side([titled(name, panel) for name, panel in panels.items()])
    return stack([row, legend(entries, row.shape[1])])


def fit(image: np.ndarray, width: int, highest: int = LONGEST) -> np.ndarray:
    """Scaled to a width: photographs [H, W, 3] smoothly, ids [H, W] unmixed; squashed to ``highest`` rows."""
    height = min(max(1, round(image.shape[0] * width / image.shape[1])), highest)
    method = Image.Resampling.NEAREST if image.ndim == 2 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def scale_for_display(image: np.ndarray) -> np.ndarray:
    """[H, W, ...] enlarged by a whole number, or every n-th pixel of it, so that its longer side suits a screen."""
    longer = max(image.shape[:2])
    if longer > LONGEST:
        step = -(-longer // LONGEST)
        return image[::step, ::step]
    times = -(-SHORTEST // longer)
    return image if times == 1 else image.repeat(times, 0).repeat(times, 1)


def titled(title: str, image: np.ndarray, size: int = 15) -> np.ndarray:
    """An image under its title."""
    head = Image.new("RGB", (image.shape[1], int(size * 1.8)), PAPER)
    letters = font(size)
    title = shorten(title, letters, head.width - 8)
    ImageDraw.Draw(head).text((4, head.height // 2), title, fill=INK, font=letters, anchor="lm")
    return stack([np.asarray(head), image])


def side_by_side(images: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Images in a row on white."""
    height = max(image.shape[0] for image in images)
    width = sum(image.shape[1] for image in images) + gap * (len(images) - 1)
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    x = 0
    for image in images:
        sheet[: image.shape[0], x : x + image.shape[1]] = image
        x += image.shape[1] + gap
    return sheet


def stack(images: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
    """Images in a column on white."""
    width = max(image.shape[1] for image in images)
    sheet = np.full((sum(image.shape[0] for image in images) + gap * (len(images) - 1), width, 3), PAPER, np.uint8)
    y = 0
    for image in images:
        sheet[y : y + image.shape[0], : image.shape[1]] = image
        y += image.shape[0] + gap
    return sheet


def confusion_figure(matrix: Tensor | np.ndarray, classes: Sequence[str], title: str = "") -> np.ndarray:
    """The confusion matrix, rows in percent of the pixels with that label; classes that never occur are left out."""
    from matplotlib.figure import Figure

    counts = np.asarray(matrix, np.float64)
    kept = np.flatnonzero(counts.sum(0) + counts.sum(1)).tolist()
    counts, names = counts[np.ix_(kept, kept)], [classes[k] for k in kept]
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    n = max(len(kept), 1)
    side = min(3.2 + 0.42 * n, 30.0)
    letters = min(9.0, 0.6 * 72 * (side - 3.2) / n)  # of the points that a row has
    figure = Figure(figsize=(side + 1, side), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    if len(kept):
        shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        figure.colorbar(shown, label="% of the label's pixels", shrink=0.6, fraction=0.03, aspect=30)
    axes.set_xticks(range(len(kept)), names, rotation=90, fontsize=letters)
    axes.set_yticks(range(len(kept)), names, fontsize=letters)
    axes.set(xlabel="prediction", ylabel="label", title=title)
    if n <= 40:  # with more classes the numbers are too small to read
        for (i, j), value in np.ndenumerate(share):
            if value >= 0.5:
                ink = "white" if value > 55 else "black"
                number = axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=0.85 * letters, color=ink)
                number.set_in_layout(False)  # it lies within the axes; to measure them all takes as long as to draw
    return pixels(figure)


def curve_figure(curves: Mapping[str, Curve], title: str = "") -> np.ndarray:
    """One chart below another of what was found of every frame, over all videos, which vertical lines part."""
    with figures.house():
        figure = figures.figure(figures.PAGE, 0.7 + 1.15 * len(curves))
        charts = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (name, curve) in zip(charts, curves.items(), strict=True):
            names = [sequence for sequence, _ in curve.frames]
            score = Score(name.removesuffix(" per frame"), unit=curve.unit)
            values = [score.scale * value for value in curve.values]
            starts = [0, *(i for i in range(1, len(names)) if names[i] != names[i - 1]), len(names)]
            for start, stop in pairwise(starts):
                axes.plot(range(start, stop), values[start:stop], ".-", color=figures.BLUE, linewidth=1, markersize=2.5)
            for place in starts[1:-1]:
                axes.axvline(place - 0.5, color=figures.PALE, linewidth=0.6)
            axes.set(ylabel=figures.label(score.name, score))
            axes.grid(axis="y")
        charts[-1].set(xlabel="frame")
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        return pixels(figure)


def pixels(figure: Figure) -> np.ndarray:
    """[H, W, 3] uint8 of a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save(image: np.ndarray, path: str | Path) -> None:
    """Write an image, whole or not at all; its folder is made, its suffix says the format."""
    kind = Image.registered_extensions()[Path(path).suffix.lower()]
    with atomic.replacing(Path(path)) as file:
        Image.fromarray(image).save(file, format=kind, **({"quality": 92} if kind == "JPEG" else {}))


def class_table(results: Mapping[str, Any], classes: Sequence[str], title: str = "") -> Table:
    """Per-class IoU, accuracy and Dice in percent with the means below; "–" where a class does not occur."""
    from rich.table import Table

    columns = {"IoU": "mIoU", "Acc": "mAcc", "Dice": "mDice", "BoundaryIoU": "mBoundaryIoU"}
    columns = {name: mean for name, mean in columns.items() if name in results}
    counted = int(results["classes"])
    note = "" if counted == len(classes) else f" ({counted} of {len(classes)} occur)"
    table = Table(title=title or None, show_footer=True, caption=caption(results))
    table.add_column("class", footer=f"mean{note}")
    for name, mean in columns.items():
        table.add_column(name, footer=percent(results[mean]), justify="right")
    for k, name in enumerate(classes):
        table.add_row(name, *(percent(float(results[column][k])) for column in columns))
    return table


def caption(results: Mapping[str, Any]) -> str:
    """What has no class, in a line or two."""
    line = f"aAcc {percent(results['aAcc'])}   fwIoU {percent(results['fwIoU'])}"
    if "ECE" in results:
        line += f"\nNLL {results['NLL']:.4f}   ECE {percent(results['ECE'])}"
    if of_video := [f"{name} {percent(results[name])}" for name in OF_VIDEO if name in results]:
        line += f"\n{'   '.join(of_video)}"
    return line


def percent(value: float) -> str:
    """Two digits, as papers print it."""
    return "–" if math.isnan(value) else f"{100 * value:.2f}"
