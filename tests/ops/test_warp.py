"""Maps along a flow: conventions of the flow, borders, unknown flow, occlusion."""

import pytest
import torch

from seglab.ops.warp import known, occluded, resize_flow, stays, warp, warp_labels


def constant(dx: float, dy: float, height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, height, width).clone()


def test_a_pixel_shows_what_lies_where_its_flow_leads_clamped_at_the_border():
    labels = torch.arange(35).view(1, 5, 7)
    pulled = warp_labels(labels, constant(2, -1))
    assert pulled[0, 3, 1] == labels[0, 2, 3], "dx is along the width, dy along the height"
    assert pulled[0, 0, 6] == labels[0, 0, 6]
    assert torch.equal(warp_labels(labels, constant(0, 0)), labels)


def test_ids_are_taken_from_the_nearest_pixel_and_none_is_invented():
    labels = torch.tensor([[[0, 0, 5, 5]]])
    assert warp_labels(labels, constant(0.4, 0, 1, 4)).tolist() == [[[0, 0, 5, 5]]]
    assert warp_labels(labels, constant(0.6, 0, 1, 4)).tolist() == [[[0, 5, 5, 5]]]


@pytest.mark.parametrize("shift", [(1, 0), (-2, 3), (0, 0)])
def test_logits_and_ids_of_a_whole_pixel_flow_are_pulled_alike(shift):
    labels = torch.randint(0, 4, (1, 5, 7), generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).double()
    flow = constant(*shift)
    torch.testing.assert_close(warp(logits, flow).argmax(1), warp_labels(labels, flow))


def test_logits_are_interpolated_and_get_gradients():
    logits = torch.tensor([[[[0.0, 1.0, 3.0]]]], requires_grad=True)
    found = warp(logits, constant(0.5, 0, 1, 3))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.5, 2.0, 3.0]))
    found[..., 0].sum().backward()
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([0.5, 0.5, 0.0]))


def test_unknown_flow_is_told_and_leaves_what_is_known_finite():
    flow = constant(1, 0)
    flow[0, 0, 2, 3] = torch.nan
    assert (~known(flow)).nonzero().tolist() == [[0, 2, 3]]
    assert warp(torch.rand(1, 2, 5, 7), flow).isfinite().all()
    assert warp_labels(torch.arange(35).view(1, 5, 7), flow)[0, 2, 3] == 17


def test_pixels_that_leave_the_image_are_told():
    assert stays(constant(2, 0))[0].sum(1).tolist() == [5] * 5
    assert stays(constant(0.4, -0.4)).all()


def test_a_flow_that_comes_back_is_visible_and_one_that_does_not_is_occluded():
    there, back = constant(2, 1), constant(-2, -1)
    assert not occluded(there, back).any()
    back[..., 2, 4] = 0  # what is behind an object
    assert occluded(there, back).nonzero().tolist() == [[0, 1, 2]], "the pixel whose flow leads there"


def test_a_flow_of_another_size_is_in_its_pixels():
    found = resize_flow(constant(2, 1, 4, 6), 8, 18)
    assert found.shape == (1, 2, 8, 18)
    assert found[0, :, 0, 0].tolist() == [6, 2]
