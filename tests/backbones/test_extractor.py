"""Frozen features: of the stride that is asked for, of trained weights or refused."""

import pytest
import torch

from seglab.backbones import Timm
from seglab.backbones.extractor import Extractor
from seglab.errors import CheckpointError, ConfigError

NAME = "test_resnet.r160_in1k"


@pytest.mark.parametrize("stride", [4, 8])
def test_the_feature_is_the_map_of_that_stride(stride):
    network = Extractor(NAME, stride, untrained=True)().eval()
    image = torch.randint(0, 256, (2, 3, 48, 80), dtype=torch.uint8)
    assert network(image).shape[-2:] == (48 // stride, 80 // stride)


def test_images_are_normalised_with_the_statistics_of_the_weights():
    network = Extractor(NAME, untrained=True)().eval()
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    known = Timm.statistics({"name": NAME})
    mean, std = (torch.tensor(known[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(network(image), network((image / 255 - mean) / std))


def test_weights_of_a_file_are_taken(tmp_path):
    own = Timm(NAME)
    torch.save(own.state_dict(), tmp_path / "weights.pth")
    network = Extractor(NAME, weights=str(tmp_path / "weights.pth"))().eval()
    image = torch.randn(1, 3, 32, 32)
    place = own.strides.index(8)
    torch.testing.assert_close(network(image), own.eval()(image)[place])


def test_it_is_opened_without_a_draw_from_the_global_generator():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Extractor(NAME, untrained=True)()
    assert torch.equal(torch.rand(1), expected)


def test_a_random_network_is_refused_with_what_to_set():
    with pytest.raises(ConfigError, match=r"no trained weights.*extractor\.weights=FILE.*seglab\[weights\]"):
        Extractor()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"stride": 7, "untrained": True}, ConfigError, r"extractor\.stride=7.*strides 2, 4, 8"),
        ({"weights": "nowhere.pth"}, CheckpointError, r"extractor\.weights=nowhere\.pth is not a file"),
        ({"pretrained": "package"}, CheckpointError, "no package carries weights"),
        ({"pretrained": "package", "untrained": True}, ConfigError, "one source of weights"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_opened(options, error, text):
    with pytest.raises(error, match=text):
        Extractor(NAME, **options)


def test_weights_that_do_not_fit_are_refused_with_the_extractors_keys(tmp_path):
    torch.save({"a.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"feature extractor cannot be opened.*set extractor\.name"):
        Extractor(NAME, weights=str(tmp_path / "weights.pth"))()
