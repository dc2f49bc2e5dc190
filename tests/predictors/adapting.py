"""Small networks and frames, as the tests of adaptation need them."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from seglab.data.spec import DatasetSpec
from seglab.inference import Protocol, infer
from seglab.models.normalise import Normalise
from seglab.predictors.refine import Refinement
from seglab.types import Output

K = 4
SPEC = DatasetSpec("toy", ("a", "b", "c", "d"), ((0, 0, 0), (90, 0, 0), (0, 90, 0), (0, 0, 90)))
PLAIN = Protocol()


class Net(nn.Module):
    """Two convolutions with batch normalisation between, at half the resolution; or a single convolution of 1x1."""

    def __init__(self, linear: bool = False, seed: int = 0, classes: int = K) -> None:
        super().__init__()
        self.normalise = Normalise([120.0] * 3, [60.0] * 3)
        self.heads = nn.ModuleDict()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inner = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)]
            self.body = nn.Sequential(*([] if linear else inner))
            self.last = nn.Conv2d(3 if linear else 8, classes, 1)

    def forward(self, image, target=None, *, wanted=frozenset(), size=None) -> Output:
        return Output(logits=self.last(self.body(self.normalise(image))))


def opened(net: nn.Module, spec: DatasetSpec = SPEC):
    """What ``seglab.load`` would give."""
    return lambda: SimpleNamespace(model=net, spec=spec, description=SimpleNamespace(path="aux.ckpt", checksum=None))


def frames(number: int, seed: int = 0, size: tuple[int, int] = (12, 16)) -> Tensor:
    """[number, 3, H, W] normalised noise about an image that stays."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, 3, *size, generator=generator)
    return still + 0.3 * torch.randn(number, 3, *size, generator=generator)


def predicted(main: nn.Module, refinement: Refinement, images: Tensor, sequences=None) -> Tensor:
    """Scores [number, K, h, w] of frames, one by one, as a predictor computes them."""
    found = []
    for i, image in enumerate(images.split(1)):
        with torch.no_grad():
            scores = infer(lambda view: main(view).logits, image, PLAIN, image.shape[-2:])
            found.append(refinement.along(image, scores, [sequences[i] if sequences else "clip"]))
    return torch.cat(found)
