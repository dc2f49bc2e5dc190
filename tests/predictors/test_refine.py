"""What a prediction takes from the frames before it."""

from __future__ import annotations

import pytest
import torch

from seglab.errors import ConfigError, DataError
from seglab.predictors.refine import TemporalAverage

K = 4


def frames(number: int, seed: int = 0, size: tuple[int, ...] = (5, 7)) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and their scores."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(number, K, *size, generator=generator) * 3
    return torch.zeros(number, 3, 10, 14), scores


@pytest.mark.parametrize("size", [(5, 7), ()], ids=["pixels", "whole images"])
def test_the_average_is_that_of_the_recursion(size):
    images, scores = frames(5, size=size)
    found = TemporalAverage(momentum=0.3).along(images, scores, ["a"] * 5).softmax(1)
    probability = scores.softmax(1)
    expected = [probability[0]]
    for t in range(1, 5):
        expected.append(0.3 * expected[-1] + 0.7 * probability[t])
    torch.testing.assert_close(found, torch.stack(expected))


def test_each_sequence_begins_anew_and_batches_do_not_matter():
    images, scores = frames(7)
    sequences = list("aaabbaa")
    whole = TemporalAverage().along(images, scores, sequences)
    refinement = TemporalAverage()
    parts = [refinement.along(images[a:b], scores[a:b], sequences[a:b]) for a, b in ((0, 1), (1, 2), (2, 5), (5, 7))]
    assert torch.equal(torch.cat(parts), whole)
    for start, end in ((0, 3), (3, 5), (5, 7)):
        alone = TemporalAverage().along(images[start:end], scores[start:end], sequences[start:end])
        assert torch.equal(whole[start:end], alone)


def test_without_memory_the_probabilities_are_the_networks_own():
    images, scores = frames(3)
    found = TemporalAverage(momentum=0.0).along(images, scores, ["a"] * 3)
    torch.testing.assert_close(found.softmax(1), scores.softmax(1))


def test_the_memory_is_no_view_of_what_was_given_out():
    images, scores = frames(3)
    one, two = TemporalAverage(), TemporalAverage()
    kept = [one(images[:1], scores[i : i + 1]) for i in range(3)]
    for i in range(3):
        given = two(images[:1], scores[i : i + 1].clone())
        assert torch.equal(given, kept[i])
        given.zero_()


def test_impossible_probabilities_stay_finite():
    scores = torch.tensor([[200.0, -200.0]]).view(1, 2, 1, 1)
    assert TemporalAverage().along(torch.zeros(1, 3, 2, 2), scores, ["a"]).isfinite().all()


def test_frames_of_another_size_are_refused_and_the_sequence_goes_on():
    refinement = TemporalAverage()
    images, scores = frames(2)
    refinement.along(images[:1], scores[:1], ["clips/a"])
    with pytest.raises(DataError, match=r"sequence clips/a .* \[3, 3\] .* \[5, 7\] .*predictor=still"):
        refinement.along(images[:1], torch.zeros(1, K, 3, 3), ["clips/a"])
    found = refinement.along(images[1:], scores[1:], ["clips/a"])
    assert torch.equal(found, TemporalAverage().along(images, scores, ["a", "a"])[1:])


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_that_forgets_nothing_or_less_is_refused(momentum):
    with pytest.raises(ConfigError, match=r"predictor\.refine\.momentum"):
        TemporalAverage(momentum)
