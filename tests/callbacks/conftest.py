"""A network of one layer, trained on made-up images: what callbacks see of a run, in milliseconds."""

import itertools

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from seglab import build
from seglab.callbacks.checkpoints import Checkpoints
from seglab.checkpoint import AtomicCheckpointIO
from seglab.data.spec import DatasetSpec
from seglab.inference import Protocol
from seglab.loop import FitLoop
from seglab.losses import Losses
from seglab.metrics import ConfusionMatrix
from seglab.models.base import Model
from seglab.models.normalise import Normalise
from seglab.module import TrainingModule
from seglab.tasks import Semantic
from seglab.types import IGNORE, Batch, Output
from tests.conftest import SMALL_NET, TINY

SPEC = DatasetSpec("toy", ("sky", "road", "tree"), ((0, 120, 255), (90, 90, 90), (0, 140, 0)))


def batch(index: int, size: int = 2, side: int = 16) -> Batch:
    """Images whose classes follow from their colours; a function of the index alone."""
    image = torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(index))
    label = image.argmax(1)
    label[:, :2] = IGNORE
    return Batch(image=image, label=label, names=tuple(f"val/{index}_{i}" for i in range(size)))


class Stream(IterableDataset):
    start = 0

    def __iter__(self):
        return (batch(index) for index in itertools.count(self.start))


class Layer(Model):
    def __init__(self):
        parts = {"backbone": nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.1))}
        super().__init__(Normalise([120.0] * 3, [60.0] * 3), parts, {}, ["logits"])

    def forward(self, image, target=None, *, wanted=frozenset(), size=None):
        return Output(logits=self.backbone(self.normalise(image)))


class Given(ConfusionMatrix):
    given = ()  # scores of the validations to come, in place of the true ones

    def compute(self):
        return super().compute() | ({"mIoU": self.given.pop(0)} if self.given else {})


class ToyTask(Semantic):
    """Two terms, one of which a test may poison; scores that a test may set."""

    def __init__(self, poison=None, scores=()):
        torch.manual_seed(0)
        super().__init__(Layer(), None, {"confusion": Given(3)}, Protocol(), SPEC)
        self.metrics["confusion"].given = list(scores)
        self.poison = poison or (lambda index, loss: loss)
        self.index = 0

    def losses(self, batch, step):
        main = nn.functional.cross_entropy(self.output(batch).logits, batch.label, ignore_index=IGNORE)
        extra = self.poison(self.index, main * 0.1)
        return Losses(main + extra, {"main": main.detach(), "extra": extra.detach()})

    def evaluate(self, batch, step, observed=frozenset()):
        seen = self.score(batch, observed)
        self.metrics["confusion"].update(seen)
        return seen


class Toy(TrainingModule):
    def __init__(self, poison=None, scores=()):
        super().__init__(ToyTask(poison, scores), None, {"backbone": {"name": "toy"}})

    def on_train_batch_start(self, batch, batch_idx):
        torch.manual_seed(batch_idx)
        self.task.index = batch_idx

    def configure_optimizers(self):
        optimiser = torch.optim.AdamW(self.parameters(), 0.05)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, 12)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.fixture
def toy():
    return Toy


@pytest.fixture
def fit():
    """``fit(folder, *callbacks, module=, resume=, **trainer settings) -> (trainer, module)``."""

    def run(folder, *callbacks, module=None, resume=None, max_steps=8, accumulate=1, checkpoints=True, **settings):
        module = module or Toy()
        stream = Stream()
        if resume:
            stream.start = torch.load(resume, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"][
                "total"
            ]["ready"]
        extra = (Checkpoints(every_n_steps=3),) if checkpoints is True else ((checkpoints,) if checkpoints else ())
        trainer = L.Trainer(
            default_root_dir=folder, accelerator="cpu", max_steps=max_steps, accumulate_grad_batches=accumulate,
            val_check_interval=settings.pop("val_every", 4) * accumulate, check_val_every_n_epoch=None,
            callbacks=[*callbacks, *extra], plugins=[AtomicCheckpointIO()], logger=settings.pop("logger", False),
            enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1,
            enable_progress_bar=settings.pop("enable_progress_bar", False), **settings,
        )  # fmt: skip
        trainer.fit_loop = FitLoop.of(trainer.fit_loop)  # as build_trainer does
        train = DataLoader(stream, batch_size=None)
        val = DataLoader([[batch(1000 + i)] for i in range(3)], batch_size=None)
        trainer.fit(module, train, val, ckpt_path=resume, weights_only=True)
        return trainer, module

    return run


@pytest.fixture
def weights():
    """All tensors of a checkpoint that must agree, with where it was written."""

    def read(folder, name="last"):
        content = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        states = ("state_dict", "current_model_state", "averaging_state")
        return {f"{key}.{n}": t for key in states for n, t in content.get(key, {}).items()}

    return read


@pytest.fixture
def made(compose):
    def module(*overrides, oracle=False):
        torch.manual_seed(0)
        cfg = compose("train", [*TINY, *SMALL_NET, *overrides])
        module = build.build_training(cfg, build.build_data(cfg).spec).eval()
        if oracle:
            module.task.scored("oracle")
        return module

    return module
