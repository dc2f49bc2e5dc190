"""Terms of a labelled and a near frame: what they compare, who gets gradients, what they refuse, what is stored."""

import copy

import pytest
import torch

from seglab.backbones.extractor import Extractor
from seglab.errors import ConfigError
from seglab.flow import Zero
from seglab.losses import Criterion, CrossEntropy, MotionConsistencyLoss, PerceptualConsistencyLoss
from seglab.losses.motion_consistency import visibility
from seglab.losses.schedules import Steps
from seglab.types import IGNORE, Batch, Clip, Output

B, K, H, W = 2, 3, 32, 40
EXTRACTOR = Extractor("test_resnet.r160_in1k", untrained=True)


def term(name, **options):
    if name == "motion":
        return MotionConsistencyLoss(**options)
    return PerceptualConsistencyLoss(EXTRACTOR, form=name, **options)


@pytest.fixture
def batch():
    """Two clips of two frames; of one the labelled frame is the later one. Nothing is known of the flow's first row."""
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (B, 2, 3, H, W), generator=random, dtype=torch.uint8)
    flow = torch.zeros(B, 2, 2, H, W)
    flow[..., 0, :] = torch.nan
    clip = Clip(
        frames=frames, shown=255 - frames, index=torch.tensor([0, 1]), offset=torch.tensor([[0, 2], [-1, 0]]), flow=flow
    )
    image = clip.shown[torch.arange(B), clip.index]
    label = torch.randint(0, K, (B, H, W), generator=random)
    return Batch(image=image, label=label, names=("a", "b"), clip=clip)


def output(seed=0, same=False):
    random = torch.Generator().manual_seed(seed)
    logits, near = (torch.randn(B, K, 8, 10, generator=random) for _ in range(2))
    return Output(
        logits=logits.requires_grad_(), extra={"near.logits": (logits if same else near).detach().requires_grad_()}
    )


NAMES = ("pc", "match", "motion")


@pytest.mark.parametrize("name", NAMES)
def test_both_frames_get_a_finite_gradient(name, batch):
    given = output()
    loss = term(name)(given, batch)
    for gradient in torch.autograd.grad(loss, [given.logits, given.extra["near.logits"]]):
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", ["pc", "motion"])
def test_frames_that_show_and_predict_the_same_cost_nothing(name, batch):
    batch.clip.frames[:, 1] = batch.clip.frames[:, 0]
    given = output(same=True)
    sure = [50 * torch.nn.functional.one_hot(x.argmax(1), K).movedim(-1, 1) for x in (given.logits,)]
    if name == "pc":  # of hard predictions, at the size that features have
        feature = EXTRACTOR().eval()(batch.image)
        ids = torch.randint(0, K, (B, *feature.shape[-2:]))
        sure = [50.0 * torch.nn.functional.one_hot(ids, K).movedim(-1, 1)]
    same = Output(logits=sure[0], extra={"near.logits": sure[0]})
    assert term(name)(same, batch).item() == pytest.approx(0, abs=1e-6)
    other = Output(logits=sure[0], extra={"near.logits": sure[0].roll(1, 1)})
    assert term(name)(other, batch).item() > 0.1


def test_the_colours_that_are_compared_are_those_of_the_frames_and_not_what_the_network_is_shown(batch):
    seen = []

    class Looking(torch.nn.Module):
        def forward(self, image):
            seen.append(image)
            return image[..., ::8, ::8].float()

    loss = PerceptualConsistencyLoss(Looking)
    loss(output(), batch)
    assert torch.equal(seen[0], torch.stack([batch.clip.frames[0, 0], batch.clip.frames[1, 1]]))
    assert torch.equal(seen[1], torch.stack([batch.clip.frames[0, 1], batch.clip.frames[1, 0]]))


def test_where_frames_differ_or_the_flow_is_unknown_predictions_need_not_agree(batch):
    given = output()
    batch.clip.frames[:, 1] = batch.clip.frames[:, 0]
    everywhere = MotionConsistencyLoss()(given, batch).item()
    batch.clip.frames[:, 1] = 255 - batch.clip.frames[:, 1]
    assert MotionConsistencyLoss()(given, batch).item() < 0.5 * everywhere
    batch.clip.flow[:] = torch.nan
    assert MotionConsistencyLoss()(given, batch).item() == 0


def test_visibility_is_the_exponential_of_the_summed_difference():
    image, near = torch.zeros(1, 3, 2, 2), torch.tensor([0.5, -0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    found = visibility(image, near, torch.zeros(1, 2, 2, 2))
    torch.testing.assert_close(found, torch.full((1, 2, 2), -0.4).exp())


def test_motion_is_followed(batch):
    """Logits that move by 4 pixels, and their flow."""
    wide = torch.randn(B, K, H, W + 4, generator=torch.Generator().manual_seed(0))
    batch.clip.frames[:] = 0
    batch.clip.flow[:] = 0
    batch.clip.flow[:, :, 0] = 4
    batch.clip.index[:] = 0
    given = Output(logits=wide[..., 4:], extra={"near.logits": wide[..., :-4]})
    batch.clip.flow[..., -4:] = torch.nan
    assert MotionConsistencyLoss()(given, batch).item() == pytest.approx(0, abs=1e-9)
    assert MotionConsistencyLoss(Zero())(given, batch).item() > 1


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_two_frames_is_refused(name, batch):
    batch.clip = None
    with pytest.raises(ConfigError, match="without clips.*task=video"):
        term(name)(output(), batch)


def test_a_clip_without_flow_is_refused_unless_it_is_computed(batch):
    batch.clip.flow = None
    with pytest.raises(ConfigError, match=r"loss\.motion\.flow\._target_=seglab\.flow\.Raft"):
        MotionConsistencyLoss()(output(), batch)
    assert MotionConsistencyLoss(Zero())(output(), batch).item() > 0


@pytest.mark.parametrize("name", NAMES)
def test_they_are_for_training_and_void_pixels_change_nothing(name, batch):
    made = term(name)
    assert Criterion({"main": CrossEntropy(), name: made}).of_evaluation() == ["main"]
    value = made(output(), batch)
    batch.label[:] = IGNORE
    torch.testing.assert_close(made(output(), batch), value)


def test_an_extractor_is_no_parameter_is_shared_by_copies_and_recorded(batch):
    made = term("pc")
    made(output(), batch)
    assert not list(made.parameters())
    assert not made.state_dict()
    again = copy.deepcopy(made)
    assert again.extractor.model is made.extractor.model
    assert not any(p.requires_grad for p in made.extractor.model.parameters())
    assert not made.train().extractor.model.training
    assert made.frozen()["extractor"].fingerprint() == term("match").frozen()["extractor"].fingerprint()


def test_before_the_warm_up_is_over_nothing_is_extracted(batch):
    opened = []
    made = PerceptualConsistencyLoss(lambda: opened.append(1) or EXTRACTOR(), weight=Steps([0.0, 0.3], [0.5]))
    criterion = Criterion({"perceptual": made})
    criterion.training_takes(10)
    given = output()
    losses = criterion(given, batch, step=4)
    assert losses.total == 0
    assert torch.autograd.grad(losses.total, given.extra["near.logits"])[0] is not None
    assert not opened
    assert criterion(given, batch, step=5).total.item() == pytest.approx(0.3 * made(given, batch).item())
    assert opened == [1]


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="form=soft.*pc, match"):
        PerceptualConsistencyLoss(EXTRACTOR, form="soft")
    with pytest.raises(ConfigError, match="block=0"):
        PerceptualConsistencyLoss(EXTRACTOR, block=0)
