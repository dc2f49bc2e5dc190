"""Losses as named, weighted terms; the criterion adds them up.

A term reads branches of the network's output at feature resolution and the labels at their own size; it resizes inside.
A term whose weight is 0 is dropped when the criterion is made: neither it nor a branch that only it reads is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from seglab.errors import ConfigError
from seglab.losses.frozen import Frozen
from seglab.ops.pixel_sums import PixelSum, pixel_sums
from seglab.ops.precision import full_precision, widen
from seglab.types import FEATURE, Batch, Output, at_pixels, is_of

Weight = float | Callable[[int], float]
"""A number, or a function of the optimiser step (:mod:`seglab.losses.schedules`)."""


class Term(nn.Module):
    """One loss: ``forward(output, batch) -> scalar`` (unweighted, float32 or wider).

    Args:
        branches: the branches of the output that it reads; a mapping says how many channels it wants of each (None:
            one for each class), which is what a head is built by.
        weight: factor in the total; 0 switches the term off.

    Raises:
        ConfigError: weight negative or not finite.
    """

    training_only: ClassVar[bool] = False
    """Whether it is left out of the losses of an evaluation."""
    learns_from: ClassVar[str] = "semantic"
    """Of a term with a frozen network: the ``task=`` whose runs it can be of."""

    def __init__(self, branches: Iterable[str] | Mapping[str, int | None], weight: Weight = 1.0) -> None:
        super().__init__()
        if not callable(weight) and not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"loss weight {weight} — expected a finite number >= 0 (0 switches the term off)")
        self.branches = dict(branches) if isinstance(branches, Mapping) else dict.fromkeys(branches)
        self.weight = weight

    def weight_at(self, step: int) -> float:
        """The weight at an optimiser step."""
        return self.weight(step) if callable(self.weight) else self.weight

    def training_takes(self, steps: int) -> None:
        """Tell the schedule how many optimiser steps the whole training has: its length may be a fraction of them."""
        if hasattr(self.weight, "training"):
            self.weight.training = steps

    @property
    def active(self) -> bool:
        return callable(self.weight) or self.weight != 0

    def frozen(self) -> dict[str, Frozen]:
        """The networks that it learns from, by the attributes that hold them."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Frozen)}

    def read(self, output: Output, branch: str) -> Tensor:
        """A branch of the output.

        Raises:
            ConfigError: the network left it empty.
        """
        value = output.read(branch)
        if value is None:
            raise ConfigError(
                f"{type(self).__name__} reads the branch '{branch}', which is empty — expected a network that "
                "computes it and a batch with labels; switch on what makes it, or remove the loss term (~loss.<name>)"
            )
        return value

    def idle(self, output: Output) -> Tensor:
        """0 with a graph to what it reads, for a step at which its schedule is 0: no parameter drops out of DDP's."""
        return torch.stack([0 * self.read(output, branch).float().mean() for branch in self.branches]).sum()

    def check_classes(self, num_classes: int) -> None:
        """Refuse what does not go with the number of classes; asked once, when the network is built.

        Raises:
            ConfigError: an option of the term that is of another number.
        """

    def labels(self, batch: Batch) -> Tensor:
        """The labels of a batch, [B, H, W].

        Raises:
            ConfigError: it has none.
        """
        if batch.label is None:
            raise ConfigError(
                f"{type(self).__name__} got a batch without labels — expected a split that has them, or the loss term "
                "switched off (loss.<name>.weight=0)"
            )
        return batch.label

    def forward(self, output: Output, batch: Batch) -> Tensor:
        raise NotImplementedError


Sums = tuple[Tensor, ...]
"""The sums of a pass over the pixels, in the order of its :class:`PixelSum`."""


class PixelTerm(Term):
    """A loss of one branch of logits at the size of the labels: a function of sums over the pixels.

    Terms of the same branch are computed in one pass (:mod:`seglab.ops.pixel_sums`).

    Args:
        branch: the logits.
        align_corners: of the resize.
    """

    def __init__(self, branch: str, weight: Weight, align_corners: bool) -> None:
        super().__init__((branch,), weight)
        self.branch = branch
        self.align_corners = align_corners

    def plan(self, logits: Tensor, label: Tensor) -> tuple[PixelSum, Callable[[Sums], Tensor]]:
        """What is summed over the pixels, and the loss of the sums.

        Args:
            logits: [B, K, h, w], float32 or wider.
            label: [B, H, W].
        """
        raise NotImplementedError

    def forward(self, output: Output, batch: Batch) -> Tensor:
        return together([self], output, batch)[0]


def together(terms: Sequence[PixelTerm], output: Output, batch: Batch) -> list[Tensor]:
    """The losses of terms of one branch and one kind of resize, of one pass over its pixels."""
    first = terms[0]
    logits, label = first.read(output, first.branch), first.labels(batch)
    with full_precision(logits):
        logits = widen(logits)
        plans = [term.plan(logits, label) for term in terms]
        size = (label.shape[-2], label.shape[-1])
        found = pixel_sums(logits, size, [summed for summed, _ in plans], first.align_corners)
        return [loss(sums) for (_, loss), sums in zip(plans, found, strict=True)]


def seen_by(term: Term, output: Output, batch: Batch) -> Batch:
    """The batch with the labels that a term compares its branches with: where these are of single pixels, theirs.

    Raises:
        ConfigError: it reads branches of single pixels and of the whole image.
    """
    if output.pixels is None or batch.label is None:
        return batch
    whole = {branch for branch in term.branches if branch in output.extra and branch != FEATURE}
    if not whole:
        return replace(batch, label=at_pixels(batch.label, output.pixels))
    if whole != set(term.branches):
        raise ConfigError(
            f"{type(term).__name__} compares {min(whole)}, which is of the whole image, with "
            f"{min(set(term.branches) - whole)}, which is of single pixels in training — set "
            "decoder.train_query=stride4, or remove the loss term (~loss.<name>)"
        )
    return batch


class Losses(NamedTuple):
    total: Tensor
    """Weighted sum, with a graph even where no pixel is labelled."""
    parts: dict[str, Tensor]
    """Every term's unweighted value, detached, under its name."""


class Criterion(nn.Module):
    """Named terms -> total and parts.

    Raises:
        ConfigError: no term is active.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term.active})
        if not self.terms:
            raise ConfigError("no loss term has a weight above 0 — set at least one, e.g. loss.main.weight=1")

    def named(self) -> list[tuple[str, Term]]:
        """The active terms and their names."""
        return cast(list[tuple[str, Term]], list(self.terms.items()))

    @property
    def branches(self) -> frozenset[str]:
        """The branches of the output that the active terms read."""
        return frozenset(branch for _, term in self.named() for branch in term.branches)

    def training_takes(self, steps: int) -> None:
        """Tell the schedules of weights how many optimiser steps the whole training has."""
        for _, term in self.named():
            term.training_takes(steps)

    def of_evaluation(self) -> list[str]:
        """The names of the terms that are computed in an evaluation, too."""
        return [name for name, term in self.named() if not term.training_only]

    def frozen(self) -> dict[str, Frozen]:
        """The networks that the terms learn from, by ``loss.TERM.ATTRIBUTE``."""
        named = self.named()
        return {f"loss.{name}.{key}": net for name, term in named for key, net in term.frozen().items()}

    def wanted_of(self, head: str, num_classes: int) -> dict[str, int]:
        """The branches of a head that the active terms read, each with the channels that they want of it.

        Raises:
            ConfigError: two terms want different numbers.
        """
        found: dict[str, int] = {}
        for name, term in self.named():
            for branch, channels in term.branches.items():
                if is_of(branch, head):
                    wanted = num_classes if channels is None else channels
                    if found.setdefault(branch, wanted) != wanted:
                        raise ConfigError(
                            f"loss.{name} wants {wanted} channels of the branch '{branch}', another term "
                            f"{found[branch]} — expected one number; give one of them a branch of its own"
                        )
        return found

    def without(self, heads: Iterable[str]) -> Criterion:
        """The terms that read no branch of these heads."""
        left_out = list(heads)
        return Criterion(
            {
                name: term
                for name, term in self.named()
                if not any(is_of(branch, head) for branch in term.branches for head in left_out)
            }
        )

    def check(self, legal: frozenset[str], num_classes: int | None = None) -> None:
        """Refuse terms that read what the network does not publish, or that are for another number of classes.

        Raises:
            ConfigError: names the term, the branch and the legal ones.
        """
        for name, term in self.named():
            if num_classes is not None:
                term.check_classes(num_classes)
            for branch in term.branches:
                if branch not in legal:
                    raise ConfigError(
                        f"loss.{name} reads the branch '{branch}', which this network does not publish — expected one "
                        f"of {', '.join(sorted(legal))}; remove the term (~loss.{name}), or choose a classifier, "
                        "decoder or head (heads=) that has it"
                    )

    def forward(self, output: Output, batch: Batch, step: int = 0, names: Collection[str] | None = None) -> Losses:
        """The terms of those names; None: all of them."""
        named = [(name, term) for name, term in self.named() if names is None or name in names]
        weights = {name: term.weight_at(step) for name, term in named}
        if not named:
            return Losses(output.logits.new_zeros((), dtype=torch.float32), {})
        found = {name: None if weights[name] else term.idle(output) for name, term in named}
        seen = {name: seen_by(term, output, batch) for name, term in named}
        passes: dict[tuple[str, bool], dict[str, PixelTerm]] = {}
        for name, term in named:
            if found[name] is None and isinstance(term, PixelTerm):
                passes.setdefault((term.branch, term.align_corners), {})[name] = term
        for terms in passes.values():
            labelled = seen[next(iter(terms))]  # of one branch, so that all of them see the same
            found |= zip(terms, together(list(terms.values()), output, labelled), strict=True)
        values = {name: term(output, seen[name]) if (value := found[name]) is None else value for name, term in named}
        total = torch.stack([weights[name] * values[name] for name in values]).sum()
        return Losses(total, {name: value.detach() for name, value in values.items()})
