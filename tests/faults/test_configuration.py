"""A key that nothing reads and a value that cannot be meant are refused by name, in every command, before anything runs."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from seglab import cli, evaluate, export, options, predict
from seglab.errors import ConfigError
from seglab.multirun import plan
from seglab.tasks import Semantic
from seglab.train import fit
from tests.conftest import tiny


def refusal(tmp_path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        fit(tiny(tmp_path / "run", "classifier=cac", *overrides), tmp_path / "run")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "run/checkpoints").exists()
    return str(refused.value)


@pytest.mark.parametrize(
    ("override", "named", "nearest"),
    [
        ("+batch_size=64", "batch_size", "did you mean data.batch_size?"),
        ("+lr=0.1", "lr", "did you mean optim.optimizer.lr?"),
        ("+optim.lr=0.1", "lr", "did you mean optim.optimizer.lr?"),
        ("+optim.optimizer.weight_dekay=0.1", "weight_dekay", "did you mean optim.optimizer.weight_decay?"),
        ("+foo.bar=3", "foo.bar", "expected one of "),
        ("+data.classes=3", "classes", "expected one of dataset, root"),
        ("+data.dataset.sise=[4,4]", "sise", "did you mean data.dataset.size?"),
        ("+trainer.max_stepps=3", "max_stepps", "did you mean trainer.max_steps?"),
        ("+augment.scale=[64,48]", "no parameter 'scale'", "long_short"),
        ("+evaluation.scale=[64,48]", "no parameter 'scale'", "long_short"),
        ("+evaluation.flipp=true", "flipp", "did you mean evaluation.flip?"),
        ("+callbacks.images.cuont=3", "cuont", "did you mean callbacks.images.count?"),
        ("+callbacks.mine=3", "callbacks.mine", "expected the node of an object"),
        ("+loss.response.weight=0", "loss.response", "expected the node of an object"),
        ("+loss.mine.weight=3", "loss.mine", "expected the node of an object"),
        ("+heads.mine.width=3", "heads.mine", "expected the node of an object"),
        ("heads=fcn and +heads.aux.widht=3 and loss.aux.weight=0", "widht", "did you mean heads.aux.width?"),
        ("+logger.mine={save_dir: a}", "logger.mine", "expected the node of an object"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_the_nearest_one(override, named, nearest, tmp_path):
    said = refusal(tmp_path, *override.split(" and "))
    assert named in said
    assert nearest in said


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("seed=-1", "seed=-1", ">= 0"),
        ("seed=99999999999", "seed=99999999999", "<= "),
        ("seed=abc", "seed=abc", "a whole number"),
        ("seed=1.5", "seed=1.5", "a whole number"),
        ("resume=true", "resume=true", "text or null"),
        ("init_from=[1]", "init_from=[1]", "text or null"),
        ("test=first", "test=first", "one of last, best or null"),
        ("overwrite=yess", "overwrite=yess", "true or false"),
        ("trainer.max_steps=null", "trainer.max_steps=null", "a whole number"),
        ("trainer.max_steps=0", "trainer.max_steps=0", "1 or more"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0", ">= 1"),
        ("trainer.precision=int4", "trainer.precision=int4", "bf16-mixed"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0", ">= 1"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval=0", ">= 1"),
        ("trainer.val_check_interval=0.5", "trainer.val_check_interval=0.5", "a whole number or null"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1", ">= 0"),
        ("data.batch_size=2.5", "data.batch_size=2.5", "a whole number"),
        ("data.batch_size=0", "data.batch_size=0", ">= 1"),
        ("data.num_workers=-1", "data.num_workers=-1", ">= 0"),
        ("data.prefetch_factor=0", "data.prefetch_factor=0", ">= 1"),
        ("data.persistent_workers=maybe", "data.persistent_workers=maybe", "true or false"),
        ("classifier.tau=abc", "classifier.tau=abc", "a number"),
        ("classifier.tau=true", "classifier.tau=true", "a number"),
        ("decoder.width=-1", "decoder", "-1"),
        ("decoder.width=0", "decoder", "1 or more"),
        ("heads=fcn heads.aux.width=0", "heads", "1 or more"),
        ("optim.optimizer.betas=[]", "optim.optimizer", "drop what it names"),
        ("optim.schedule.power=-1", "optim.schedule.power=-1", ">= 0"),
        ("decoder.width=wide", "decoder.width=wide", "a whole number"),
        ("optim.schedule=null", "optim.schedule=null", "_target_"),
        ("optim.optimizer=null", "optim.optimizer=null", "_target_"),
        ("optim.no_decay=norm", "optim.no_decay=norm", "a list"),
        ("loss.main.weight=much", "loss.main.weight=much", "a number"),
        ("callbacks.images.count=-3", "callbacks.images: count=-3", ">= 0"),
        ("callbacks.checkpoints.mode=most", "callbacks.checkpoints.mode=most", "one of max, min"),
        ("callbacks.checkpoints.every_n_steps=0", "callbacks.checkpoints.every_n_steps=0", ">= 1"),
        ("augment.crop=48", "augment.crop=48", "a list"),
        ("augment.ratio=[]", "augment.ratio=[]", "[low, high]"),
        ("augment.crop_retries=-1", "augment.crop_retries=-1", "0 or more"),
        ("augment.photometric.brightness=-1", "augment.photometric.brightness=-1", "0 or more"),
        ("augment.photometric.contrast=[]", "augment.photometric.contrast=[]", "[low, high]"),
        ("augment.photometric.saturation=[2,1]", "augment.photometric.saturation=[2, 1]", "[low, high]"),
        ("augment.photometric.hue=-1", "augment.photometric.hue=-1", "0 or more"),
        ("augment.photometric.each=2", "augment.photometric.each=2", "a probability"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_is_refused_by_its_key(override, key, expected, tmp_path):
    said = refusal(tmp_path, *override.split())
    assert key in said
    assert expected in said


def test_one_number_still_stands_for_a_square(tmp_path):
    protocol = ["evaluation.mode=slide", "evaluation.window=32", "evaluation.stride=24"]
    fit(tiny(tmp_path / "run", *protocol, "trainer.max_steps=1", "test=null"), tmp_path / "run")


OTHERS = {"evaluate": evaluate.score, "predict": predict.predict_images, "export": export.write}


@pytest.mark.parametrize(
    ("command", "override", "said"),
    [
        ("evaluate", "+splitt=val", "did you mean split?"),
        ("evaluate", "images=-3", "images=-3"),
        ("evaluate", "images=many", "images=many"),
        ("evaluate", "oracle=perhaps", "oracle=perhaps"),
        ("evaluate", "corruption.severity=4", "corruption.severity=4"),
        ("evaluate", "corruption.transform={_target_: albumentations.Rotate}", "no transform of pixel values"),
        ("predict", "+batch_size=4", "batch_size"),
        ("predict", "overwrite=1", "overwrite=1"),
        ("predict", "max_pixels=all", "max_pixels=all"),
        ("export", "+format=onnx", "format"),
        ("export", "trust=maybe", "trust=maybe"),
    ],
)
def test_so_it_is_in_the_other_commands(command, override, said, tmp_path):
    given = {"evaluate": [], "predict": ["source=x"], "export": []}[command]
    composed = cli.compose(command, ["ckpt=none.ckpt", f"output={tmp_path / 'out'}", *given, override])
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        OTHERS[command](composed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("command", "known"), {
    "train": options.TRAIN | options.parts(*Semantic.PARTS, *Semantic.TRAINING_PARTS), "evaluate": options.EVALUATE, "predict": options.PREDICT, "export": options.EXPORT,
}.items())  # fmt: skip
def test_every_key_of_a_commands_configuration_is_known_and_no_other(command, known):
    needed = [f"{key}=x" for key in ("ckpt", "output", "source", "run_dir") if key in known and command != "train"]
    more = {
        "train": ["run_dir=x", "search=optuna", "regularizer=deep_supervision"],
        "evaluate": ["callbacks=context_gap", "metrics=full"],
    }.get(command, [])
    composed = cli.compose(command, [*needed, *more])
    assert composed.keys() == known.keys()
    options.check(composed, known)


def test_a_multirun_refuses_it_before_any_job(tmp_path):
    def compose(*overrides):
        return OmegaConf.create(tiny(tmp_path, *overrides))

    with pytest.raises(ConfigError, match=r"did you mean data\.batch_size"):
        plan.training(compose("+batch_size=64"))
    with pytest.raises(ConfigError, match="overwrite=true in a multirun"):
        plan.training(compose("overwrite=true"))
