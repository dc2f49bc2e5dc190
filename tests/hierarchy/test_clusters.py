"""Clusters, curves and the choice by an angle: the behaviour that HS3 stands on."""

from __future__ import annotations

import numpy as np
import pytest

from seglab.hierarchy.clusters import (
    clusters_after,
    curve,
    mean_iou,
    merge_order,
    one_hot,
    select,
    shuffled,
)

K = 12


def counts(seed: int = 0, classes: int = K) -> np.ndarray:
    """A confusion matrix of no structure and no ties, its diagonal the largest."""
    made = np.random.default_rng(seed).integers(1, 1000, (classes, classes))
    return made + np.diag(np.full(classes, 2000))


def blocks(sizes: list[int], within: int = 100, between: int = 0) -> np.ndarray:
    """Classes that are told from those of other blocks, and not from those of their own."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return np.where(owner[:, None] == owner, within, between)


def sets(clusters: list[list[int]]) -> set[frozenset[int]]:
    return {frozenset(each) for each in clusters}


def all_levels(matrix: np.ndarray) -> dict[int, list[list[int]]]:
    merges = merge_order(matrix)
    return {k: clusters_after(merges, len(matrix), k) for k in range(2, len(matrix) + 1)}


def test_clusters_hold_every_class_once_are_nested_and_begin_with_the_classes_themselves():
    levels = all_levels(counts())
    assert levels[K] == [[k] for k in range(K)]
    for k, found in levels.items():
        assert len(found) == k
        assert sorted(c for each in found for c in each) == list(range(K))
        assert found == sorted(found), "by their smallest class"
        if k > 2:
            coarser = sets(levels[k - 1])
            assert all(any(each <= other for other in coarser) for each in sets(found))


def test_a_permutation_of_the_classes_permutes_the_clusters():
    matrix, order = counts(3), np.random.default_rng(1).permutation(K)
    plain, permuted = all_levels(matrix), all_levels(matrix[np.ix_(order, order)])
    for k in range(2, K + 1):
        assert sets([[int(order[c]) for c in each] for each in permuted[k]]) == sets(plain[k])


def test_the_most_confused_classes_merge_first_and_sums_of_rows_do_not_matter():
    matrix = np.eye(4) * 100
    matrix[1, 3] = matrix[3, 1] = 50
    matrix[0] *= 1e6  # a frequent class that nothing is taken for
    assert merge_order(matrix)[0] == (1, 3)


def test_ties_go_to_the_smallest_classes():
    assert merge_order(np.eye(4, dtype=int) * 7) == [(0, 1), (0, 2)]


def test_average_linkage_takes_the_mean_over_all_pairs_of_classes():
    """0 and 1 are one; then 2 is much like 0 alone, and 3 half as much like both: the mean decides."""
    similar = np.zeros((5, 5))
    for a, b, value in ((0, 1, 0.9), (0, 2, 0.4), (0, 3, 0.25), (1, 3, 0.25)):
        similar[a, b] = similar[b, a] = value
    matrix = np.round(1000 * similar) + np.diag(1000 * (2 - similar.sum(1)))  # rows sum to the same
    assert merge_order(matrix)[:2] == [(0, 1), (0, 3)]


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3], [1, 4, 2, 5]])
def test_planted_blocks_are_found(sizes):
    expected = np.split(np.arange(K), np.cumsum(sizes)[:-1])
    assert sets(all_levels(blocks(sizes, 100, 3))[len(sizes)]) == {frozenset(map(int, each)) for each in expected}


def test_a_curve_is_the_mean_iou_of_relabelled_predictions():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 6, 500), rng.integers(0, 6, 500)
    matrix = np.zeros((6, 6), int)
    np.add.at(matrix, (truth, prediction), 1)
    merges = merge_order(matrix)
    for value, k in zip(curve(matrix, merges), range(2, 7), strict=True):
        number = {c: i for i, each in enumerate(clusters_after(merges, 6, k)) for c in each}
        t, p = np.vectorize(number.get)(truth), np.vectorize(number.get)(prediction)
        ious = [((t == c) & (p == c)).sum() / ((t == c) | (p == c)).sum() for c in range(k)]
        assert value == pytest.approx(np.mean(ious), abs=1e-12)


def test_absent_classes_merge_last_and_make_no_nan():
    matrix = counts()
    matrix[[2, 7]] = 0  # never labelled; predicted at times
    levels = all_levels(matrix)
    for k in range(3, K + 1):
        assert {frozenset({2}), frozenset({7})} <= sets(levels[k])
    assert np.isfinite(curve(matrix, merge_order(matrix))).all()
    matrix[:, [2, 7]] = 0
    assert np.isfinite(curve(matrix, merge_order(matrix))).all()
    assert np.isnan(mean_iou(np.zeros((3, 3))))


def test_a_perfect_layer_keeps_all_classes():
    matrix = np.diag(np.arange(1, K + 1))
    for angle in (0.0, -0.2, -5.0):
        assert select(curve(matrix, merge_order(matrix)), 1.0, angle) == K


def test_a_layer_that_tells_two_groups_apart_learns_two_clusters():
    found = curve(blocks([5, 7]), merge_order(blocks([5, 7])))
    assert select(found, 1.0, 0.0) == 2
    assert sets(clusters_after(merge_order(blocks([5, 7])), K, 2)) == {frozenset(range(5)), frozenset(range(5, K))}


@pytest.mark.parametrize("seed", range(5))
def test_a_larger_angle_never_gives_more_clusters_and_a_very_negative_one_all(seed):
    matrix = counts(seed)
    found = curve(matrix, merge_order(matrix))
    chosen = [select(found, 0.6, angle) or 0 for angle in np.linspace(-1.5, 1.5, 61)]
    assert chosen == sorted(chosen, reverse=True)
    assert chosen[0] > chosen[-1]
    own = mean_iou(matrix)
    assert select(found, own, -1e6) == K
    assert select(found, own, 0.0) == K, "the last layer against itself"


def test_a_layer_below_the_last_one_never_learns_all_classes():
    found = curve(counts(), merge_order(counts()))
    assert select(found, found[-1] + 1e-6, -1e6) == K - 1


def test_no_number_of_clusters_may_reach_the_target():
    assert select([0.5, 0.4, 0.3], 0.9, 0.0) is None


def test_random_clusters_have_the_same_sizes_and_follow_from_the_seed():
    plain = [[0, 4, 5], [1], [2, 3]]
    first, again, other = shuffled(plain, (0, 1)), shuffled(plain, (0, 1)), [shuffled(plain, (s, 1)) for s in range(9)]
    assert first == again
    assert any(each != first for each in other)
    for each in (first, *other):
        assert sorted(map(len, each)) == [1, 2, 3]
        assert sorted(c for cluster in each for c in cluster) == list(range(6))


def test_one_hot_is_the_matrix_of_the_merge():
    assert one_hot([[0, 2], [1]], 3).tolist() == [[1, 0], [0, 1], [1, 0]]


def test_merges_of_what_is_no_cluster_are_refused():
    with pytest.raises(ValueError, match="no cluster"):
        clusters_after([(0, 1), (1, 2)], 4, 2)
    with pytest.raises(ValueError, match="never leave"):
        clusters_after([(0, 1)], 4, 2)
