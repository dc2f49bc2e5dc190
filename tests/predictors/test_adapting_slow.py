"""AuxAdapt steadies a noisy video and keeps its accuracy (behavioural test 8 of its specification)."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.data.spec import DatasetSpec
from seglab.models.normalise import Normalise
from seglab.predictors.aux_adapt import AuxAdapt
from seglab.types import Output
from tests.predictors.adapting import PLAIN, opened, predicted

K, SIZE = 5, (64, 96)
SPEC = DatasetSpec("shapes", ("ground", "disc", "square", "bar", "ring"), ((0, 0, 0),) * K)
COLOURS = torch.tensor([[0.45, 0.5, 0.45], [0.6, 0.45, 0.4], [0.4, 0.5, 0.62], [0.55, 0.58, 0.4], [0.55, 0.4, 0.58]])


def clip(seed: int, frames: int, noise: float) -> tuple[Tensor, Tensor]:
    """Images [T, 3, H, W] in -1..1 and labels [T, H, W] of coloured shapes that move over a shaded ground."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*(torch.arange(side) for side in SIZE), indexing="ij")
    shade = 0.06 * torch.sin(x / (6 + 6 * torch.rand(1, generator=g)) + y / (6 + 6 * torch.rand(1, generator=g)))
    place, speed = torch.rand(6, 2, generator=g), torch.randn(6, 2, generator=g) * 0.012
    kinds, radii = torch.randint(1, K, (6,), generator=g), 7 + 7 * torch.rand(6, generator=g)
    images, labels = [], []
    for t in range(frames):
        label = torch.zeros(SIZE, dtype=torch.int64)
        for (v, u), kind, r in zip((place + t * speed) % 1, kinds, radii, strict=True):
            dy, dx = (y - v * SIZE[0]).abs(), (x - u * SIZE[1]).abs()
            far = (dy**2 + dx**2).sqrt()
            inside = (far < r, torch.maximum(dy, dx) < r, (dy < r / 2) & (dx < 2 * r), (far < r) & (far > r / 2))
            label[inside[int(kind) - 1]] = kind
        image = COLOURS[label].permute(2, 0, 1) + shade + noise * torch.randn(3, *SIZE, generator=g)
        images.append((image - 0.5) * 4)
        labels.append(label)
    return torch.stack(images), torch.stack(labels)


class Net(nn.Module):
    """Convolutions at full resolution."""

    def __init__(self, width: int, depth: int, seed: int) -> None:
        super().__init__()
        self.normalise, self.heads = Normalise([127.5] * 3, [31.875] * 3), nn.ModuleDict()
        torch.manual_seed(seed)
        channels = [3] + [width] * depth
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=2**i, dilation=2**i), nn.BatchNorm2d(b), nn.ReLU())
            for i, (a, b) in enumerate(pairwise(channels))
        ]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, K, 1))

    def forward(self, image, target=None, *, wanted=frozenset(), size=None) -> Output:
        return Output(logits=self.body(self.normalise(image)))


def trained(net: Net, steps: int = 150) -> Net:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(steps):
        batches = [clip(1000 + 4 * step + i, 1, noise=0.03) for i in range(4)]
        images, labels = (torch.cat(each) for each in zip(*batches, strict=True))
        loss = F.cross_entropy(net(images).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def miou(ids: Tensor, labels: Tensor) -> float:
    matrix = torch.bincount((labels * K + ids).flatten(), minlength=K * K).view(K, K).double()
    hit = matrix.diag()
    return float((hit / (matrix.sum(0) + matrix.sum(1) - hit)).mean())


def flicker(ids: Tensor, labels: Tensor) -> float:
    """Share of the pixels whose class stays, of which the prediction changes from one frame to the next."""
    stays = labels[1:] == labels[:-1]
    return float(((ids[1:] != ids[:-1]) & stays).sum() / stays.sum())


@pytest.mark.slow
def test_8_flicker_is_halved_and_the_accuracy_kept_and_too_high_a_rate_destroys_it():
    with torch.random.fork_rng():
        main, aux = trained(Net(12, 4, seed=0)), trained(Net(6, 3, seed=1))
    start = {name: value.clone() for name, value in aux.state_dict().items()}
    found: dict[str, list[tuple[float, float]]] = {}
    for seed in (1, 2, 3):
        images, labels = clip(seed, 40, noise=0.08)
        with torch.no_grad():
            ids = {"main": torch.cat([main(image).logits for image in images.split(1)]).argmax(1)}
        for name, lr in (("adapted", 1e-2), ("collapsed", 1.0)):
            aux.load_state_dict(start)
            learnt = AuxAdapt(partial(torch.optim.SGD, lr=lr, momentum=0.9), opened(aux, SPEC))
            learnt.attach(main, SPEC, PLAIN)
            ids[name] = predicted(main, learnt, images).argmax(1)
        for name, each in ids.items():
            found.setdefault(name, []).append((miou(each, labels), flicker(each, labels)))
    for (own, restless), (adapted, steady) in zip(found["main"], found["adapted"], strict=True):
        assert own < 0.9, "there is something to lose"
        assert steady <= 0.5 * restless
        assert adapted >= own - 0.01
    collapsed = [score for score, _ in found["collapsed"]]
    assert sum(collapsed) < sum(score for score, _ in found["main"]), "so flicker alone says nothing"
