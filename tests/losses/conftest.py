"""A small batch with void pixels, an absent class and an image of one class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from seglab.losses import Term
from seglab.types import IGNORE, Batch, Output


@dataclass(frozen=True, kw_only=True)
class Branches(Output):
    coarse: Tensor | None = None
    oracle: Tensor | None = None
    semantic_prototypes: Tensor | None = None
    oracle_semantic_prototypes: Tensor | None = None
    spatial_prototypes: Tensor | None = None
    oracle_spatial_prototypes: Tensor | None = None


@dataclass(frozen=True)
class Scene:
    logits: Tensor
    oracle: Tensor
    label: Tensor

    @property
    def void(self) -> Tensor:
        return self.label == IGNORE

    def loss(self, term: Term, logits: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """The term's value, other logits or labels put in."""
        output = Branches(logits=self.logits if logits is None else logits, oracle=self.oracle)
        return term(output, Batch(image=self.logits, label=self.label if label is None else label, names=("a", "b")))


@pytest.fixture
def scene() -> Scene:
    """Logits [2, 4, 5, 6] float64, at the size of the labels; class 3 is absent, class 1 from the first image."""
    torch.manual_seed(0)
    label = torch.randint(0, 3, (2, 5, 6))
    label[0][label[0] == 1] = 2
    label[0, 1:3, 2:5] = IGNORE
    label[1, 4] = IGNORE
    return make(label, (5, 6))


@pytest.fixture
def large_scene() -> Scene:
    """Logits [2, 4, 16, 18] and labels [2, 32, 36]: enough for edges inside of the cleared border."""
    torch.manual_seed(1)
    label = torch.randint(0, 3, (2, 8, 9)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    label[0, 12:20, 16:26] = IGNORE
    return make(label, (16, 18))


def make(label: Tensor, size: tuple[int, int]) -> Scene:
    logits = (2 * torch.randn(2, 4, *size, dtype=torch.float64)).requires_grad_()
    return Scene(logits, 3 * torch.randn(2, 4, *size, dtype=torch.float64), label)


@pytest.fixture
def prototypes() -> Callable[..., tuple[Branches, Batch]]:
    """Branches with prototypes of the given shapes, and a batch with a labelled pixel."""

    def made(student: tuple[int, ...] = (2, 4, 3), teacher: tuple[int, ...] = (2, 4, 3)) -> tuple[Branches, Batch]:
        torch.manual_seed(2)
        p, t = torch.randn(*student, dtype=torch.float64).requires_grad_(), torch.randn(*teacher, dtype=torch.float64)
        output = Branches(
            logits=p,
            semantic_prototypes=p,
            oracle_semantic_prototypes=t,
            spatial_prototypes=p,
            oracle_spatial_prototypes=t,
        )
        return output, Batch(image=p, label=torch.tensor([[[0, IGNORE]]]), names=("a",))

    return made
