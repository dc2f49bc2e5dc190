"""FFNet against the published code: shrunken networks with all tensors, published ones by name, the whole registry."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seglab.backbones.ffnet import NAMES, Encoder, FFNet, Smoothing, variant
from seglab.classifiers import Linear
from seglab.decoders import ffnet as decoders
from seglab.interop import ffnet as interop
from seglab.losses import CrossEntropy
from seglab.models.normalise import Normalise
from seglab.models.segmenter import Segmenter
from seglab.types import Batch
from tests.conftest import network
from tests.ffnets import assembled, encoded, encoder_of, macs
from tests.golden.conftest import Golden
from tests.golden.conftest import find as find_golden

STEMS = {"ResNet": "A", "ResNetS": "B", "ResNetNarrow": "C"}
BLOCKS = ("BasicBlock", "Bottleneck")
ABOUT = ("source", "layout", "tolerance", "sha256", "stats", "tensors", "float32_vs_float64_relative_to_absmax")
KINDS = ("ffnet_tiny_*", "ffnet_published_*", "ffnet_registry_*")


def test_every_file_is_of_a_kind_that_is_tested(golden_files) -> None:
    known = {golden.name for kind in KINDS for golden in find_golden(kind)}
    assert {golden.name for golden in golden_files("ffnet_*")} == known


def unharmed(golden: Golden) -> None:
    """The tensors are those that the sidecar lists."""
    sidecar = golden.sidecar
    assert sidecar["method"] == "FFNet"
    assert hashlib.sha256(golden.path.with_suffix(".safetensors").read_bytes()).hexdigest() == sidecar["sha256"]
    assert {name: list(value.shape) for name, value in golden.tensors.items()} == {
        name: about["shape"] for name, about in sidecar["tensors"].items()
    }


def segmenter(backbone: Encoder, num_classes: int, up_head: str, task: str) -> Segmenter:
    up, _, mobile = up_head.partition("_")
    assert mobile in ("", "mobile")
    seg = task.removeprefix("segmentation_")
    upsampling = "nearest" if mobile else "bilinear"
    decoder = decoders.FFNet(backbone.channels, backbone.strides, num_classes, up, seg, upsampling)
    classifier = Linear(decoder.out_channels, num_classes, dropout=0, kernel=3 if seg == "B" else 1)
    return Segmenter(Normalise([0] * 3, [1] * 3), backbone, decoder, classifier)


@contextmanager
def watched(model: Segmenter) -> Iterator[dict[str, Tensor]]:
    """The inner maps of a pass, under the file's names."""
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, inputs, output: seen.__setitem__(name, output)

    top_down = model.decoder.top_down
    levels = {"adapter": top_down.adapters, "up": top_down.smooths}
    hooks = [
        module.register_forward_hook(keep(f"{name}.{i}"))
        for name, modules in levels.items()
        for i, module in enumerate(modules)
    ]
    hooks.append(model.decoder.fuse.register_forward_pre_hook(lambda module, inputs: seen.update(cat=inputs[0])))
    if model.backbone.smoothing is not None:
        hooks.append(model.backbone.smoothing.register_forward_hook(keep("smoothing")))
    hooks.append(
        model.backbone.register_forward_hook(
            lambda module, inputs, maps: seen.update({f"backbone.{i}": x for i, x in enumerate(maps)})
        )
    )
    yield seen
    for hook in hooks:
        hook.remove()


def check_statistics(seen: dict[str, Tensor], stats: dict[str, dict]) -> None:
    assert stats.keys() <= seen.keys()
    for name, about in stats.items():
        value = seen[name].detach().double()
        assert list(value.shape) == about["shape"], name
        found = {"mean": value.mean().item(), "std": value.std().item(), "absmax": value.abs().max().item()}
        assert found == pytest.approx({key: about[key] for key in found}, rel=1e-3), name


@pytest.mark.golden("ffnet_tiny_*")
def test_a_shrunken_network_is_the_published_one_in_evaluation_and_in_training(golden, close) -> None:
    said = golden.understand(
        *ABOUT, "backbone_class", "block", "blocks_per_stage", "stage_strides", "branch_chans", "up_head", "task",
        "num_classes", "pre_downsampling", "input_hw", "batch",
    )  # fmt: skip
    unharmed(golden)
    pattern = (
        r"eval logits and mid\.\* ([\d.e-]+), eval grad ([\d.e-]+), train logits ([\d.e-]+), train grad ([\d.e-]+) "
        r".*train loss ([\d.e-]+) absolute"
    )
    of_eval, of_eval_grad, of_train, of_train_grad, of_loss = map(float, re.search(pattern, said["tolerance"]).groups())
    given = golden.tensors
    depths, strides = said["blocks_per_stage"], said["stage_strides"]
    assert strides in ([1, 2, 2, 2], [2, 2, 2, 2], [2, 2, 2])
    assert said["block"] in BLOCKS
    encoder = Encoder(
        STEMS[said["backbone_class"]],
        depths,
        said["branch_chans"],
        bottleneck=said["block"] == "Bottleneck",
        downsampled=strides == [2, 2, 2, 2],
        pre_down=said["pre_downsampling"],
    )
    model = segmenter(encoder, said["num_classes"], said["up_head"], said["task"])
    published = {k.removeprefix("param."): v for k, v in given.items() if k.startswith("param.")}
    model.load_state_dict(interop.ours(published))
    assert interop.theirs(model.state_dict()).keys() == published.keys()

    with torch.no_grad():
        close(model.eval()(given["input"]).logits, given["eval.logits"], of_eval, "eval.logits in float32")
    # The rest in float64: where rounding turns a ReLU's input across 0, a gradient in float32 is another one.
    model.double()
    image = given["input"].double().requires_grad_()
    assert list(image.shape) == [said["batch"], 3, *said["input_hw"]]
    with watched(model.eval()) as seen:
        logits = model(image).logits
    close(logits, given["eval.logits"], of_eval, "eval.logits")
    (gradient,) = torch.autograd.grad((logits * given["grad_logits"]).sum(), image)
    close(gradient, given["eval.grad.input"], of_eval_grad, "eval.grad.input")
    for key in (key for key in given if key.startswith("mid.")):
        close(seen[key.removeprefix("mid.")], given[key], of_eval, key)
    check_statistics(seen, said["stats"])

    rest = [k for k in given if not k.startswith(("param.", "mid.", "eval."))]
    if "label" not in given:
        assert set(rest) == {"input", "grad_logits"}
        return
    assert all(k.startswith("train.") or k in ("input", "label", "grad_logits") for k in rest)
    aligned = re.search(r"align_corners=(True|False)", said["layout"])[1] == "True"
    batch = Batch(image=image, label=given["label"].long(), names=("",) * len(image))
    output = model.train()(image)
    close(output.logits, given["train.logits"], of_train, "train.logits")
    loss = CrossEntropy("logits", align_corners=aligned, average="valid")(output, batch)
    assert loss.item() == pytest.approx(given["train.loss.ce"].item(), abs=of_loss)
    (gradient,) = torch.autograd.grad(loss, image)
    close(gradient, given["train.grad.input"], of_train_grad, "train.grad.input")
    after = interop.theirs(model.state_dict())
    for key in (key for key in given if key.startswith("train.after.")):
        close(after[key.removeprefix("train.after.")], given[key], of_train, key)


def recipe(key: str, value: Tensor, seed: int) -> Tensor:
    """The sidecar's weights of a tensor, by its published name."""
    name = key.rpartition(".")[2]
    if name == "num_batches_tracked":
        return torch.zeros((), dtype=torch.int64)
    if key == "smoothing.weight":
        return Smoothing().weight
    draw = np.random.RandomState((seed + zlib.crc32(key.encode())) % 2**32).random_sample(value.numel())
    if name == "running_mean":
        made = (draw - 0.5) * 0.4
    elif name == "running_var":
        made = 0.5 + draw
    elif value.ndim == 1 and name == "weight":
        made = 0.7 + 0.6 * draw
        made *= 0.3 if re.search(r"layer\d+\.\d+\.bn[23]\.weight$", key) else 1
    elif value.ndim == 1:
        made = (draw - 0.5) * 0.2
    else:
        made = (2 * draw - 1) * np.sqrt(6 / value[0].numel())
    return torch.from_numpy(made.astype(np.float32)).reshape(value.shape)


ENTRY = {
    "name", "up_head", "task", "pre_downsampling", "input_hw", "input_seed", "grad_seed", "params",
    "state_dict_sha256", "weight_checksums", "stats",
}  # fmt: skip


@pytest.mark.golden("ffnet_published_*")
def test_a_published_network_is_loaded_by_its_keys_and_gives_the_published_logits(golden, close) -> None:
    said = golden.understand(
        *ABOUT, "base_seed", "recipe", "input_recipe", "entries", "weight_checksums", "stats_meaning"
    )
    unharmed(golden)
    tolerance = float(re.fullmatch(r"([\d.e-]+) relative to absmax of logits", said["tolerance"])[1])
    given = golden.tensors
    assert {key.partition(".")[0] for key in given} == {entry["name"] for entry in said["entries"]}
    for entry in said["entries"]:
        assert entry.keys() == ENTRY, entry["name"]
        name, kind = entry["name"], variant(entry["name"])
        assert (kind.pre_down, kind.mobile) == (entry["pre_downsampling"], entry["up_head"].endswith("_mobile"))
        assert (f"{kind.up}{'_mobile' * kind.mobile}", f"segmentation_{kind.seg}") == (entry["up_head"], entry["task"])
        with torch.device("meta"):
            model = segmenter(FFNet(name), 19, entry["up_head"], entry["task"])
        published = {k: recipe(k, v, said["base_seed"]) for k, v in interop.theirs(model.state_dict()).items()}
        for key, sums in entry["weight_checksums"].items():
            value = published[key].double()
            assert [value.sum().item(), value.abs().sum().item()] == pytest.approx(sums, rel=1e-9), key
        model.load_state_dict(interop.ours(published), assign=True)
        assert sum(p.numel() for p in model.parameters()) == entry["params"]
        assert signature(published) == entry["state_dict_sha256"]

        image = given[f"{name}.input"]
        assert list(image.shape[-2:]) == entry["input_hw"]
        drawn = np.random.RandomState(entry["input_seed"]).random_sample(image.numel())
        assert torch.equal(image, torch.from_numpy(((drawn - 0.5) * 4).astype(np.float32)).reshape(image.shape))
        image = image.double().requires_grad_()  # see above
        with watched(model.eval().requires_grad_(False).double()) as seen:
            logits = model(image).logits
        close(logits, given[f"{name}.eval.logits"], tolerance, name)
        weight = given[f"{name}.grad_logits"]
        drawn = np.random.RandomState(entry["grad_seed"]).random_sample(weight.numel())
        assert torch.equal(weight, torch.from_numpy((drawn - 0.5).astype(np.float32)).reshape(weight.shape))
        (gradient,) = torch.autograd.grad((logits * weight).sum(), image)
        close(gradient, given[f"{name}.eval.grad.input"], tolerance, f"{name}: gradient")
        for key in (key for key in given if key.startswith(f"{name}.mid.")):
            close(seen[key.removeprefix(f"{name}.mid.")], given[key], 1e-5, key)
        check_statistics(seen, entry["stats"])


def signature(state: dict[str, Tensor]) -> str:
    lines = "\n".join(f"{key}:{tuple(state[key].shape)}" for key in sorted(state))
    return hashlib.sha256(lines.encode()).hexdigest()


MODEL = {
    "up_head", "task", "num_classes", "pre_downsampling", "backbone_fn", "backbone_class", "block", "blocks_per_stage",
    "stage_strides", "backbone_out_channels", "weights_file", "pretrained_backbone_only", "strict_loading",
    "dropout_rate", "params", "backbone_params", "state_dict_entries", "state_dict_sha256", "native_input_hw", "gmacs",
    "output_shape", "forward_error",
}  # fmt: skip


@pytest.mark.golden("ffnet_registry_*")
def test_every_name_of_the_registry_has_the_published_parameters_keys_and_multiply_adds(golden) -> None:
    models = golden.understand("source", "signature", "models")["models"]
    assert {name.partition("_")[2] for name in models} == NAMES.keys()
    assert len(models) == len(NAMES)
    for name, about in models.items():
        assert about.keys() == MODEL, name
        kind = variant(name)
        downsampled = "_D" * kind.downsampled
        assert about["backbone_fn"] == f"Resnet{kind.encoder}{downsampled}", name
        assert about["task"] == ("classification" if kind.classifies else f"segmentation_{kind.seg}")
        assert about["up_head"] == kind.up + "_mobile" * kind.mobile
        assert about["pre_downsampling"] == kind.pre_down
        assert about["pretrained_backbone_only"] == name.endswith("_train")

        parts = assembled(name, about["num_classes"])
        backbone, decoder, classifier = parts.values()
        assert about["dropout_rate"] in (None, classifier.dropout.p), name
        assert list(backbone.channels) == about["backbone_out_channels"]
        stages = [getattr(backbone, f"layer{i + 1}") for i in range(backbone.stages)]
        assert [len(stage) for stage in stages] == about["blocks_per_stage"]
        assert [stride_of(stage[0]) for stage in stages] == about["stage_strides"]
        assert type(stages[0][0]).__name__ == about["block"] in BLOCKS
        assert STEMS[about["backbone_class"]] == {1: "A", 2: "B", 3: "C"}[len(backbone.stem)]

        state = interop.theirs(nn.ModuleDict(parts).state_dict())
        assert len(state) == about["state_dict_entries"], name
        assert signature(state) == about["state_dict_sha256"], name
        assert sum(p.numel() for part in parts.values() for p in part.parameters()) == about["params"], name
        assert sum(p.numel() for p in backbone.parameters()) == about["backbone_params"], name
        if about["gmacs"] is None:
            assert kind.pre_down
            continue
        of_encoder, maps = encoded(encoder_of(name), tuple(about["native_input_hw"]))
        of_decoder, decoded = macs(decoder, maps)
        feature = decoded.feature.mean((2, 3), keepdim=True) if kind.classifies else decoded.feature
        of_classifier, output = macs(classifier, feature)
        # The published pass of these fails in its dropout, before the linear layer; here that is plain dropout.
        fails = about["forward_error"] is not None
        assert fails == (kind.classifies and "N" in kind.encoder), name
        found = (of_encoder + of_decoder + (0 if fails else of_classifier)) / 1e9
        assert found == pytest.approx(about["gmacs"], abs=6e-4), name
        shape = list(output.logits.flatten(1).shape if kind.classifies else output.logits.shape)
        # A published image classifier cannot take a batch of 1, and was given 2.
        assert shape[1:] == ([1000] if fails else about["output_shape"][1:]), name


def stride_of(block: nn.Module) -> int:
    return max(m.stride[0] for m in block.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    "name", ["segmentation_ffnet40S_BBB_mobile_pre_down", "ffnet18_dAAC", "classification_ffnet46NS_CBX_mobile"]
)
def test_the_overrides_of_a_name_compose_to_a_network_with_its_keys(name, compose, golden_files) -> None:
    """The words are what anybody would type: the configuration's default options do the rest."""
    cfg = compose("train", [*interop.overrides(name), "run_dir=."])
    known = {k.partition("_")[2]: v for g in golden_files("ffnet_registry_*") for k, v in g.sidecar["models"].items()}
    about = known[name.removeprefix("segmentation_").removeprefix("classification_")]
    with torch.device("meta"):
        model = network(cfg, about["num_classes"])
    assert signature(interop.theirs(model.state_dict())) == about["state_dict_sha256"]
