"""Resizing, windows, flips and scales at test time."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from seglab.errors import ConfigError, DataError
from seglab.inference import LARGEST_VIEW, Protocol, cover, infer, mean_probability, origins
from seglab.types import IGNORE

SLIDE = {"mode": "slide", "window": 16, "stride": 10}


def network(image: torch.Tensor) -> torch.Tensor:
    """4 classes at a quarter of the size; sees the neighbourhood, so that cuts matter."""
    weight = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return F.conv2d(image, weight, stride=4, padding=2)


def pixelwise(image: torch.Tensor) -> torch.Tensor:
    """3 classes of each pixel alone: no view can change its answer."""
    return 2 * image


def noise(height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", range(1, 40))
@pytest.mark.parametrize(("window", "stride"), [(16, 10), (16, 16), (7, 1), (1, 1), (32, 21)])
def test_windows_cover_every_pixel_and_stay_inside(size, window, stride):
    window = min(window, size)
    starts = origins(size, window, stride)
    assert min(starts) == 0
    assert max(starts) + window == size
    assert cover(size, starts, window).min() >= 1
    assert starts == sorted(starts)


def test_windows_are_counted_along_a_side_of_a_million_pixels():
    starts = origins(10**6, 512, 341)
    counted = cover(10**6, starts, 512)
    assert counted[:3].tolist() == [1, 1, 1]
    assert int(counted.sum()) == 512 * len(starts)


def unseen(image: torch.Tensor) -> torch.Tensor:
    raise AssertionError("the network is not to be run")


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((30, 40), {"divisor": 100_000}),
        ((30, 40), {"divisor": 100_000, "divisor_mode": "pad"}),
        ((30, 40), {"long_short": (10**6, 10**6)}),
        ((300, 400), {"ratios": [0.5, 100.0], "multiscale_base": "image"}),
        ((1, LARGEST_VIEW // 16), {}),  # padded to the network's stride, that is twice the limit
    ],
)
def test_options_that_make_a_huge_view_are_refused_before_anything_is_made(size, options):
    image = torch.zeros(1, 3, 1, 1).expand(1, 3, *size)
    with pytest.raises(
        DataError, match=rf"an image of {size[0]}x{size[1]} pixels becomes a view of \d+x\d+ — .*evaluation\.long_short"
    ):
        infer(unseen, image, Protocol(**options), size)


def test_an_image_may_be_as_large_as_it_is():
    assert Protocol().sizes((10**4, 10**4)) == [((10**4, 10**4), (10**4, 10**4))]
    assert LARGEST_VIEW < 10**8


def test_more_windows_than_anyone_waits_for_are_refused():
    image = torch.zeros(1, 3, 1, 1).expand(1, 3, 1100, 1000)
    with pytest.raises(DataError, match=r"1100000 windows of 1x1 .*evaluation\.stride"):
        infer(unseen, image, Protocol(mode="slide", window=1, stride=1), (1100, 1000))


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        ({}, 0),
        ({"long_short": (80, 80)}, 0),
        ({"divisor": 32}, 0),
        (SLIDE, 30 * 40),
        ({**SLIDE, "long_short": (80, 60)}, 60 * 80),
        ({"divisor": 32, "divisor_mode": "pad"}, 32 * 64),
        ({"divisor": 10, "divisor_mode": "pad"}, 0),
        ({"long_short": (80, 60), "through_view": True}, 60 * 80),
        ({"flip": True}, 30 * 40),
        ({"ratios": [0.5, 1.0]}, 30 * 40),
    ],
)
def test_scores_of_every_class_are_held_for_these_pixels(options, pixels):
    protocol = Protocol(**options)
    assert protocol.scored_pixels((30, 40)) == pixels
    shape = infer(pixelwise, noise(30, 40), protocol, (30, 40)).shape[-2:]
    assert shape.numel() <= max(pixels, 64 * 80)


def test_views_are_added_up_without_touching_their_logits():
    views = [torch.randn(1, 3, 4, 5) for _ in range(3)]
    before = [view.clone() for view in views]
    mean_probability(views, (4, 5), Protocol())
    assert all(torch.equal(view, kept) for view, kept in zip(views, before, strict=True))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (5, 40), (1, 1), (37, 26)])
def test_windows_of_a_pixelwise_network_change_nothing(height, width):
    image = noise(height, width, batch=2)
    result = infer(pixelwise, image, Protocol(**SLIDE), (height, width))
    torch.testing.assert_close(result, pixelwise(image))


@pytest.mark.parametrize("window_batch", [2, 3, 100])
def test_windows_may_go_through_the_network_together(window_batch):
    image = noise(41, 57, batch=2)
    one = infer(network, image, Protocol(**SLIDE, window_batch=1), (41, 57))
    many = infer(network, image, Protocol(**SLIDE, window_batch=window_batch), (41, 57))
    torch.testing.assert_close(one, many)


def test_each_image_of_a_batch_keeps_its_own_windows():
    images = noise(41, 57, batch=3)
    together = infer(network, images, Protocol(**SLIDE), (41, 57))
    alone = [infer(network, image[None], Protocol(**SLIDE), (41, 57)) for image in images]
    torch.testing.assert_close(together, torch.cat(alone))


def test_an_image_smaller_than_the_window_is_one_smaller_window():
    seen = []
    infer(lambda x: seen.append(x.shape) or pixelwise(x), noise(9, 40), Protocol(**SLIDE), (9, 40))
    assert {tuple(shape[-2:]) for shape in seen} == {(9, 16)}


def test_one_whole_view_is_the_networks_own_answer_at_its_own_resolution():
    image = noise(32, 48)
    assert torch.equal(infer(network, image, Protocol(), (32, 48)), network(image))


def test_through_view_resizes_twice_as_mmsegmentation_does():
    image, size = noise(30, 44), (61, 90)
    result = infer(network, image, Protocol(long_short=(88, 60), through_view=True), size)
    assert result.shape[-2:] == (60, 88)


def test_flip_and_scales_of_a_pixelwise_network_keep_the_prediction():
    image = F.interpolate(noise(4, 5), size=(32, 40), mode="bilinear")
    scores = infer(pixelwise, image, Protocol(flip=True, ratios=[1.0]), (32, 40))
    torch.testing.assert_close(scores, pixelwise(image).log_softmax(1), atol=1e-5, rtol=1e-5)
    several = infer(pixelwise, image, Protocol(flip=True, ratios=[0.5, 1.0, 1.5]), (32, 40))
    torch.testing.assert_close(several.exp().sum(1), torch.ones(1, 32, 40))
    assert (several.argmax(1) == image.argmax(1)).float().mean() > 0.9


def test_views_are_averaged_as_probabilities_not_as_logits():
    answers = iter([torch.tensor([20.0, 0.0]), torch.tensor([0.0, 4.0])])
    protocol = Protocol(ratios=[1.0, 1.0])
    scores = infer(lambda x: next(answers).view(1, 2, 1, 1), noise(1, 1), protocol, (1, 1))
    expected = (torch.tensor([20.0, 0.0]).softmax(0) + torch.tensor([0.0, 4.0]).softmax(0)) / 2
    torch.testing.assert_close(scores.exp().flatten(), expected)


def test_the_mirrored_view_is_mirrored_back():
    def left(image):  # the class "left half" whatever the image
        logits = torch.zeros(1, 2, *image.shape[-2:])
        logits[:, 1, :, : image.shape[-1] // 2] = 9
        return logits

    scores = infer(left, noise(4, 8), Protocol(flip=True), (4, 8))
    torch.testing.assert_close(scores[..., :4].exp().mean(), scores[..., 4:].exp().mean())


@pytest.mark.parametrize(("mode", "expected"), [("resize", (64, 96)), ("pad", (64, 96))])
def test_the_divisor_makes_sides_multiples(mode, expected):
    seen = []
    protocol = Protocol(divisor=32, divisor_mode=mode)
    infer(lambda x: seen.append(tuple(x.shape[-2:])) or network(x), noise(50, 70), protocol, (50, 70))
    assert seen == [expected]
    assert tuple(protocol.view(noise(50, 70)).shape[-2:]) == expected


def test_padding_is_zero_at_the_right_and_the_bottom_and_is_cut_off_again():
    image = noise(50, 70)
    seen = []
    protocol = Protocol(divisor=32, divisor_mode="pad")
    result = infer(lambda x: seen.append(x) or pixelwise(x), image, protocol, (50, 70))
    assert torch.equal(seen[0][..., :50, :70], image)
    assert seen[0][..., 50:, :].abs().sum() == seen[0][..., 70:].abs().sum() == 0
    torch.testing.assert_close(result, pixelwise(image))
    flipped = infer(pixelwise, image, Protocol(divisor=32, divisor_mode="pad", flip=True), (50, 70))
    torch.testing.assert_close(flipped, pixelwise(image).log_softmax(1))


def test_the_base_of_several_scales_is_the_published_size_or_the_image():
    sizes = {
        base: [
            kept
            for kept, _ in Protocol(long_short=(2048, 512), ratios=[0.5, 1.0], multiscale_base=base).sizes((480, 640))
        ]
        for base in ("long_short", "image")
    }
    assert sizes["long_short"] == [(256, 341), (512, 683)]
    assert sizes["image"] == [(240, 320), (480, 640)]
    single = Protocol(long_short=(2048, 512), multiscale_base="image")
    assert single.sizes((480, 640)) == [((512, 683), (512, 683))]


def test_no_long_and_short_side_keeps_the_size_and_a_sliver_keeps_a_pixel():
    assert Protocol().sizes((37, 51)) == [((37, 51), (37, 51))]
    assert Protocol(long_short=(64, 64)).sizes((1, 4000)) == [((1, 64), (1, 64))]


def test_only_one_whole_unflipped_view_is_a_single_pass():
    assert Protocol(long_short=(512, 256), divisor=32).single_pass
    assert not Protocol(flip=True).single_pass
    assert not Protocol(ratios=[1, 2]).single_pass
    assert not Protocol(**SLIDE).single_pass


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": True, "ratios": [0.5, 1.0]},
        SLIDE,
        {**SLIDE, "flip": True},
        {"divisor": 32, "divisor_mode": "pad", "flip": True},
        {"divisor": 32, "divisor_mode": "resize", "long_short": (50, 40)},
    ],
)
def test_a_label_follows_its_image_through_every_view(options):
    label = torch.randint(4, (2, 33, 45), generator=torch.Generator().manual_seed(2))
    image = label[:, None].expand(-1, 3, -1, -1).float() * 10
    label[0, 5] = IGNORE

    def oracle(image, label):
        assert image.shape[-2:] == label.shape[-2:]
        return F.one_hot(label.masked_fill(label == IGNORE, 0), 4).permute(0, 3, 1, 2).float() * 50

    known = label != IGNORE
    scores = infer(oracle, image, Protocol(**options), (33, 45), label)
    prediction = F.interpolate(scores, size=(33, 45), mode="bilinear").argmax(1)
    exact = "ratios" not in options and "scale" not in options and options.get("divisor_mode") != "resize"
    assert (prediction == label)[known].float().mean() >= (1.0 if exact else 0.6)


def test_sums_may_be_kept_on_the_cpu():
    image = noise(41, 57)
    for options in (SLIDE, {"flip": True}):
        a = infer(network, image, Protocol(**options), (41, 57))
        b = infer(network, image, Protocol(**options, accumulate="cpu"), (41, 57))
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "slide"}, "evaluation.window"),
        ({"mode": "slide", "window": 8, "stride": 9}, "gaps"),
        ({"mode": "tiles"}, "expected one of whole, slide"),
        ({"ratios": []}, "ratios"),
        ({"ratios": [0.0]}, "above 0"),
        ({"long_short": [512]}, "two whole numbers"),
        ({"divisor": 0}, "divisor"),
        ({"divisor": "wide"}, "evaluation.divisor=wide — expected a whole number"),
        ({"window_batch": True}, "evaluation.window_batch"),
        ({"flip": "maybe"}, "evaluation.flip=maybe — expected true or false"),
        ({"through_view": 1}, "evaluation.through_view"),
        ({"ratios": 0.5}, "evaluation.ratios=0.5 — expected a list"),
        ({"ratios": ["x"]}, "evaluation.ratios"),
        ({"ratios": [1e308]}, "at most 100"),
        ({"long_short": True}, "two whole numbers"),
        ({"divisor_mode": "crop"}, "expected one of resize, pad"),
    ],
)
def test_a_protocol_that_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**options)
