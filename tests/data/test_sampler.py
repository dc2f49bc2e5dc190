from __future__ import annotations

from itertools import islice

import pytest

from seglab.data.sampler import SequenceSampler, ShardSampler, StreamSampler


def stream(batches=40, **options):
    options = {"size": 10, "batch_size": 4, "seed": 3, **options}
    return list(islice(StreamSampler(**options), batches))


def test_each_epoch_of_the_stream_shows_every_item_once():
    flat = [key for batch in stream(25) for key in batch]
    for epoch in range(10):
        part = flat[10 * epoch : 10 * (epoch + 1)]
        assert {e for e, _ in part} == {epoch}
        assert sorted(index for _, index in part) == list(range(10))


def test_epochs_and_seeds_have_different_orders():
    flat = [index for batch in stream(5) for _, index in batch]
    other = [index for batch in stream(5, seed=4) for _, index in batch]
    assert flat[:10] != flat[10:20]
    assert flat[:10] != other[:10]


@pytest.mark.parametrize("start", [0, 1, 7, 33])
def test_a_stream_started_later_is_the_tail_of_the_whole(start):
    assert stream(40 - start, start=lambda: start) == stream(40)[start:]


def test_the_start_is_asked_for_at_each_iteration():
    position = [0]
    sampler = StreamSampler(10, 4, 0, start=lambda: position[0])
    first = list(islice(sampler, 6))
    position[0] = 5
    assert next(iter(sampler)) == first[5]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_global_batch_without_overlap(world_size):
    whole = stream(12, batch_size=4 * world_size)
    shares = [stream(12, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, batch in enumerate(whole):
        assert [key for share in shares for key in share[step]] == batch


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_shows_every_item_once_over_all_ranks(world_size):
    shares = [list(ShardSampler(5, rank, world_size)) for rank in range(world_size)]
    assert sorted(index for share in shares for index in share) == list(range(5))
    assert [len(ShardSampler(5, rank, world_size)) for rank in range(world_size)] == [len(share) for share in shares]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_sequence_stays_whole_in_its_order_in_one_process(world_size):
    sequences = list("aabbbbcbc")
    order = [1, 0, *range(2, 9)]
    shares = [list(SequenceSampler(sequences, order, rank, world_size)) for rank in range(world_size)]
    assert sorted(index for share in shares for index in share) == list(range(9))
    for name in "abc":
        (share,) = [share for share in shares if any(sequences[index] == name for index in share)]
        own = [index for index in share if sequences[index] == name]
        assert own == [index for index in order if sequences[index] == name]
        assert share.index(own[-1]) - share.index(own[0]) == len(own) - 1, "nothing of another in between"


def test_processes_share_sequences_by_their_lengths():
    sequences = ["long"] * 6 + ["a"] * 2 + ["b"] * 2 + ["c"] * 2
    assert [len(SequenceSampler(sequences, range(12), rank, 2)) for rank in (0, 1)] == [6, 6]
