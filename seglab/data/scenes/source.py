"""The scenes as a dataset: nothing on disk, every item rendered when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seglab.data.scenes.classes import CLASSES, PALETTE
from seglab.data.scenes.renderer import Frame, render
from seglab.data.scenes.scene import Scene, make_scene
from seglab.data.source import Sample, Source, digest
from seglab.data.spec import DatasetSpec
from seglab.errors import ConfigError

_DEFAULT_LENGTHS = {"train": 2000, "val": 64, "test": 200}


class Scenes(Source):
    """Street and room scenes, a pure function of (seed, split, index); no two splits share a scene.

    ``size`` is [H, W] in pixels, ``noise`` the sensor's as a fraction of full scale, ``variation`` (0..1) how much the
    looks of a class differ between scenes. ``root`` is not used: there are no files.
    """

    spec = DatasetSpec("scenes", CLASSES, PALETTE)
    splits = ("train", "val", "test")

    def __init__(
        self,
        root: str | None = None,
        size: Sequence[int] = (144, 192),
        lengths: Mapping[str, int] = _DEFAULT_LENGTHS,
        seed: int = 0,
        noise: float = 0.02,
        variation: float = 0.8,
    ) -> None:
        if len(size) != 2 or min(size) < 16:
            raise ConfigError(f"scenes: size {list(size)} — expected [height, width] >= 16 — set data.dataset.size")
        if set(lengths) - set(self.splits) or any(n < 0 for n in lengths.values()):
            raise ConfigError(
                f"scenes: lengths {dict(lengths)} — expected counts for {', '.join(self.splits)}"
                " — set data.dataset.lengths"
            )
        if seed < 0:
            raise ConfigError(f"scenes: seed {seed} — expected 0 or more — set data.dataset.seed")
        if not 0 <= noise <= 1:
            raise ConfigError(f"scenes: noise {noise} — expected 0..1 — set data.dataset.noise")
        if not 0 <= variation <= 1:
            raise ConfigError(f"scenes: variation {variation} — expected 0..1 — set data.dataset.variation")
        self.root = root
        self.size = (int(size[0]), int(size[1]))
        self.lengths = {split: int(lengths.get(split, 0)) for split in self.splits}
        self.seed, self.noise, self.variation = seed, noise, variation

    def names(self, split: str) -> list[str]:
        """One name per scene."""
        return [f"{split}/{index:06d}" for index in range(self.lengths[self.known(split)])]

    def read(self, split: str, index: int) -> Sample:
        """Scene ``index`` at time 0."""
        frame = self.frame(split, index)
        return Sample(image=frame.image, label=frame.label, name=f"{split}/{index:06d}")

    def scene(self, split: str, index: int) -> Scene:
        """The scene itself; IndexError beyond the split's length."""
        if not 0 <= index < self.lengths[self.known(split)]:
            raise IndexError(f"scenes: {split} has {self.lengths[split]} items, no index {index}")
        return make_scene((self.seed, self.splits.index(split), index), self.variation)

    def frame(self, split: str, index: int, time: float = 0.0) -> Frame:
        """Image, label, instance, depth and pose of a scene at ``time`` seconds."""
        return render(self.scene(split, index), time, self.size, self.noise)

    def fingerprint(self, split: str) -> str:
        """Hash of everything that the items depend on but the code."""
        settings = f"size={self.size} seed={self.seed} noise={self.noise} variation={self.variation}"
        return digest([settings, *self.names(split)])
