"""Perceptual consistency of two frames and their label maps, without optical flow.

Zhang, Borse, Cai, Wang, Bi, Jiang, Porikli: "Perceptual Consistency in Video Segmentation", WACV 2022, arXiv
2110.12385. With features F_A, F_B [C, N] at N positions (``feature_a``, ``feature_b``) and one-hot label maps S_A, S_B
[K, N]::

    R   = normalised(F_A)^T normalised(F_B)          cosine of every position of A with every one of B
    u_i = max_j R_ij                                 best match of position i                (``best``)
    c_i = max_j R_ij G_ij,    G = S_A^T S_B          best match of the same class            (``constrained``)
    m_i = mean_j R_ij                                                                        (``mean``)
    PC_A(i) = (c_i - m_i) / (u_i - m_i),             PC_B(j) likewise over the columns of R
    PC(A, B) = min(mean PC_A, mean PC_B)

A pair of another class counts as 0, so that c_i >= 0 wherever there is one. Where u_i - m_i is below 1e-6 (all features
are alike) nothing speaks against consistency: PC is 1, and the share of such positions is told. Positions that are left
out (void) are left out on both sides before everything.

The measure has no notion of place: a common permutation of the positions of a frame changes nothing. Label maps of one
class are perfectly consistent, whatever they show: it has to be reported together with a measure of accuracy.

Of probabilities p_A, p_B [K, N] in place of S, ``G_ij = sum_k p_A(k, i) p_B(k, j)``: differentiable with respect to
them, through the entries of the maxima alone (c is computed anew from these), never with respect to features. The other
form of the regulariser holds each position's best match j* = argmax_j R_ij fixed::

    match = mean_i -log sum_k p_A(k, i) p_B(k, j*(i)),   averaged over both directions

R has N² entries. It is computed in blocks of rows, with running maxima over the columns; the mean over j is the product
with the mean feature. Memory is O(block N), and the result is that of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seglab.ops.precision import full_precision, widen

BLOCK = 1024
"""Rows of R that exist at once."""
LEAST = 1e-6
"""Of u - m: below it all features are alike."""

Agreement = Callable[[slice], Tensor]
"""G [B, r, N_B] of some rows."""


class Matches(NamedTuple):
    """What the positions of one frame find in the other, each [B, N]."""

    best: Tensor
    """u: the largest correlation."""
    best_at: Tensor
    """Where it is."""
    constrained: Tensor
    """c: the largest with a position of the same class."""
    constrained_at: Tensor
    """Where it is."""
    mean: Tensor
    """m: the mean correlation."""


class Consistency(NamedTuple):
    """PC of both sides: maps [B, h, w], NaN where a position was left out."""

    map_a: Tensor
    map_b: Tensor
    undefined: Tensor
    """[B] share of the positions of both sides at which all features are alike, so that PC is 1 by definition."""

    @property
    def value_a(self) -> Tensor:
        """[B] mean over the positions of A; NaN where all were left out."""
        return self.map_a.flatten(1).nanmean(1)

    @property
    def value_b(self) -> Tensor:
        """[B] mean over the positions of B."""
        return self.map_b.flatten(1).nanmean(1)

    @property
    def value(self) -> Tensor:
        """[B] PC(A, B)."""
        return torch.minimum(self.value_a, self.value_b)


def consistency(
    feature_a: Tensor,
    feature_b: Tensor,
    labels_a: Tensor,
    labels_b: Tensor,
    valid_a: Tensor | None = None,
    valid_b: Tensor | None = None,
    block: int = BLOCK,
) -> Consistency:
    """PC of frames with label maps.

    Args:
        feature_a, feature_b: [B, C, h, w], of any scale.
        labels_a, labels_b: [B, h, w] class ids at the features' positions.
        valid_a, valid_b: [B, h, w] bool, positions that count; None: all.
        block: rows of the correlation that exist at once.
    """
    of_a, of_b = labels_a.flatten(1), labels_b.flatten(1)

    def same(rows: slice) -> Tensor:
        return of_a[:, rows, None] == of_b[:, None]

    side_a, side_b = correlate(feature_a, feature_b, same, valid_a, valid_b, block)
    return assembled(side_a, side_b, (side_a.constrained, side_b.constrained), labels_a, labels_b, valid_a, valid_b)


def soft_consistency(
    feature_a: Tensor,
    feature_b: Tensor,
    probability_a: Tensor,
    probability_b: Tensor,
    valid_a: Tensor | None = None,
    valid_b: Tensor | None = None,
    block: int = BLOCK,
) -> Consistency:
    """PC of frames with class probabilities [B, K, h, w], which get gradients; other arguments as above."""
    with full_precision(feature_a):
        p_a, p_b = widen(probability_a).flatten(2), widen(probability_b).flatten(2)
        fixed_a, fixed_b = p_a.detach(), p_b.detach()

        def agreement(rows: slice) -> Tensor:
            return fixed_a[:, :, rows].mT @ fixed_b

        side_a, side_b = correlate(feature_a, feature_b, agreement, valid_a, valid_b, block)
        unit_a, unit_b = normalised(feature_a), normalised(feature_b)
        found_a = paired(unit_a, unit_b, side_a.constrained_at) * paired(p_a, p_b, side_a.constrained_at)
        found_b = paired(unit_b, unit_a, side_b.constrained_at) * paired(p_b, p_a, side_b.constrained_at)
        maps = probability_a[:, 0], probability_b[:, 0]
        return assembled(side_a, side_b, (found_a, found_b), *maps, valid_a, valid_b)


def match_loss(feature_a: Tensor, feature_b: Tensor, logits_a: Tensor, logits_b: Tensor, block: int = BLOCK) -> Tensor:
    """[B] the form ``match`` of logits [B, K, h, w], which get gradients."""
    with full_precision(feature_a):
        log_a, log_b = (widen(logits).log_softmax(1).flatten(2) for logits in (logits_a, logits_b))
        side_a, side_b = correlate(feature_a, feature_b, None, block=block)
        to_b = -(log_a + gathered(log_b, side_a.best_at)).logsumexp(1).mean(1)
        to_a = -(log_b + gathered(log_a, side_b.best_at)).logsumexp(1).mean(1)
        return (to_a + to_b) / 2


@torch.no_grad()
def correlate(
    feature_a: Tensor,
    feature_b: Tensor,
    agreement: Agreement | None,
    valid_a: Tensor | None = None,
    valid_b: Tensor | None = None,
    block: int = BLOCK,
) -> tuple[Matches, Matches]:
    """What the positions of A find in B, and those of B in A.

    Args:
        agreement: G of some rows; None: 1 everywhere.
    """
    with full_precision(feature_a):
        a, b = normalised(feature_a), normalised(feature_b)
        mask_a, mask_b = (None if valid is None else valid.flatten(1) for valid in (valid_a, valid_b))
        rows_of: list[tuple[Tensor, ...]] = []
        columns: tuple[Tensor, ...] | None = None
        for start in range(0, a.shape[2], block):
            rows = slice(start, start + block)
            r = a[:, :, rows].mT @ b
            agreeing = r if agreement is None else r * agreement(rows)
            across = [without(x, None if mask_b is None else mask_b[:, None]).max(2) for x in (r, agreeing)]
            down = [without(x, None if mask_a is None else mask_a[:, rows, None]).max(1) for x in (r, agreeing)]
            rows_of.append((*across[0], *across[1]))
            found = (down[0][0], down[0][1] + start, down[1][0], down[1][1] + start)
            columns = found if columns is None else larger(columns, found)
        assert columns is not None, "a frame has positions"
        joined = [torch.cat(parts, 1) for parts in zip(*rows_of, strict=True)]
        of_a, of_b = (*joined, mean_with(a, b, mask_b)), (*columns, mean_with(b, a, mask_a))
        return Matches._make(of_a), Matches._make(of_b)


def normalised(feature: Tensor) -> Tensor:
    """[B, C, N] of length 1 at each position of [B, C, h, w]."""
    return F.normalize(widen(feature.detach()).flatten(2), dim=1, eps=1e-12)


def mean_with(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    """[B, N_A] the mean product of each position of a [B, C, N_A] with those of b that count."""
    total = b.sum(2) if mask is None else (b * mask[:, None]).sum(2)
    count = b.shape[2] if mask is None else mask.sum(1)[:, None]
    return torch.einsum("bcn,bc->bn", a, total / count)


def without(x: Tensor, mask: Tensor | None) -> Tensor:
    """The values with -inf where the mask is false."""
    return x if mask is None else x.masked_fill(~mask, -torch.inf)


def larger(before: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of (value, place, value, place) the larger values with their places; of equal ones the former."""
    result: list[Tensor] = []
    for i in (0, 2):
        more = found[i] > before[i]
        result += [found[i].where(more, before[i]), found[i + 1].where(more, before[i + 1])]
    return tuple(result)


def gathered(values: Tensor, places: Tensor) -> Tensor:
    """[B, K, N] the columns of [B, K, M] at places [B, N]."""
    return values.gather(2, places[:, None].expand(-1, values.shape[1], -1))


def paired(a: Tensor, b: Tensor, places: Tensor) -> Tensor:
    """[B, N] product of each column of a [B, K, N] with that of b at its place."""
    return (a * gathered(b, places)).sum(1)


def assembled(
    side_a: Matches,
    side_b: Matches,
    constrained: tuple[Tensor, Tensor],
    like_a: Tensor,
    like_b: Tensor,
    valid_a: Tensor | None,
    valid_b: Tensor | None,
) -> Consistency:
    """PC maps of the shapes [B, h, w] of ``like_a`` and ``like_b``, from c of both sides."""
    maps, alike, counted = [], [], []
    sides = ((side_a, constrained[0], like_a, valid_a), (side_b, constrained[1], like_b, valid_b))
    for side, c, like, valid in sides:
        spread = side.best - side.mean
        flat = spread < LEAST
        ratio = ((c - side.mean) / spread.masked_fill(flat, 1.0)).masked_fill(flat, 1.0)
        counts = torch.ones_like(flat) if valid is None else valid.flatten(1)
        maps.append(ratio.masked_fill(~counts, torch.nan).view(like.shape))
        alike.append((flat & counts).sum(1))
        counted.append(counts.sum(1))
    return Consistency(maps[0], maps[1], (alike[0] + alike[1]) / (counted[0] + counted[1]))
