"""What travels between the rooms.

Shapes, here and everywhere: B images, K classes, C channels, H x W pixels of image or label, h x w of a feature map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from seglab.scores import Score

Size = tuple[int, int]
"""(height, width) of an image or a map."""

IGNORE = 255
"""Label of a pixel that counts nowhere: in no loss, no gradient, no metric."""


@dataclass(kw_only=True)
class Clip:
    """T frames of a video around each image of a batch, the image itself among them, in the order of time.

    All have the geometry (resize, crop, flip) that was drawn for the image.
    """

    frames: Tensor
    """[B, T, 3, H, W] uint8 RGB with the image's geometry and the colours as stored."""
    shown: Tensor
    """[B, T, 3, H, W] uint8 RGB, the same with the colours that were drawn for the image: what a network is shown."""
    index: Tensor
    """[B] int64 place of the image itself, which is the labelled one."""
    offset: Tensor
    """[B, T] int64 how many frames each lies after the image, negative before it."""
    flow: Tensor | None = None
    """[B, T, 2, H, W] float32 optical flow (dx, dy) in pixels from the image to each frame; NaN where it is unknown."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Clip:
        """The clip with the function of every tensor in its place."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: function(x) for name, x in values.items() if x is not None})


@dataclass(kw_only=True)
class Batch:
    """A batch of images of one size with whatever is known about them; a field is None where the data has none of it.

    In training a label has the image's size. In evaluation the image may be resized and the label never is:
    ``label.shape[-2:]`` is then the size at which the prediction is compared.
    """

    image: Tensor
    """[B, 3, H, W] RGB: uint8 is raw, float32 is normalised."""
    names: tuple[str, ...]
    """One name per image: its path below the dataset's root, without suffix."""
    label: Tensor | None = None
    """[B, H, W] int64 train ids, ``IGNORE`` where void."""
    category: Tensor | None = None
    """[B] int64 class of the whole image."""
    depth: Tensor | None = None
    """[B, H, W] float32 metres, 0 where unknown."""
    flow: Tensor | None = None
    """[B, 2, H, W] float32, in evaluation: exact or stored optical flow (dx, dy) in pixels of the label map, from each
    frame to the next one of its sequence; NaN where it is unknown."""
    sequence: tuple[str, ...] | None = None
    """In evaluation: the video that each image is a frame of, where the data set has videos."""
    clip: Clip | None = None
    """In training: the frames around each image, where the task asks for some."""

    def __len__(self) -> int:
        return self.image.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with the function of every tensor in its place: moving and pinning can forget none."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: function(x) for name, x in values.items() if isinstance(x, Tensor)}
        clip = None if self.clip is None else self.clip.map(function)
        return replace(self, **changed, clip=clip)

    def corner(self, size: int) -> Batch:
        """The top left ``size`` x ``size`` pixels of every map (image, label); what has no pixels stays whole."""
        return self.map(lambda x: x[..., :size, :size] if x.ndim > 2 else x)

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory (called by the DataLoader)."""
        return self.map(Tensor.pin_memory)


class Bands(ABC):
    """A feature of so many points that it is made in bands of rows, each when it is asked for."""

    size: Size
    """[H, W] of the whole."""

    @abstractmethod
    def __iter__(self) -> Iterator[Tensor]:
        """[B, C, r, W], from the top to the bottom; each iteration computes them anew."""

    @abstractmethod
    def whole(self) -> Tensor:
        """[B, C, h, w] of all rows at once, at a smaller size where H x W would be too many."""


FROM_LABELS = MappingProxyType({"from_labels": True})
"""``field(default=None, metadata=FROM_LABELS)``: a field of an :class:`Output` that needs the ground truth."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a network says about a batch. Loss terms and metrics read it by the names of its branches.

    A branch is a field that the classifier fills, or an entry of ``extra``, which decoder and heads add by name.
    """

    logits: Tensor
    """[B, K, h, w] the prediction, at feature resolution; [B, K] of a network that classifies whole images."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What was wanted beside the classifier's own: ``feature`` [B, C, h, w], the decoder's branches, the heads'."""
    pixels: Tensor | None = None
    """[B, h, w] int64, where the prediction is of some pixels of each label map only: their indices, row by row. The
    classifier's branches and ``feature`` are of these, those of decoder and heads of the whole image. Only in training;
    None: all are of the whole image."""

    def read(self, branch: str) -> Tensor | None:
        """A branch by its name; None where it was not computed."""
        return self.extra[branch] if branch in self.extra else getattr(self, branch, None)

    @classmethod
    def branches(cls) -> frozenset[str]:
        """Names of the branches that the classifier fills."""
        return frozenset(f.name for f in fields(cls) if f.name not in ("extra", "pixels"))

    @classmethod
    def label_branches(cls) -> frozenset[str]:
        """Names of the fields that are computed from labels."""
        return frozenset(f.name for f in fields(cls) if f.metadata.get("from_labels"))

    def missing(self) -> frozenset[str]:
        """Names of the fields that this output leaves empty."""
        return frozenset(name for name in self.branches() if getattr(self, name) is None)


FEATURE = "feature"
"""The branch that is the decoded feature, what enters the classifier."""


def at_pixels(x: Tensor, pixels: Tensor) -> Tensor:
    """The values [B, h, w] or [B, K, h, w] of maps [B, H, W] or [B, K, H, W] at ``Output.pixels`` [B, h, w]."""
    index = pixels.flatten(1)
    if x.ndim == 3:
        return x.flatten(1).gather(1, index).view_as(pixels)
    found = x.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1))
    return found.unflatten(2, pixels.shape[1:])


def is_of(branch: str, head: str) -> bool:
    """Whether a branch is published by the head of that name."""
    return branch == head or branch.startswith(f"{head}.")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One evaluated batch: what metrics measure and callbacks look at."""

    batch: Batch
    scores: Tensor
    """What the prediction is the largest of: [B, K, h, w] for every pixel, [B, K] for every image."""
    output: Output | None = None
    """The network's output that the losses were computed of."""
    passes: tuple[Mapping[str, Tensor], ...] = ()
    """The branches that a callback asked for, of every pass of the network (windows, views), in their order."""
    combine: Callable[[Iterator[Tensor]], Tensor] | None = None
    """Makes scores of one tensor of each pass, as the protocol says, of every image by itself; the network is not run
    again."""

    @property
    def label(self) -> Tensor:
        """[B, H, W] of the batch."""
        assert self.batch.label is not None, "an evaluated split has labels"
        return self.batch.label

    @property
    def category(self) -> Tensor:
        """[B] of the batch."""
        assert self.batch.category is not None, "an evaluated split has categories"
        return self.batch.category

    def of(self, read: Callable[[Mapping[str, Tensor]], Tensor]) -> Evaluated:
        """The same batch with the scores that ``read`` gives of each pass."""
        assert self.combine is not None, "a task says how it combines the passes that were asked for"
        return replace(self, scores=self.combine(read(each) for each in self.passes))


@dataclass  # torchmetrics takes no frozen one
class Curve:
    """A number for every frame of the evaluated videos."""

    frames: tuple[tuple[str, str], ...]
    """Sequence and name of each."""
    values: tuple[float, ...]
    """NaN where there is none."""
    unit: str = "percent"
    """As a :class:`~seglab.scores.Score` has it."""


@dataclass
class Results:
    """What one evaluation found."""

    values: dict[str, Any] = field(default_factory=dict)
    """Numbers, lists with one entry per class, and whatever else a metric computes, by name."""
    scores: dict[str, Score] = field(default_factory=dict)
    """Direction and unit of the numbers."""

    def add(self, values: Mapping[str, Any], scores: Iterable[Score] = ()) -> None:
        """More of it; callbacks may add until the end of the evaluation's epoch."""
        self.values.update(values)
        self.scores.update({score.name: score for score in scores})

    @property
    def plain(self) -> dict[str, Any]:
        """The values that are written as JSON: all but the matrix and the curves, which are figures and tables."""
        return {name: value for name, value in self.values.items() if not isinstance(value, Tensor | Curve)}

    @property
    def numbers(self) -> dict[str, float]:
        """The values that are single numbers."""
        return {name: float(value) for name, value in self.values.items() if isinstance(value, int | float)}
