"""How consistent the predictions of a video are: flicker, flow-warped and perceptual consistency; correctness.

With predictions P_t, labels Y_t and images I_t of consecutive frames t, t + 1 of a sequence:

**Flicker** (needs no flow; ``change`` is the same over all pixels)::

    flicker = #{(t, p): P_(t+1)(p) != P_t(p), Y_(t+1)(p) = Y_t(p)} / #{(t, p): Y_(t+1)(p) = Y_t(p)}

**Temporal consistency** (Liu, Shen, Yu, Wang: "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV
2020): P_(t+1), pulled back along the flow from t to t + 1 (:mod:`seglab.ops.warp`), is compared with P_t.
Intersections and unions of every class are summed over all pairs of all videos, then divided. ``TC`` is the mean over
the classes with a union; ``TC_all``, as in the published code, that over all K, an absent class counting 0.

**Perceptual consistency** (Zhang et al., WACV 2022; :mod:`seglab.ops.perceptual_consistency`): the mean of PC(t, t + 1)
over all pairs; needs no flow. The same measure tells where an unlabelled frame is predicted rightly: with the labels
Y_t of one frame and the prediction of the next, whose confidence is q = max_k p(k)::

    s_j = q_j clamp(PC_B(j), 0, 1)        or, with alpha:  s_j = alpha q_j + (1 - alpha) clamp(PC_B(j), 0, 1)

How the paper combines them is published nowhere: the product is our own choice. AUROC and AP of s against "pixel j is
right" (at the feature's positions, over the whole set) stand beside those of q alone, and so does the correlation of
the mean score of a frame with its mIoU. Scores are counted in bins of -log s, one for each number of bfloat16.

None of the consistencies looks at whether a prediction is right: a video that is one class everywhere is perfectly
consistent. They mean something beside mIoU only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from seglab.backbones.extractor import Extractor
from seglab.checks import within
from seglab.errors import ConfigError, DataError
from seglab.flow import FlowProvider
from seglab.losses.frozen import Frozen
from seglab.metrics.base import Metric
from seglab.metrics.confusion import confusion_matrix, summarise
from seglab.ops.perceptual_consistency import BLOCK, consistency
from seglab.ops.precision import full_precision
from seglab.ops.resize import bands, downsample_labels, resize_argmax
from seglab.ops.warp import known, occluded, resize_flow, stays, warp_labels
from seglab.types import IGNORE, Curve, Evaluated, Score

NAME = 512
"""Bytes of a frame's name that processes tell each other."""


@dataclass
class Frame:
    """One frame and its prediction."""

    sequence: str
    name: str
    image: Tensor
    """[1, 3, H, W] as the network was given it."""
    label: Tensor
    """[1, H, W]."""
    scores: Tensor
    """[1, K, h, w]."""
    prediction: Tensor
    """[1, H, W] class ids, at the label's size."""
    flow: Tensor | None
    """[1, 2, H, W] that the data give, to the next frame."""


class AlongVideos(Metric):
    """What is computed of each frame and the one before it in its sequence.

    A subclass names the numbers that it computes for every frame in ``per_frame``, beside its sums.
    """

    in_sequences: ClassVar[bool] = True
    per_frame: ClassVar[tuple[str, ...]] = ()
    frame_values: Any
    frame_names: Any

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.before: Frame | None = None
        self.add_state("frame_values", [], dist_reduce_fx="cat")
        self.add_state("frame_names", [], dist_reduce_fx="cat")

    def add_sums(self, *names: str, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.int64) -> None:
        """Sums of that shape, 0 at first."""
        for name in names:
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def reset(self) -> None:
        super().reset()
        self.before = None

    def update(self, seen: Evaluated) -> None:
        """Frames of sequences in their order; a new name of a sequence begins anew.

        Raises:
            ConfigError: images that are frames of no sequence.
            DataError: frames of one sequence of several sizes.
        """
        batch = seen.batch
        if batch.sequence is None:
            raise ConfigError(
                f"{type(self).__name__} compares consecutive frames, and {batch.names[0]} is a frame of no sequence — "
                "expected data with videos; set metrics=default"
            )
        device = seen.scores.device
        for i, (sequence, name) in enumerate(zip(batch.sequence, batch.names, strict=True)):
            one = slice(i, i + 1)
            label = seen.label[one].to(device)
            ids = resize_argmax(seen.scores[one], (label.shape[-2], label.shape[-1]))
            flow = None if batch.flow is None else batch.flow[one].to(device)
            frame = Frame(sequence, name, batch.image[one].to(device), label, seen.scores[one], ids, flow)
            before = self.before if self.before is not None and self.before.sequence == sequence else None
            if before is not None and before.label.shape != label.shape:
                raise DataError(
                    f"{name} of the sequence {sequence} has {list(label.shape[1:])} pixels (height, width), the frame "
                    f"before it {list(before.label.shape[1:])} — expected frames of one size; set metrics=default, or "
                    "keep each video in a folder of its own"
                )
            found = self.frame(frame) | (self.pair(before, frame) if before is not None else {})
            self.remember(sequence, name, found)
            self.before = frame

    def frame(self, frame: Frame) -> dict[str, float | Tensor]:
        """What is told of a frame by itself."""
        return {}

    @abstractmethod
    def pair(self, before: Frame, frame: Frame) -> dict[str, float | Tensor]:
        """Add a frame and the one before it to the sums; what is told of the frame, by the names of ``per_frame``."""

    def remember(self, sequence: str, name: str, found: Mapping[str, float | Tensor]) -> None:
        """Keep the numbers of a frame; of a name that is too long the end."""
        device = self.device
        given = [found.get(key, torch.nan) for key in self.per_frame]
        values = [torch.as_tensor(value, dtype=torch.float64, device=device).reshape(()) for value in given]
        text = f"{sequence}\n{name}".encode()[-NAME:].ljust(NAME, b"\0")
        self.frame_values.append(torch.stack(values)[None])
        self.frame_names.append(torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)[None])

    def curves(self) -> dict[str, Curve]:
        """The numbers of every frame of all processes."""
        if not len(self.frame_names):
            return {}
        values, names = dim_zero_cat(self.frame_values), dim_zero_cat(self.frame_names)
        texts = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in names.cpu().numpy()]
        parts = [text.partition("\n") for text in texts]
        order = sorted(range(len(parts)), key=lambda i: parts[i][0])  # each process has whole sequences
        frames = tuple((parts[i][0], parts[i][2]) for i in order)
        columns = dict(zip(self.per_frame, values[order].T.tolist(), strict=True))
        known = {score.name: score for score in self.scores}
        return {
            f"{key} per frame": Curve(frames, tuple(column), known[key].unit if key in known else "percent")
            for key, column in columns.items()
        }


class Flicker(AlongVideos):
    """``flicker``: the share of changed predictions among the pixels whose label stays (NaN without any); ``change``:
    that among all pixels, which is the flicker of a static scene without labels.

    Args:
        num_classes: K.
    """

    scores: ClassVar[tuple[Score, ...]] = (Score("flicker", "min", "percent"), Score("change", "min", "percent"))
    per_frame: ClassVar[tuple[str, ...]] = ("flicker", "accuracy")
    flickering: Tensor
    steady: Tensor
    changed: Tensor
    pixels: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.add_sums("flickering", "steady", "changed", "pixels")

    def frame(self, frame: Frame) -> dict[str, float | Tensor]:
        valid = frame.label != IGNORE
        return {"accuracy": ((frame.prediction == frame.label) & valid).sum() / valid.sum()}

    def pair(self, before: Frame, frame: Frame) -> dict[str, float | Tensor]:
        changed = frame.prediction != before.prediction
        steady = (frame.label == before.label) & (frame.label != IGNORE)
        flickering, all_steady = (changed & steady).sum(), steady.sum()
        self.flickering += flickering.to(self.flickering.device)
        self.steady += all_steady.to(self.steady.device)
        self.changed += changed.sum().to(self.changed.device)
        self.pixels += changed.numel()
        return {"flicker": flickering / all_steady}

    def compute(self) -> dict[str, Any]:
        """See the class."""
        return {
            "flicker": (self.flickering.double() / self.steady).item(),
            "change": (self.changed.double() / self.pixels).item(),
            **self.curves(),
        }


def overlaps(ids: Tensor, other: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """[2, K] int64 intersections and unions of two maps of class ids at the pixels that count.

    Args:
        ids, other: [B, H, W]; where either is ``IGNORE``, the pixel does not count.
        valid: [B, H, W] bool.
    """
    valid = valid & (ids != IGNORE) & (other != IGNORE)
    a, b = ids[valid], other[valid]
    both, of_a, of_b = (torch.bincount(x, minlength=num_classes) for x in (a[a == b], a, b))
    return torch.stack([both, of_a + of_b - both])


def ratios(sums: Tensor) -> dict[str, Any]:
    """``TC``, ``TC_all`` and ``TC_per_class`` (NaN without a union) of summed :func:`overlaps`."""
    both, union = sums.cpu().double()
    each = both / union
    present = ~each.isnan().all()
    return {
        "TC": each.nanmean().item(),
        "TC_all": each.nan_to_num(nan=0.0).mean().item() if present else float("nan"),
        "TC_per_class": each.tolist(),
    }


class TemporalConsistency(AlongVideos):
    """``TC``, ``TC_all`` and, for each class, ``TC_per_class``.

    Pixels whose flow is not known do not count: the exact flow of rendered scenes is unknown where a surface is hidden
    in the next frame, or leaves the image.

    Args:
        num_classes: K.
        flow: computes the flow of two frames (:mod:`seglab.flow`); None: it is given with the data.
        occlusion: leave out pixels that the forward-backward check finds occluded or that leave the image.

    Raises:
        ConfigError: ``occlusion`` of given flow, which is there in one direction only; in use, data without flow.
    """

    scores: ClassVar[tuple[Score, ...]] = tuple(
        Score(name, "max", "percent") for name in ("TC", "TC_all", "TC_per_class")
    )
    per_frame: ClassVar[tuple[str, ...]] = ("TC",)
    sums: Tensor

    def __init__(self, num_classes: int, flow: FlowProvider | None = None, occlusion: bool = False) -> None:
        super().__init__(num_classes)
        if occlusion and flow is None:
            raise ConfigError(
                "metrics.temporal.occlusion=true checks the flow to the next frame against the flow back, and data "
                "give the former only — set metrics.temporal.flow._target_=seglab.flow.Raft with weights, or "
                "metrics.temporal.occlusion=false"
            )
        self.flow = flow
        self.occlusion = occlusion
        self.add_sums("sums", shape=(2, num_classes))

    def between(self, before: Frame, frame: Frame) -> tuple[Tensor, Tensor]:
        """Flow [1, 2, H, W] at the label's size, and where it counts [1, H, W]."""
        height, width = frame.label.shape[-2:]
        if self.flow is None:
            if before.flow is None:
                raise ConfigError(
                    f"{before.name}: the data give no optical flow, which TC needs — set "
                    "+metrics.temporal.flow._target_=seglab.flow.Zero (nothing moves) or seglab.flow.Raft with "
                    "+metrics.temporal.flow.weights=FILE, or leave TC out with metrics.temporal=null"
                )
            return before.flow, known(before.flow)
        flow = resize_flow(self.flow(before.image, frame.image), height, width)
        valid = known(flow)
        if self.occlusion:
            back = resize_flow(self.flow(frame.image, before.image), height, width)
            valid &= stays(flow) & ~occluded(flow, back)
        return flow, valid

    def pair(self, before: Frame, frame: Frame) -> dict[str, float | Tensor]:
        flow, valid = self.between(before, frame)
        found = overlaps(before.prediction, warp_labels(frame.prediction, flow), valid, self.num_classes)
        self.sums += found.to(self.sums.device)
        return {"TC": ratios(found)["TC"]}

    def compute(self) -> dict[str, Any]:
        """See the class."""
        return {**ratios(self.sums), **self.curves()}


BINS = 2**15
"""As many as there are bfloat16 numbers that are not negative."""


def bins(minus_log: Tensor) -> Tensor:
    """The bin, 0 .. BINS - 1, of each -log s >= 0: the order of bfloat16 numbers is that of their bits."""
    plain = minus_log.float().clamp_min(0).abs()  # of a certain pixel it is -0, whose bits are a negative number's
    return plain.bfloat16().view(torch.int16).long()


def ranking(counts: Tensor) -> tuple[float, float]:
    """AUROC and average precision of counts [2, BINS] of wrong and right pixels by bins of -log s.

    Pixels of one bin have one score: a pair of them counts half in AUROC. NaN where all are right, or all wrong.
    """
    wrong, right = counts.cpu().double()
    if not wrong.sum() or not right.sum():
        return float("nan"), float("nan")
    lower = wrong.sum() - wrong.cumsum(0)  # wrong pixels of a smaller score than those of the bin
    auroc = (right * (lower + wrong / 2)).sum() / (right.sum() * wrong.sum())
    precision = right.cumsum(0) / (right + wrong).cumsum(0).clamp_min(1)
    return auroc.item(), (precision * right).sum().item() / right.sum().item()


def correlation(moments: Tensor) -> float:
    """Pearson's of sums [6]: number, x, y, x², y², x y."""
    n, x, y, xx, yy, xy = moments.tolist()
    spread = max(n * xx - x * x, 0) ** 0.5 * max(n * yy - y * y, 0) ** 0.5
    return (n * xy - x * y) / spread if n > 1 and spread > 0 else float("nan")


def combined(minus_log_q: Tensor, pc: Tensor, alpha: float | None) -> Tensor:
    """-log s of -log q and PC at the same positions."""
    pc = pc.clamp(0, 1)
    if alpha is None:
        return minus_log_q - pc.log()
    return -(alpha * (-minus_log_q).exp() + (1 - alpha) * pc).log()


class PerceptualConsistency(AlongVideos):
    """``PC``, the share of its positions at which all features are alike (``PC_undefined``), and with ``correctness``
    ``AUROC_confidence``, ``AUROC_PC``, ``AP_confidence``, ``AP_PC``, ``correlation_confidence``, ``correlation_PC``.

    Label maps are taken at the pixel nearest to each position of the feature, as [height, width] of the feature's map.

    Args:
        num_classes: K.
        extractor: gives the frozen network whose features are compared, seglab.backbones.extractor.Extractor.
        block: rows of the correlation that exist at once; memory is block times positions.
        correctness: whether pixels are right, predicted from the labels of the frame before.
        alpha: weight of the confidence in a sum; None: the product.

    Raises:
        ConfigError: an option out of range.
    """

    PREDICTED: ClassVar[tuple[str, ...]] = ("confidence", "PC")
    scores: ClassVar[tuple[Score, ...]] = (
        Score("PC", "max", "percent"),
        *(Score(f"AUROC_{name}", "max", "percent") for name in PREDICTED),
        *(Score(f"AP_{name}", "max", "percent") for name in PREDICTED),
        *(Score(f"correlation_{name}", "max") for name in PREDICTED),
    )
    per_frame: ClassVar[tuple[str, ...]] = ("PC",)
    total: Tensor
    undefined: Tensor
    pairs: Tensor
    ranks: Tensor
    moments: Tensor

    def __init__(
        self,
        num_classes: int,
        extractor: Extractor,
        block: int = BLOCK,
        correctness: bool = True,
        alpha: float | None = None,
    ) -> None:
        super().__init__(num_classes)
        self.extractor = Frozen(extractor, "metrics.perceptual")
        self.block = int(within("metrics.perceptual.block", block, 1))
        self.correctness = correctness
        self.alpha = None if alpha is None else within("metrics.perceptual.alpha", alpha, 0, 1)
        self.features: tuple[Frame, Tensor] | None = None
        self.add_sums("pairs")
        self.add_sums("total", "undefined", dtype=torch.float64)
        if correctness:
            self.add_sums("ranks", shape=(2, 2, BINS))
            self.add_sums("moments", shape=(2, 6), dtype=torch.float64)

    def reset(self) -> None:
        super().reset()
        self.features = None

    def feature(self, frame: Frame) -> Tensor:
        """[1, C, h, w] of a frame; that of the frame before is kept."""
        if self.features is not None and self.features[0] is frame:
            return self.features[1]
        with full_precision(frame.image):
            found: Tensor = self.extractor(frame.image)
        self.features = (frame, found)
        return found

    def pair(self, before: Frame, frame: Frame) -> dict[str, float | Tensor]:
        features = self.feature(before), self.feature(frame)
        size = (features[0].shape[-2], features[0].shape[-1])
        old, new = (downsample_labels(each.prediction, size) for each in (before, frame))
        found = consistency(*features, old, new, block=self.block)
        self.total += found.value.sum().to(self.total)
        self.undefined += found.undefined.sum().to(self.undefined)
        self.pairs += 1
        if self.correctness:
            self.predict_correctness(before, frame, features, new)
        return {"PC": found.value}

    def predict_correctness(
        self, before: Frame, frame: Frame, features: tuple[Tensor, Tensor], prediction: Tensor
    ) -> None:
        """Count which scores the right and the wrong pixels of a frame have, given the labels of the one before."""
        size = (prediction.shape[-2], prediction.shape[-1])
        given, truth = (downsample_labels(each.label, size) for each in (before, frame))
        judged = truth != IGNORE
        if not (given != IGNORE).any() or not judged.any():
            return
        pc = consistency(*features, given, prediction, given != IGNORE, block=self.block).map_b
        right = (prediction == truth)[judged]
        minus_log_q = -log_confidence(frame.scores, frame.label.shape[-2:], size)
        matrix = confusion_matrix(frame.prediction, frame.label, self.num_classes)
        iou = summarise(matrix)["mIoU"]
        for k, found in enumerate((minus_log_q, combined(minus_log_q, pc, self.alpha))):
            for kind in (0, 1):
                counts = torch.bincount(bins(found[judged][right == bool(kind)]), minlength=BINS)
                self.ranks[k, kind] += counts.to(self.ranks.device)
            mean = (-found).exp().mean().item()
            self.moments[k] += self.moments.new_tensor([1, mean, iou, mean * mean, iou * iou, mean * iou])

    def compute(self) -> dict[str, Any]:
        """See the class."""
        found: dict[str, Any] = {
            "PC": (self.total / self.pairs).item(), "PC_undefined": (self.undefined / self.pairs).item()
        }  # fmt: skip
        if self.correctness:
            for name, ranks, moments in zip(self.PREDICTED, self.ranks, self.moments, strict=True):
                found[f"AUROC_{name}"], found[f"AP_{name}"] = ranking(ranks)
                found[f"correlation_{name}"] = correlation(moments)
        return {**found, **self.curves()}


def log_confidence(scores: Tensor, size: torch.Size | tuple[int, ...], grid: tuple[int, int]) -> Tensor:
    """[1, h, w] the largest log probability of scores [1, K, h', w'], resized to a label map, at a grid's pixels of it.

    The pixels are those of :func:`downsample_labels`.
    """
    height, width = size
    device = scores.device
    row = downsample_labels(torch.arange(height, device=device)[None, :, None], (grid[0], 1))[0, :, 0]
    column = downsample_labels(torch.arange(width, device=device)[None, None], (1, grid[1]))[0, 0]
    found = scores.new_empty(1, *grid, dtype=torch.float64 if scores.dtype == torch.float64 else torch.float32)
    for _, rows, y in bands(scores, (height, width)):
        here = (row >= rows.start) & (row < rows.stop)
        values = y[row[here] - rows.start][..., column]  # [r, K, w]
        found[0, here] = values.log_softmax(1).amax(1)
    return found
