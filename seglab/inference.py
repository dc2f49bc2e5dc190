"""Test-time prediction: resize, cut into windows, flip, average, as pure functions of a logits function.

The rules are those the published numbers were made with (MMSegmentation):

* keep ratio: the long and the short side times the ratio, cut to integers, bound those of the view; the largest factor
  that fits both, each side rounded half up;
* divisor: ``resize`` stretches the resized image up to the next multiple (SegFormer's AlignedResize); ``pad`` adds the
  mean colour (0 after normalisation) at the right and the bottom, and its logits are cut off before the last resize;
* sliding window: the last window of a row or column is shifted back to the border; an image smaller than the window is
  one smaller window; logits are summed and divided by the number of windows over a pixel;
* views (scales, flips): the mean of the softmax probabilities at the original size.

Bilinear resizing has no antialiasing, as in OpenCV, but acts on the normalised float image: OpenCV rounds to 8 bits in
between. A horizontal flip is only right for classes without a left and a right.

Legend: B images, K classes; H x W the size of the result, h x w of one view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import islice, product
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from seglab.checks import one_of
from seglab.errors import ConfigError, DataError
from seglab.ops.precision import widen
from seglab.ops.resize import add_resized, resize_logits
from seglab.types import IGNORE, Size

if TYPE_CHECKING:
    Sides = Size
else:  # as given, one number stands for a square
    Sides = Size | int
Network = Callable[..., Tensor]
"""``image [n, 3, h, w] -> logits [n, K, h', w']``; where a label follows the image: ``(image, label [n, h, w])``."""

LARGEST_VIEW = 2**26
"""Pixels of a view (0.8 GB as float32), unless the image itself has more: options enlarge an image, but not beyond."""
COARSEST_STRIDE = 32
"""Networks pad a smaller side to it, so that one row of a million pixels costs as much as 32."""
MOST_WINDOWS = 2**20
"""Of one view: a day's work. More are a mistake in the window or the stride."""
LARGEST_RATIO = 100


@dataclass(frozen=True)
class Protocol:
    """How images are tested.

    Attributes:
        long_short: (long, short) side that an image is brought to, ratio kept; None: its own size.
        ratios: one view per factor of these sides.
        multiscale_base: what several ratios multiply: ``long_short``, or the image's own size (``image``). A single
            ratio of 1 is always of ``long_short``.
        flip: a mirrored view beside each.
        mode: the ``whole`` view at once, or a window to ``slide`` over it.
        window: (height, width) of the window; one number for a square.
        stride: (down, right) between windows.
        window_batch: windows that go through the network together; memory against time, never the result.
        divisor: each side of a view becomes a multiple of it.
        divisor_mode: by ``resize`` or by ``pad``.
        through_view: bring the logits to the view's size before the original one, as MMSegmentation does (two bilinear
            steps); otherwise one step. Windows and padding always take two.
        accumulate: where windows and views are added up: the network's ``device``, or ``cpu`` for huge images.
    """

    long_short: Sides | None = None
    ratios: tuple[float, ...] = (1.0,)
    multiscale_base: Literal["long_short", "image"] = "long_short"
    flip: bool = False
    mode: Literal["whole", "slide"] = "whole"
    window: Sides | None = None
    stride: Sides | None = None
    window_batch: int = 4
    divisor: int | None = None
    divisor_mode: Literal["resize", "pad"] = "resize"
    through_view: bool = False
    accumulate: Literal["device", "cpu"] = "device"

    def __post_init__(self) -> None:
        """Accept what YAML has (lists, one number for a square); refuse what cannot be meant."""
        for name in ("long_short", "window", "stride"):
            object.__setattr__(self, name, pair(getattr(self, name), name))
        given: object = self.ratios
        if not isinstance(given, list | tuple) or not given or not all(map(is_ratio, given)):
            raise ConfigError(
                f"evaluation.ratios={given} — expected a list of numbers above 0, at most {LARGEST_RATIO}, e.g. [1.0]"
            )
        object.__setattr__(self, "ratios", tuple(map(float, given)))
        one_of("evaluation.multiscale_base", self.multiscale_base, ("long_short", "image"))
        one_of("evaluation.mode", self.mode, ("whole", "slide"))
        one_of("evaluation.divisor_mode", self.divisor_mode, ("resize", "pad"))
        one_of("evaluation.accumulate", self.accumulate, ("device", "cpu"))
        for name, value in (("divisor", self.divisor), ("window_batch", self.window_batch)):
            if not is_whole(value) and not (name == "divisor" and value is None):
                raise ConfigError(f"evaluation.{name}={value} — expected a whole number above 0")
        for name, switch in (("flip", self.flip), ("through_view", self.through_view)):
            if not isinstance(switch, bool):
                raise ConfigError(f"evaluation.{name}={switch} — expected true or false")
        if self.mode == "slide":
            if self.window is None or self.stride is None:
                raise ConfigError(
                    "evaluation.mode=slide without a window — set evaluation.window=[height,width] "
                    "and evaluation.stride=[down,right]"
                )
            if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
                raise ConfigError(
                    f"evaluation.stride={list(self.stride)} leaves gaps between windows of {list(self.window)} — "
                    "expected a stride of at most the window"
                )

    @classmethod
    def of(cls, *layers: Mapping[str, Any]) -> Protocol:
        """From configuration nodes, each laid over those before; null means: as before.

        Raises:
            ConfigError: an option that no protocol has, or a value of a wrong kind or out of range.
        """
        options = {key: value for layer in layers for key, value in layer.items() if value is not None}
        options.pop("_target_", None)
        known = [field.name for field in fields(cls)]
        unknown = sorted(options.keys() - set(known))
        if unknown:
            raise ConfigError(
                f"evaluation.{unknown[0]} is no option of the test protocol — expected {', '.join(known)}"
            )
        return cls(**options)

    @property
    def single_pass(self) -> bool:
        """Whether the network sees each image exactly once, and whole."""
        return self.mode == "whole" and len(self.ratios) == 1 and not self.flip

    def next_size(self, view: Size, result: Size) -> Size:
        """(height, width) that the logits of a view (or window) are resized to next, of a result of that size.

        What a network can say at any resolution, it is asked for at this one.
        """
        padded = self.divisor is not None and self.divisor_mode == "pad"
        return result if self.mode == "whole" and not padded and not self.through_view else view

    def sizes(self, size: Size) -> list[tuple[Size, Size]]:
        """Per ratio: the (height, width) after the keep-ratio resize, and after the divisor.

        Raises:
            DataError: the options make more of the image than can be computed at once.
        """
        made = []
        limit = max(LARGEST_VIEW, size[0] * size[1])
        for ratio in self.ratios:
            kept = self.keep_ratio(size, ratio)
            final = kept if self.divisor is None else round_up(kept, self.divisor)
            if max(final[0], COARSEST_STRIDE) * max(final[1], COARSEST_STRIDE) > limit:
                raise DataError(
                    f"an image of {size[0]}x{size[1]} pixels becomes a view of {final[0]}x{final[1]} — expected at "
                    f"most {limit} pixels (a side counts as {COARSEST_STRIDE} or more); choose a "
                    "smaller evaluation.long_short=[long,short] (evaluation.ratios and evaluation.divisor enlarge a "
                    "view as well)"
                )
            made.append((kept, final))
        return made

    def scored_pixels(self, size: Size) -> int:
        """Pixels whose scores for every class are held at once; 0 where the network's own resolution is enough."""
        sizes = self.sizes(size)
        full = self.mode == "slide" or self.through_view
        padded = self.divisor_mode == "pad"
        views = [final[0] * final[1] for kept, final in sizes if full or (padded and kept != final)]
        several = self.flip or len(sizes) > 1
        return max([*views, size[0] * size[1] if several else 0])

    def keep_ratio(self, size: Size, ratio: float) -> Size:
        """(height, width) of the view of an image of that size."""
        height, width = size
        if self.multiscale_base == "image" and self.ratios != (1.0,):
            target = [int(side * ratio + 0.5) for side in size]
        else:
            target = [int(side * ratio) for side in self.long_short or size]
        factor = min(max(target) / max(size), min(target) / min(size))
        # A sliver (1 x 1000) must keep one pixel.
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))

    def view(self, image: Tensor) -> Tensor:
        """The first view of images [B, 3, H, W]: what a single pass shows the network."""
        kept, final = self.sizes(height_width(image))[0]
        return self.resize_view(image, kept, final)

    def resize_view(self, image: Tensor, kept: Size, final: Size) -> Tensor:
        """Resize to ``kept``, then stretch or pad to ``final``."""
        image = resize_image(image, kept)
        if self.divisor_mode == "resize":
            return resize_image(image, final)
        return F.pad(image, (0, final[1] - kept[1], 0, final[0] - kept[0]))

    def resize_label(self, label: Tensor, kept: Size, final: Size) -> Tensor:
        """Labels [B, H, W] in the view's pixels (nearest; void in the padding)."""
        inner = final if self.divisor_mode == "resize" else kept
        if label.shape[-2:] != inner:
            label = F.interpolate(label[:, None].float(), size=inner, mode="nearest-exact")[:, 0].to(label.dtype)
        return F.pad(label, (0, final[1] - inner[1], 0, final[0] - inner[0]), value=IGNORE)


@torch.no_grad()
def infer(
    network: Network, image: Tensor, protocol: Protocol, size: Size | torch.Size, label: Tensor | None = None
) -> Tensor:
    """Scores [B, K, h, w] of images [B, 3, H0, W0]: bilinear to ``size``, then argmax, is the prediction.

    One view gives its (window-averaged) logits, at the network's own resolution where nothing needs to touch them
    before the last resize. Several views give the logarithm of the mean probability, at ``size``. The softmax over
    classes is the probability in both cases.

    Args:
        network: logits of an image, in evaluation mode.
        image: normalised, at its own size.
        protocol: the views.
        size: (height, width) of the label or of the image as stored.
        label: [B, H, W]; handed to the network as a second argument, resized, flipped and cut as the view is.
    """
    mirrors = (False, True) if protocol.flip else (False,)
    views = list(product(protocol.sizes(height_width(image)), mirrors))
    logits = (view_logits(network, image, protocol, kept, final, mirrored, label) for (kept, final), mirrored in views)
    if len(views) == 1:
        return next(logits)
    # A probability that every view rounds to 0 keeps a finite logarithm.
    return mean_probability(logits, size, protocol).clamp_min_(torch.finfo(torch.float32).tiny).log_()


@torch.no_grad()
def classify(network: Network, image: Tensor, protocol: Protocol) -> Tensor:
    """Scores [B, K] of whole images [B, 3, H0, W0]: as :func:`infer`, of a network that says one thing of each image.

    Args:
        network: logits [B, K] of an image, in evaluation mode.
        image: normalised, at its own size.
        protocol: the views; windows are not for whole images.

    Raises:
        ConfigError: a protocol of windows.
    """
    if protocol.mode == "slide":
        raise ConfigError(
            "evaluation.mode=slide cuts windows — expected whole for whole images; set evaluation.mode=whole"
        )
    mirrors = (False, True) if protocol.flip else (False,)
    views = [protocol.resize_view(image, kept, final) for kept, final in protocol.sizes(height_width(image))]
    logits = [network(view.flip(-1) if mirrored else view) for view in views for mirrored in mirrors]
    if len(logits) == 1:
        return logits[0]
    tiny = torch.finfo(torch.float32).tiny
    return torch.stack([each.float().softmax(1) for each in logits]).mean(0).clamp_min(tiny).log()


def mean_probability(views: Iterable[Tensor], size: Size | torch.Size, protocol: Protocol) -> Tensor:
    """[B, K, H, W] mean over views of the softmax at the size, from logits [B, K, h, w] that differ in theirs."""
    total: Tensor | None = None
    count = 0
    for count, logits in enumerate(views, 1):  # noqa: B007
        total = zeros(logits, size, protocol) if total is None else total
        add_resized(total, logits, softmax=True)
    assert total is not None, "a protocol has one view at least"
    return total.div_(count)


def view_logits(
    network: Network, image: Tensor, protocol: Protocol, kept: Size, final: Size, mirrored: bool, label: Tensor | None
) -> Tensor:
    """Logits of one view, mirrored back and without padding."""
    seen = [protocol.resize_view(image, kept, final)]
    if label is not None:
        seen.append(protocol.resize_label(label, kept, final))
    if mirrored:
        seen = [x.flip(-1) for x in seen]
    logits = slide(network, seen, protocol) if protocol.mode == "slide" else network(*seen)
    padded = protocol.divisor_mode == "pad" and kept != final
    if padded or protocol.through_view:
        logits = resize_logits(logits, final)
    if mirrored:
        logits = logits.flip(-1)
    return logits[..., : kept[0], : kept[1]] if padded else logits


def slide(network: Network, seen: list[Tensor], protocol: Protocol) -> Tensor:
    """Logits [B, K, h, w] of the images ``seen[0]`` (and labels ``seen[1]``), averaged over windows.

    Raises:
        DataError: more windows than anyone waits for.
    """
    assert protocol.window is not None
    assert protocol.stride is not None
    image = seen[0]
    batch, _, height, width = image.shape
    window = (min(protocol.window[0], height), min(protocol.window[1], width))
    number = steps(height, window[0], protocol.stride[0]) * steps(width, window[1], protocol.stride[1])
    if number > MOST_WINDOWS:
        raise DataError(
            f"{number} windows of {window[0]}x{window[1]} over a view of {height}x{width} pixels — expected at most "
            f"{MOST_WINDOWS}; choose a larger evaluation.window and evaluation.stride"
        )
    rows = origins(height, window[0], protocol.stride[0])
    columns = origins(width, window[1], protocol.stride[1])
    places = ((slice(y, y + window[0]), slice(x, x + window[1])) for y, x in product(rows, columns))
    total: Tensor | None = None
    while now := list(islice(places, protocol.window_batch)):
        cuts = [torch.cat([whole[..., y, x] for y, x in now]) for whole in seen]
        logits = network(*cuts)
        if total is None:
            total = zeros(logits[:batch], (height, width), protocol)
        for (y, x), part in zip(now, logits.split(batch), strict=True):
            add_resized(total[..., y, x], part)
    assert total is not None
    return total.div_((cover(height, rows, window[0])[:, None] * cover(width, columns, window[1])).to(total))


def steps(size: int, window: int, stride: int) -> int:
    """Number of windows along one side."""
    return max(size - window + stride - 1, 0) // stride + 1


def origins(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side; the last window ends at the border."""
    return [max(min(i * stride, size - window), 0) for i in range(steps(size, window, stride))]


def cover(size: int, starts: list[int], window: int) -> Tensor:
    """[size] number of windows over each pixel of one side."""
    first = torch.tensor(starts)
    edges = torch.zeros(size + 1, dtype=torch.int64)
    one = torch.ones(len(starts), dtype=torch.int64)
    return edges.index_add_(0, first, one).index_add_(0, first + window, -one).cumsum(0)[:-1]


def zeros(logits: Tensor, size: Size | torch.Size, protocol: Protocol) -> Tensor:
    """[B, K, H, W] where sums of logits [B, K, h, w] are kept, float32 or wider."""
    device = "cpu" if protocol.accumulate == "cpu" else logits.device
    return torch.zeros(*logits.shape[:2], *size, dtype=widen(logits[:0]).dtype, device=device)


def resize_image(image: Tensor, size: Size) -> Tensor:
    """Bilinear, no antialiasing."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def height_width(image: Tensor) -> Size:
    """Of [..., H, W]."""
    return image.shape[-2], image.shape[-1]


def round_up(size: Size, divisor: int) -> Size:
    """Each side's next multiple."""
    return -(-size[0] // divisor) * divisor, -(-size[1] // divisor) * divisor


def pair(value: object, name: str) -> Size | None:
    """Two whole numbers above 0 from a list of two or from one number."""
    if value is None:
        return None
    both = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(both) != 2 or not all(map(is_whole, both)):
        raise ConfigError(
            f"evaluation.{name}={value} — expected two whole numbers above 0, e.g. evaluation.{name}=[512,512]"
        )
    return both


def is_whole(value: object) -> bool:
    """Whether it is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_ratio(value: object) -> bool:
    """Whether an image can be resized by it."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST_RATIO
