"""Flicker, temporal and perceptual consistency, correctness: what they count, and that processes add up."""

from dataclasses import replace

import pytest
import torch

from seglab.backbones.extractor import Extractor
from seglab.errors import ConfigError, DataError
from seglab.flow import Zero
from seglab.metrics import Flicker, PerceptualConsistency, TemporalConsistency
from seglab.metrics.video import BINS, bins, combined, log_confidence, ranking
from seglab.ops.resize import downsample_labels
from seglab.types import IGNORE, Batch, Curve, Evaluated

H, W, K = 24, 32, 4


def evaluated(prediction, label=None, sequence=None, flow=None, image=None, sure=6.0):
    """Frames [B, H, W] of predicted ids, each its own batch of one unless given as one sequence."""
    count = len(prediction)
    scores = sure * torch.nn.functional.one_hot(prediction, K).movedim(-1, 1).float()
    batch = Batch(
        image=torch.zeros(count, 3, *prediction.shape[1:], dtype=torch.uint8) if image is None else image,
        names=tuple(f"frame{i:02d}" for i in range(count)),
        label=prediction if label is None else label,
        flow=flow,
        sequence=sequence or ("a",) * count,
    )
    return Evaluated(batch=batch, scores=scores)


def measured(metric, *batches):
    for batch in batches:
        metric.update(batch)
    return metric.compute()


def ids(count, seed=0):
    return torch.randint(0, K, (count, H, W), generator=torch.Generator().manual_seed(seed))


def shifted(count, step=2):
    """A pattern that moves to the right by whole pixels, and its flow."""
    wide = ids(1, seed=3)[0].repeat(1, 2)
    frames = torch.stack([wide[:, W - step * t : 2 * W - step * t] for t in range(count)])
    flow = torch.zeros(count, 2, H, W)
    flow[:, 0] = step
    return frames, flow


def test_a_constant_prediction_is_consistent_and_does_not_flicker():
    still = ids(1).expand(4, H, W)
    assert measured(TemporalConsistency(K, Zero()), evaluated(still))["TC"] == 1
    assert measured(Flicker(K), evaluated(still))["flicker"] == 0


def test_flicker_is_the_share_of_changes_where_the_label_stays():
    label = torch.zeros(2, H, W, dtype=torch.int64)
    label[1, :, : W // 2] = 1  # what moves is not asked
    label[:, 0] = IGNORE
    prediction = label.clone().masked_fill(label == IGNORE, 0)
    prediction[1, 1, W // 2 :] = 3  # W / 2 of (H - 1) W / 2 steady pixels
    found = measured(Flicker(K), evaluated(prediction, label))
    assert found["flicker"] == pytest.approx(1 / (H - 1))
    assert found["change"] == pytest.approx(((H - 1) * W / 2 + W / 2) / (H * W))
    accuracy = found["accuracy per frame"]
    assert accuracy.values == (1.0, pytest.approx(1 - 0.5 / (H - 1)))


def test_what_moves_with_the_flow_is_consistent_but_for_what_enters_and_with_a_wrong_flow_it_is_not():
    frames, flow = shifted(4)
    moving = measured(TemporalConsistency(K), evaluated(frames, flow=flow))
    assert 0.9 < moving["TC"] < 1, "pixels that leave the image are clamped to its border"
    flow[..., -2:] = torch.nan
    assert measured(TemporalConsistency(K), evaluated(frames, flow=flow))["TC"] == 1
    assert measured(TemporalConsistency(K, Zero()), evaluated(frames))["TC"] < 0.5


def test_random_labels_agree_by_chance():
    found = measured(TemporalConsistency(K, Zero()), evaluated(ids(40, seed=1)))
    assert found["TC"] == pytest.approx(1 / (2 * K - 1), abs=0.01)


def test_it_is_pooled_over_pairs_and_not_a_mean_of_videos():
    a, b = ids(3, seed=1), ids(1).expand(2, H, W).clone()
    b[1, :3] = (b[1, :3] + 1) % K
    of_a, of_b = (measured(TemporalConsistency(K, Zero()), evaluated(x))["TC"] for x in (a, b))
    metric = TemporalConsistency(K, Zero())
    both = measured(metric, evaluated(a), evaluated(b, sequence=("b", "b")))["TC"]
    assert both != pytest.approx((of_a + of_b) / 2, abs=0.01)
    intersection, union = metric.sums.tolist()
    assert both == pytest.approx(sum(i / u for i, u in zip(intersection, union, strict=True)) / K)
    assert int(metric.sums[1].sum() + metric.sums[0].sum()) == 2 * 3 * H * W, "two pairs of one video, one of the other"


def test_names_of_classes_do_not_matter_and_absent_ones_are_left_out_of_one_of_the_two_means():
    frames = ids(3, seed=1).clamp(max=K - 2)
    names = torch.tensor([2, 3, 0, 1])
    found = measured(TemporalConsistency(K, Zero()), evaluated(frames))
    other = measured(TemporalConsistency(K, Zero()), evaluated(names[frames]))
    assert other["TC"] == pytest.approx(found["TC"])
    assert found["TC_all"] == pytest.approx(found["TC"] * (K - 1) / K)
    assert found["TC_per_class"][K - 1] != found["TC_per_class"][K - 1], "NaN"


def test_an_all_background_video_is_perfectly_consistent():
    label, nothing = ids(3), torch.zeros(3, H, W, dtype=torch.int64)
    assert measured(TemporalConsistency(K, Zero()), evaluated(nothing, label))["TC"] == 1
    assert measured(Flicker(K), evaluated(nothing, label.roll(0, 0)))["flicker"] == 0


def test_flow_is_asked_for_where_the_data_have_none_and_both_ways_for_occlusion():
    with pytest.raises(ConfigError, match=r"metrics\.temporal\.flow\._target_=seglab\.flow\.Zero"):
        measured(TemporalConsistency(K), evaluated(ids(2)))
    with pytest.raises(ConfigError, match=r"metrics\.temporal\.occlusion=true"):
        TemporalConsistency(K, occlusion=True)


def test_occluded_pixels_and_those_that_leave_the_image_are_left_out_on_request():
    frames, _ = shifted(3)

    def flow(a, b):
        found = torch.zeros(1, 2, H, W)
        found[:, 0] = 2 if a.amin() <= b.amin() else -2  # the frames' brightness is their time
        return found

    image = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, H, W)
    seen = evaluated(frames, image=image)
    assert measured(TemporalConsistency(K, flow), seen)["TC"] < 1
    assert measured(TemporalConsistency(K, flow, occlusion=True), seen)["TC"] == 1


METRICS = {
    "flicker": lambda: Flicker(K),
    "temporal": lambda: TemporalConsistency(K, Zero()),
    "perceptual": lambda: PerceptualConsistency(K, EXTRACTOR),
}
EXTRACTOR = Extractor("test_resnet.r160_in1k", untrained=True)


@pytest.fixture
def video():
    random = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (5, 3, H, W), generator=random, dtype=torch.uint8)
    coarse = torch.randint(0, K, (5, 3, 4), generator=random)
    coarse[:, 0] = 1  # of every frame something stays
    label = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
    noisy = torch.where(torch.rand(5, H, W, generator=random) < 0.2, ids(5, seed=9), label)
    return evaluated(noisy, label, sequence=("a", "a", "a", "b", "b"), image=image)


def part(seen, places):
    rows = list(places)
    batch = seen.batch.map(lambda x: x[rows])
    names, sequence = ([column[i] for i in rows] for column in (seen.batch.names, seen.batch.sequence))
    return Evaluated(batch=replace(batch, names=tuple(names), sequence=tuple(sequence)), scores=seen.scores[rows])


def same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, Curve):
            assert value.frames == b[name].frames
            value, other = value.values, b[name].values
        else:
            other = b[name]
        assert value == pytest.approx(other, nan_ok=True), name


@pytest.mark.parametrize("name", METRICS)
def test_batches_do_not_matter_and_nothing_is_compared_across_videos(name, video):
    whole = measured(METRICS[name](), video)
    same(whole, measured(METRICS[name](), *(part(video, [i]) for i in range(5))))
    same(whole, measured(METRICS[name](), part(video, range(2)), part(video, range(2, 5))))
    curve = next(value for key, value in whole.items() if isinstance(value, Curve) and "accuracy" not in key)
    assert [value == value for value in curve.values] == [False, True, True, False, True]
    assert curve.frames[3] == ("b", "frame03")


@pytest.mark.parametrize("name", METRICS)
def test_a_second_evaluation_begins_anew(name, video):
    metric = METRICS[name]()
    first = measured(metric, video)
    metric.reset()
    same(first, measured(metric, video))


@pytest.mark.parametrize("name", METRICS)
def test_processes_add_up(name, video):
    whole = measured(METRICS[name](), video)
    first, second = METRICS[name](), METRICS[name]()
    first.update(part(video, range(3)))
    second.update(part(video, range(3, 5)))
    second.merge_state(first)  # as states are reduced over processes
    same(second.compute(), whole)


def test_frames_of_no_sequence_or_of_several_sizes_are_refused(video):
    with pytest.raises(ConfigError, match="no sequence.*metrics=default"):
        Flicker(K).update(replace(video, batch=replace(video.batch, sequence=None)))
    metric = Flicker(K)
    metric.update(video)
    smaller = evaluated(torch.zeros(1, 8, 8, dtype=torch.int64), sequence=("b",))
    with pytest.raises(DataError, match=r"\[8, 8\].*\[24, 32\]"):
        metric.update(smaller)


def test_a_metric_of_videos_says_that_it_needs_them():
    assert all(make().in_sequences for make in METRICS.values())


def test_perceptual_consistency_of_one_frame_shown_again_is_one(video):
    image = video.batch.image[:1].expand(3, 3, H, W)
    still = video.scores[:1].argmax(1).expand(3, H, W)
    found = measured(PerceptualConsistency(K, EXTRACTOR), evaluated(still, image=image))
    assert found["PC"] == 1
    assert 0 <= found["PC_undefined"] <= 1


def test_an_extractor_is_no_part_of_what_is_stored(video):
    metric = PerceptualConsistency(K, EXTRACTOR)
    measured(metric, video)
    assert not metric.state_dict()
    assert not list(metric.parameters())


def test_pixels_of_other_classes_than_their_matches_are_told_from_right_ones(monkeypatch):
    """Features that show the class: a fifth of the labels is wrong, as sure as the right ones."""
    random = torch.Generator().manual_seed(0)
    label = torch.randint(0, K, (2, H, W), generator=random)
    colours = torch.randint(0, 256, (K, 3), generator=random, dtype=torch.uint8)
    image = colours[label].movedim(-1, 1)
    wrong = torch.rand(2, H, W, generator=random) < 0.2
    prediction = torch.where(wrong, (label + 1) % K, label)
    metric = PerceptualConsistency(K, EXTRACTOR)
    centred = lambda image: image.float() - 127.5  # noqa: E731
    monkeypatch.setattr(metric, "extractor", centred)
    found = measured(metric, evaluated(prediction, label, image=image))
    assert found["AUROC_confidence"] == pytest.approx(0.5)
    assert found["AUROC_PC"] > 0.9
    assert found["AP_PC"] > found["AP_confidence"] == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("seed", [0, 1])
def test_ranking_is_that_of_the_scores_themselves(seed):
    random = torch.Generator().manual_seed(seed)
    right = torch.rand(3000, generator=random) < 0.7
    score = torch.rand(3000, generator=random, dtype=torch.float64) * (0.5 + 0.5 * right) + 1e-9
    places = bins(-score.log())
    assert places.min() >= 0
    assert places.max() < BINS
    counts = torch.stack([torch.bincount(places[right == kind], minlength=BINS) for kind in (False, True)])
    auroc, precision = ranking(counts)
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    assert auroc == pytest.approx(binary_auroc(score, right.long()).item(), abs=2e-3)
    assert precision == pytest.approx(binary_average_precision(score, right.long()).item(), abs=2e-3)
    assert ranking(counts * torch.tensor([[0], [1]]))[0] != ranking(counts * torch.tensor([[0], [1]]))[0], "NaN"


def test_a_pixel_that_is_certain_is_in_the_first_bin():
    certain = -torch.zeros(3).log_softmax(0).sub(torch.zeros(3).log_softmax(0))  # -0
    assert certain.signbit().all()
    assert bins(torch.cat([certain, torch.tensor([0.0, torch.inf])])).tolist() == [0, 0, 0, 0, 32640]


def test_scores_are_the_product_or_a_weighted_sum():
    q, pc = torch.tensor([0.9, 0.5, 0.8]), torch.tensor([1.2, 0.5, -0.3])
    product, weighted = (combined(-q.log(), pc, alpha).neg().exp() for alpha in (None, 0.25))
    torch.testing.assert_close(product, q * pc.clamp(0, 1))
    torch.testing.assert_close(weighted, 0.25 * q + 0.75 * pc.clamp(0, 1))


@pytest.mark.parametrize("grid", [(3, 4), (5, 7), (24, 32)])
def test_confidence_is_taken_at_the_pixels_that_labels_are_taken_at(grid):
    scores = torch.randn(1, K, 9, 11, generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.interpolate(scores, (H, W), mode="bilinear").log_softmax(1).amax(1)
    torch.testing.assert_close(log_confidence(scores, (H, W), grid), downsample_labels(whole, grid), atol=1e-5, rtol=0)


def test_options_out_of_range_are_refused():
    for wrong in ({"block": 0}, {"alpha": 1.5}):
        with pytest.raises(ConfigError, match=r"metrics\.perceptual"):
            PerceptualConsistency(K, EXTRACTOR, **wrong)
