"""Who computes optical flow: nobody, or torchvision's network with weights of a file."""

import copy

import pytest
import torch

from seglab.errors import CheckpointError, ConfigError
from seglab.flow import Raft, Zero


def test_nothing_moves():
    frame = torch.zeros(2, 3, 6, 8, dtype=torch.uint8)
    assert torch.equal(Zero()(frame, frame), torch.zeros(2, 2, 6, 8))


def test_a_network_without_its_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth is not a file.*raft_small.*weights=FILE"):
        Raft(str(tmp_path / "nowhere.pth"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    frame = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(CheckpointError, match="does not fit torchvision's raft_small"):
        Raft(str(tmp_path / "other.pth"))(frame, frame)
    with pytest.raises(ConfigError, match="updates=0"):
        Raft(str(tmp_path / "other.pth"), updates=0)


def test_frames_of_any_size_get_their_flow(tmp_path):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "weights.pth")
    flow = Raft(str(tmp_path / "weights.pth"), updates=1)
    frames = torch.randint(0, 256, (2, 1, 3, 20, 30), dtype=torch.uint8)
    found = flow(*frames)
    assert found.shape == (1, 2, 20, 30)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert copy.deepcopy(flow).opened() is flow.opened()
