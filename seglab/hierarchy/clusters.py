"""Which classes a layer can tell apart, from its confusion matrix.

Borse, Cai, Zhang, Porikli, "HS3: Learning with Proper Task Complexity in Hierarchically Supervised Semantic
Segmentation", BMVC 2021, arXiv 2111.02333, gives every layer a set of class clusters that fits what it can do, chosen
from a curve over the number of clusters by an angle about the operating point of the last layer. How classes are merged
it leaves open; here:

    s_ab      = (M'_ab + M'_ba) / 2          how often a and b are taken for each other; M': rows of M sum to 1
    merge     the two clusters with the largest mean s between their classes, again and again (average linkage)
    Q[a, c]   = 1 where class a is in cluster c
    m(k)      = mIoU(Q^T M Q)                of the k clusters; no retraining is needed for it
    target(k) = m_L(K) + tan(theta) (1 - k / K)
    k_i       = the largest k with m_i(k) >= target(k)

The target of all K classes is m_L(K) at any angle: a layer that is worse than the last one has K - 1 clusters at most.

M [K, K]: pixels by true (rows) and predicted class; K: number of classes; L: the last layer, whose k is K.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Clusters = list[list[int]]
"""The classes of each cluster, in order; clusters by their smallest class."""
Merges = list[tuple[int, int]]
"""One cluster joins another, each called by its smallest class; the first of a pair is the smaller and stays."""

DIGITS = 12
"""Similarities that agree to so many decimals are ties: sums in another order of the classes differ in the last bit."""


def merge_order(matrix: np.ndarray) -> Merges:
    """The K - 2 merges that lead from K clusters to 2, those of the most confused classes first.

    Ties go to the smallest classes. A class without a labelled pixel joins others only when these are one cluster.

    Args:
        matrix: M [K, K], not negative.
    """
    counts = np.asarray(matrix, np.float64)
    labelled = counts.sum(1)
    rows = counts / np.where(labelled > 0, labelled, 1)[:, None]
    similarity = (rows + rows.T) / 2
    classes = len(counts)
    clusters: Clusters = [[k] for k in range(classes)]
    found: Merges = []
    while len(clusters) > 2:
        members = one_hot(clusters, classes)
        sizes = members.sum(0)
        mean = np.round(members.T @ similarity @ members / np.outer(sizes, sizes), DIGITS)
        # Absent classes come after all others: -1 is below every similarity.
        absent = members.T @ labelled == 0
        mean[absent[:, None] | absent[None, :]] = -1.0
        mean[np.tril_indices(len(clusters))] = -np.inf
        a, b = divmod(int(mean.argmax()), len(clusters))
        found.append((clusters[a][0], clusters[b][0]))
        clusters = joined(clusters, a, b)
    return found


def joined(clusters: Clusters, a: int, b: int) -> Clusters:
    """The clusters with the b-th in the a-th, a < b."""
    return [sorted(each + clusters[b]) if i == a else each for i, each in enumerate(clusters) if i != b]


def clusters_after(merges: Sequence[tuple[int, int]], classes: int, k: int) -> Clusters:
    """The k clusters that the first K - k merges make of single classes.

    Raises:
        ValueError: too few merges, or one of what is no cluster at that point.
    """
    if len(merges) < classes - k:
        raise ValueError(f"{len(merges)} merges of {classes} classes never leave {k} clusters")
    clusters: Clusters = [[each] for each in range(classes)]
    for a, b in merges[: classes - k]:
        names = [cluster[0] for cluster in clusters]
        if a not in names or b not in names or a >= b:
            raise ValueError(f"the merge of {b} into {a} names what is no cluster")
        clusters = joined(clusters, names.index(a), names.index(b))
    return clusters


def one_hot(clusters: Clusters, classes: int) -> np.ndarray:
    """Q [K, k]: 1 where the class is in the cluster."""
    members = np.zeros((classes, len(clusters)))
    for number, cluster in enumerate(clusters):
        members[cluster, number] = 1
    return members


def mean_iou(matrix: np.ndarray) -> float:
    """Mean IoU of a confusion matrix over what is labelled or predicted; NaN of an empty one."""
    counts = np.asarray(matrix, np.float64)
    true = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - true
    there = union > 0
    return float((true[there] / union[there]).mean()) if there.any() else float("nan")


def curve(matrix: np.ndarray, merges: Sequence[tuple[int, int]]) -> list[float]:
    """m(k) for k = 2 … K."""
    classes = len(matrix)
    members = [one_hot(clusters_after(merges, classes, k), classes) for k in range(2, classes + 1)]
    return [mean_iou(q.T @ np.asarray(matrix, np.float64) @ q) for q in members]


def target(k: np.ndarray, classes: int, reference: float, tan_theta: float) -> np.ndarray:
    """What a layer has to reach with k clusters; ``reference`` is m_L(K), of the last layer and all classes."""
    return reference + tan_theta * (1 - k / classes)


def select(curve: Sequence[float], reference: float, tan_theta: float) -> int | None:
    """The largest k whose m(k), of a curve over k = 2 … K, reaches the target; None where none does."""
    classes = len(curve) + 1
    k = np.arange(2, classes + 1)
    fits = k[np.asarray(curve) >= target(k, classes, reference, tan_theta)]
    return int(fits.max()) if len(fits) else None


def shuffled(clusters: Clusters, seed: Sequence[int]) -> Clusters:
    """As many clusters of the same sizes, of classes drawn at random: what the choice of classes is compared with."""
    order = np.random.default_rng(list(seed)).permutation(sum(map(len, clusters)))
    ends = np.cumsum([len(cluster) for cluster in clusters])[:-1]
    return sorted(sorted(int(k) for k in part) for part in np.split(order, ends))
