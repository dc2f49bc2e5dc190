"""The scenes as a dataset: nothing on disk, every item rendered when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from seglab.checks import within
from seglab.data.scenes.classes import CLASSES, PALETTE
from seglab.data.scenes.motion import flow
from seglab.data.scenes.renderer import Frame, render
from seglab.data.scenes.scene import Scene, make_scene
from seglab.data.source import Opened, Sample, Source, digest
from seglab.data.spec import DatasetSpec
from seglab.errors import ConfigError

_DEFAULT_LENGTHS = {"train": 2000, "val": 64, "test": 200}


SPAN = 30
"""How many frames before an item and after it can be rendered as near frames: a scene goes on beyond its items."""


class Scenes(Source):
    """Street and room scenes, a pure function of (seed, split, index); no two splits share a scene.

    Args:
        root: not used: there are no files.
        size: [H, W] in pixels.
        lengths: number of scenes of each split.
        seed: of the scenes.
        noise: the sensor's, as a fraction of full scale; every frame has its own.
        variation: 0..1, how much the looks of a class differ between scenes.
        frames: items of each scene, one number or one for each split; with more than one, a scene is a video.
        rate: frames a second.
    """

    spec = DatasetSpec("scenes", CLASSES, PALETTE)
    splits = ("train", "val", "test")
    knows_flow = True

    def __init__(
        self,
        root: str | None = None,
        size: Sequence[int] = (144, 192),
        lengths: Mapping[str, int] = _DEFAULT_LENGTHS,
        seed: int = 0,
        noise: float = 0.02,
        variation: float = 0.8,
        frames: int | Mapping[str, int] = 1,
        rate: float = 10.0,
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
        given = dict.fromkeys(self.splits, frames) if isinstance(frames, int) else dict(frames)
        if set(given) - set(self.splits) or any(not isinstance(n, int) or n < 1 for n in given.values()):
            raise ConfigError(
                f"scenes: frames {frames} — expected a number >= 1, or one for each of {', '.join(self.splits)}"
                " — set data.dataset.frames"
            )
        self.frames = {split: given.get(split, 1) for split in self.splits}
        self.rate = within("data.dataset.rate", rate, 0, open_low=True)
        self.root = root
        self.size = (int(size[0]), int(size[1]))
        self.lengths = {split: int(lengths.get(split, 0)) for split in self.splits}
        self.seed, self.noise, self.variation = seed, noise, variation

    def names(self, split: str) -> list[str]:
        """One name per scene, ``val/000003``; of a video one per frame, ``val/000003/000012``."""
        scenes = [f"{split}/{index:06d}" for index in range(self.lengths[self.known(split)])]
        if self.frames[split] == 1:
            return scenes
        return [f"{scene}/{frame:06d}" for scene in scenes for frame in range(self.frames[split])]

    def sequences(self, split: str) -> list[str] | None:
        """The scene of each frame; None where every item is a scene of its own."""
        if self.frames[self.known(split)] == 1:
            return None
        return [name.rpartition("/")[0] for name in self.names(split)]

    def read(self, split: str, index: int) -> Sample:
        """A scene's frame, the first at time 0."""
        scene, frame = divmod(index, self.frames[self.known(split)])
        made = self.frame(split, scene, frame / self.rate)
        name = f"{split}/{scene:06d}" + (f"/{frame:06d}" if self.frames[split] > 1 else "")
        return Sample(image=made.image, label=made.label, name=name)

    def reach(self, split: str, index: int) -> tuple[int, int]:
        """A scene can be rendered at any time, also before its first item and after its last."""
        return SPAN, SPAN

    def near(self, split: str, index: int, offset: int) -> Opened:
        """The frame ``offset / rate`` seconds after an item."""
        scene, frame = divmod(index, self.frames[self.known(split)])
        image = self.frame(split, scene, (frame + offset) / self.rate).image
        return Opened.of(Sample(image=image, name=f"{split}/{scene:06d}/{frame + offset:06d}"))

    def flow(self, split: str, index: int, offset: int) -> np.ndarray:
        """[H, W, 2] exact flow to the frame ``offset`` after an item; NaN where its pixels are hidden or outside."""
        scene, frame = divmod(index, self.frames[self.known(split)])
        times = (frame / self.rate, (frame + offset) / self.rate)
        return flow(self.scene(split, scene), *times, self.size)

    def scene(self, split: str, index: int) -> Scene:
        """The scene itself; IndexError beyond the split's length."""
        if not 0 <= index < self.lengths[self.known(split)]:
            raise IndexError(f"scenes: {split} has {self.lengths[split]} scenes, no index {index}")
        return make_scene((self.seed, self.splits.index(split), index), self.variation)

    def frame(self, split: str, index: int, time: float = 0.0) -> Frame:
        """Image, label, instance, depth and pose of a scene at ``time`` seconds."""
        return render(self.scene(split, index), time, self.size, self.noise)

    def fingerprint(self, split: str) -> str:
        """Hash of everything that the items depend on but the code."""
        settings = f"size={self.size} seed={self.seed} noise={self.noise} variation={self.variation}"
        if self.frames[self.known(split)] > 1:
            settings += f" rate={self.rate}"
        return digest([settings, *self.names(split)])
