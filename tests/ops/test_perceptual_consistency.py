"""The measure's invariances, its degenerate cases, its blocks, and the gradients of the differentiable forms."""

import pytest
import torch

from seglab.ops.perceptual_consistency import consistency, correlate, match_loss, soft_consistency

H, W, C, K = 6, 10, 12, 4


@pytest.fixture
def pair():
    """Features and labels of two frames [1, ., H, W], whose labels follow the features to some degree."""
    random = torch.Generator().manual_seed(0)
    label = torch.randint(0, K, (2, H, W), generator=random)
    centres = torch.randn(K, C, generator=random, dtype=torch.float64)
    feature = centres[label].movedim(-1, 1) + 0.8 * torch.randn(2, C, H, W, generator=random, dtype=torch.float64)
    wrong = torch.rand(2, H, W, generator=random) < 0.2
    label = torch.where(wrong, torch.randint(0, K, (2, H, W), generator=random), label)
    return feature[:1], feature[1:], label[:1], label[1:]


def one_hot(label):
    return torch.nn.functional.one_hot(label, K).movedim(-1, 1).double()


def permuted(x, order):
    return x.flatten(-2)[..., order].view(x.shape)


def test_identical_frames_with_identical_maps_are_consistent_everywhere(pair):
    found = consistency(pair[0], pair[0], pair[2], pair[2])
    assert (found.map_a == 1).all()
    assert found.value == 1


def test_places_do_not_matter(pair):
    a, b, la, lb = pair
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(1))
    assert consistency(a, permuted(a, order), la, permuted(la, order)).value.item() == pytest.approx(1)
    moved = consistency(a, permuted(b, order), la, permuted(lb, order))
    torch.testing.assert_close(moved.value, consistency(*pair).value)


def test_one_class_is_consistent_whatever_it_shows(pair):
    a, b, la, lb = pair
    assert consistency(a, b, torch.zeros_like(la), torch.zeros_like(lb)).value == 1


def test_frames_without_a_common_class_are_below_zero_for_features_that_are_not_negative(pair):
    a, b, la, _ = pair
    a, b = a.abs(), b.abs()
    found = consistency(a, b, torch.zeros_like(la), torch.ones_like(la))
    side, _ = correlate(a, b, None)
    expected = -side.mean / (side.best - side.mean)
    torch.testing.assert_close(found.map_a.flatten(1), expected)
    assert found.value < 0


def test_names_of_classes_scales_and_rotations_of_features_do_not_matter(pair):
    a, b, la, lb = pair
    expected = consistency(*pair).value
    names = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(consistency(a, b, names[la], names[lb]).value, expected)
    scale = torch.rand(1, 1, H, W, dtype=torch.float64) + 0.1
    torch.testing.assert_close(consistency(a * scale, b * 7, la, lb).value, expected)
    rotation = torch.linalg.qr(torch.randn(C, C, dtype=torch.float64))[0]
    turned = [torch.einsum("dc,bchw->bdhw", rotation, x) for x in (a, b)]
    torch.testing.assert_close(consistency(*turned, la, lb).value, expected)


def test_it_is_symmetric_and_never_above_one(pair):
    a, b, la, lb = pair
    found, back = consistency(a, b, la, lb), consistency(b, a, lb, la)
    torch.testing.assert_close(found.map_a, back.map_b)
    torch.testing.assert_close(found.value, back.value)
    assert found.map_a.max() <= 1
    assert found.value_a < 1


def test_more_wrong_labels_are_less_consistent():
    shares, totals = (0.0, 0.1, 0.2, 0.4, 0.6), []
    random = torch.Generator().manual_seed(0)
    for share in shares:
        values = []
        for _ in range(20):
            label = torch.randint(0, K, (1, H, W), generator=random)
            feature = torch.randn(1, C, H, W, generator=random)
            noisy = torch.where(torch.rand(label.shape, generator=random) < share, (label + 1) % K, label)
            values.append(consistency(feature, feature, label, noisy).value.item())
        totals.append(sum(values) / 20)
    assert totals[0] == 1
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("block", [1, 7, 60, 1000])
def test_blocks_give_what_the_whole_gives(pair, block, void):
    a, b, la, lb = pair
    valid = [la != 0, lb != 1] if void else [None, None]
    found = consistency(a, b, la, lb, *valid, block=block)
    fa, fb = (torch.nn.functional.normalize(x.flatten(2)[0], dim=0) for x in (a, b))
    keep = [torch.ones(H * W, dtype=torch.bool) if v is None else v.flatten() for v in valid]
    dense = fa[:, keep[0]].T @ fb[:, keep[1]]
    same = la.flatten()[keep[0]][:, None] == lb.flatten()[keep[1]]
    for axis, given, mask in ((1, found.map_a, keep[0]), (0, found.map_b, keep[1])):
        mean = dense.mean(axis)
        expected = ((dense * same).amax(axis) - mean) / (dense.amax(axis) - mean)
        torch.testing.assert_close(given.flatten()[mask], expected)
        assert given.flatten()[~mask].isnan().all()


def test_positions_that_are_left_out_change_nothing(pair):
    a, b, la, lb = pair
    valid = la != 0
    other = torch.where(valid[:, None], a, torch.randn_like(a))
    expected = consistency(a, b, la, lb, valid)
    found = consistency(other, b, torch.where(valid, la, 3), lb, valid)
    torch.testing.assert_close(found.value, expected.value)
    assert consistency(a, b, la, lb, torch.zeros_like(valid)).value.isnan()


def test_features_that_are_all_alike_speak_against_nothing_and_are_told():
    flat = torch.ones(1, C, H, W)
    labels = torch.arange(2)[:, None, None].expand(2, H, W)
    found = consistency(flat, flat, labels[:1], labels[1:])
    assert (found.map_a == 1).all()
    assert found.undefined == 1


def test_height_and_width_are_not_swapped():
    random = torch.Generator().manual_seed(0)
    wide = torch.randint(0, K, (1, H, W + 2), generator=random)
    feature = torch.randn(K, C, generator=random)[wide].movedim(-1, 1)
    feature = feature + 0.1 * torch.randn(feature.shape, generator=random)
    a, b, la, lb = feature[..., :W], feature[..., 2:], wide[..., :W], wide[..., 2:]
    assert consistency(a, b, la, lb).value.item() == pytest.approx(1, abs=1e-6)
    swapped = lb.mT.reshape(lb.shape)
    assert consistency(a, b, la, swapped).value < 0.9


def test_of_one_hot_probabilities_it_is_that_of_labels(pair):
    a, b, la, lb = pair
    hard, soft = consistency(*pair), soft_consistency(a, b, one_hot(la), one_hot(lb), block=7)
    torch.testing.assert_close(soft.map_a, hard.map_a)
    torch.testing.assert_close(soft.map_b, hard.map_b)


@pytest.mark.parametrize("form", ["pc", "match"])
def test_predictions_get_gradients_and_features_none(pair, form):
    a, b, la, lb = pair
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    logits = [(3 * one_hot(x)).requires_grad_() for x in (la, lb)]
    if form == "pc":
        loss = 1 - soft_consistency(a, b, *(x.softmax(1) for x in logits)).value.sum()
    else:
        loss = match_loss(a, b, *logits).sum()
    gradients = torch.autograd.grad(loss, [a, b, *logits], allow_unused=True)
    assert gradients[0] is gradients[1] is None
    for gradient in gradients[2:]:
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def test_the_gradient_is_that_of_the_dense_formula(pair):
    a, b, la, lb = pair
    given = [(one_hot(x) + torch.rand(1, K, H, W, dtype=torch.float64)).requires_grad_() for x in (la, lb)]
    value = soft_consistency(a, b, *(x.softmax(1) for x in given), block=7).value.sum()
    fa, fb = (torch.nn.functional.normalize(x.flatten(2)[0], dim=0) for x in (a, b))
    p, q = (x.softmax(1).flatten(2)[0] for x in given)
    dense = fa.T @ fb
    constrained = dense * (p.T @ q)
    sides = [((constrained.amax(i) - dense.mean(i)) / (dense.amax(i) - dense.mean(i))).mean() for i in (1, 0)]
    expected = torch.stack(sides).min()
    torch.testing.assert_close(value, expected)
    for found, wanted in zip(torch.autograd.grad(value, given), torch.autograd.grad(expected, given), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_match_of_certain_predictions_costs_nothing_and_one_of_chance_log_k(pair):
    a, _, la, _ = pair
    certain = 60 * one_hot(la)
    assert match_loss(a, a, certain, certain).item() == pytest.approx(0, abs=1e-9)
    nothing = torch.zeros(1, K, H, W)
    assert match_loss(a, a, nothing, nothing).item() == pytest.approx(torch.tensor(float(K)).log().item())
