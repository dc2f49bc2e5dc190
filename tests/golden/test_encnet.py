"""EncNet's encoding layer against the authors' routines, and its head against mmsegmentation's."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from seglab.classifiers import Linear
from seglab.decoders import EncNet
from seglab.decoders.encnet import Context
from seglab.heads import FCNHead
from seglab.ops.encoding import Encoding, assign
from seglab.types import Output

EXACT = 1e-9
NOT_A_TARGET = {"grad_codewords_official_cpu"}
"""What the CPU routine of the published code returns: its gradient has a wrong sign."""
GIVEN = {"x", "codewords", "scale", "grad_encoded", "bn_weight", "bn_bias", "bn_running_mean", "bn_running_var"}


@pytest.mark.golden("encnet_*")
def test_every_file_is_of_a_kind_that_is_checked(golden):
    assert golden.name.startswith("encnet_layer_")


@pytest.mark.golden("encnet_layer_*")
def test_values_and_gradients_of_the_layer_are_those_of_the_published_code(golden, close):
    said = golden.understand(
        "shape", "dtype", "meaning", "official_cpu_minus_autograd_max_abs", "max_assign", "mean_entropy"
    )
    given, shape = golden.tensors, said["shape"]
    assert said["dtype"] == "float64"
    assert {tensor.dtype for tensor in given.values()} == {torch.float64}
    assert list(given["x"].shape) == [shape["B"], shape["D"], shape["H"], shape["W"]]
    assert list(given["codewords"].shape) == [shape["K"], shape["D"]]
    assert given["assign"].max().item() == pytest.approx(said["max_assign"], rel=EXACT)
    entropy = -(given["assign"] * given["assign"].log()).sum(-1).mean().item()
    assert entropy == pytest.approx(said["mean_entropy"], rel=EXACT)
    checked = set()

    def check(key: str, actual: torch.Tensor) -> None:
        close(actual, given[key], EXACT, key)
        checked.add(key)

    x = given["x"].clone().requires_grad_()
    layer = Encoding(shape["D"], shape["K"]).double()
    layer.load_state_dict({"codewords": given["codewords"], "smoothing": given["scale"]})
    weights = assign(x.flatten(2), layer.codewords, layer.smoothing).transpose(1, 2)
    check("assign", weights)
    # The distances are never published: what the softmax sees is their logarithm up to a constant for each pixel.
    scaled, found = given["scaled_l2"], weights.log()
    close(found - found.mean(-1, keepdim=True), scaled - scaled.mean(-1, keepdim=True), EXACT, "scaled_l2")
    checked.add("scaled_l2")

    encoded = layer(x)
    check("encoded", encoded)
    encoded.backward(given["grad_encoded"])
    check("grad_x", x.grad)
    check("grad_codewords", layer.codewords.grad)
    check("grad_scale", layer.smoothing.grad)

    context = Context(shape["D"], shape["K"], "mean").double()
    context.encoding.load_state_dict(layer.state_dict())
    names = {
        "weight": "bn_weight",
        "bias": "bn_bias",
        "running_mean": "bn_running_mean",
        "running_var": "bn_running_var",
    }
    context.norm.load_state_dict({ours: given[theirs] for ours, theirs in names.items()}, strict=False)
    check("context_eval", context.eval()(given["x"]))
    check("context_train", context.train()(given["x"]))
    check("bn_running_mean_after", context.norm.running_mean)
    check("bn_running_var_after", context.norm.running_var)
    assert checked | GIVEN | NOT_A_TARGET >= given.keys()
    assert said["meaning"].keys() <= given.keys()


NAMES = {
    "bottleneck.conv": "conv.0",
    "bottleneck.bn": "conv.1",
    "enc_module.encoding_project.conv": "project.0",
    "enc_module.encoding_project.bn": "project.1",
    "enc_module.encoding.0.codewords": "context.encoding.codewords",
    "enc_module.encoding.0.scale": "context.encoding.smoothing",
    "enc_module.encoding.1": "context.norm",
    "enc_module.fc.0": "attention",
    "se_layer": "presence",
}
HEAD = {"convs.0.conv": "decoder.convs.0.0", "convs.0.bn": "decoder.convs.0.1", "conv_seg": "classifier"}
UNDERSTOOD = {
    "type": "EncHead", "dropout_ratio": 0.1, "norm_cfg": {"type": "BN", "requires_grad": True}, "align_corners": False,
    "use_se_loss": True, "in_index": [1, 2, 3],
}  # fmt: skip


def renamed(state: dict[str, torch.Tensor], prefix: str, names: dict[str, str]) -> dict[str, torch.Tensor]:
    found = {}
    for key, value in state.items():
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            theirs = next(name for name in names if f"{key}.".startswith(f"{name}."))
            found[names[theirs] + key[len(theirs) :]] = value
    return found


@pytest.mark.golden("mmseg/encnet_*")
def test_decoder_classifier_and_auxiliary_head_are_those_of_mmsegmentation(golden, close):
    given = load_file(golden.path.with_suffix(".io.safetensors"))
    state = load_file(golden.path.with_suffix(".ckpt.safetensors"))
    said = dict(golden.sidecar["mmseg_config"]["decode_head"])
    maps = [given[f"feats.{i}"] for i in range(4)]
    channels = [x.shape[1] for x in maps]
    assert said.pop("in_channels") == channels[1:]
    K = said.pop("num_classes")
    decoder = EncNet(
        channels,
        (4, 8, 8, 8),
        K,
        width=said.pop("channels"),
        codewords=said.pop("num_codes"),
        laterals=said.pop("add_lateral"),
    )
    assert said == UNDERSTOOD, "an option of the reference that this test does not understand"
    classifier = Linear(decoder.out_channels, K)
    decoder.load_state_dict(renamed({k: v for k, v in state.items() if "conv_seg" not in k}, "decode_head.", NAMES))
    classifier.load_state_dict(
        renamed({k: v for k, v in state.items() if "conv_seg" in k}, "decode_head.", {"conv_seg": "conv"})
    )
    with torch.no_grad():
        decoded = decoder.eval()(maps, frozenset({"presence"}))
        logits = classifier.eval()(decoded.feature).logits
    for key, value in {"logits": logits, "se_logits": decoded.extra["presence"]}.items():
        close(value, given[key], 1e-5, key)

    of_aux = golden.sidecar["mmseg_config"]["auxiliary_head"]
    features = {f"backbone.{i}": x for i, x in enumerate(maps)}
    sizes = dict(zip(features, channels, strict=True)), dict(zip(features, (4, 8, 8, 8), strict=True))
    head: nn.Module = FCNHead(*sizes, {"aux": K}, stage=of_aux["in_index"], width=of_aux["channels"])
    head.load_state_dict(renamed(state, "auxiliary_head.", HEAD))
    with torch.no_grad():
        close(head.eval()(features, Output(logits=logits)), given["aux_logits"], 1e-5, "aux_logits")
