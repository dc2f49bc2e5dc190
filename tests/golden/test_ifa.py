"""IFA against tensors of the published code: query and encodings, the MLP on the levels, the whole decoder, OHEM."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from seglab.decoders import IFA
from seglab.decoders.implicit import Fourier, Implicit, axis, frequencies, pick, whole_grid
from seglab.losses import CrossEntropy
from seglab.losses.base import Criterion
from seglab.types import IGNORE, Batch, Output
from tests.golden.conftest import Golden

ABOUT = ("source", "layout", "tolerance", "tensors", "sha256")
CPU = torch.device("cpu")


def understood(golden: Golden, *options: str) -> dict[str, Any]:
    """The sidecar's values of options, after what it says of its file and the shapes in it has been compared."""
    said = golden.understand(*ABOUT, *options)
    file = golden.path.with_suffix(".safetensors")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == said["sha256"]
    shapes = {key: about["shape"] for key, about in said["tensors"].items()}
    assert shapes == {key: list(value.shape) for key, value in golden.tensors.items()}
    return said


def only(case: dict[str, Any], *known: str) -> dict[str, Any]:
    """A case that says nothing else."""
    assert not (case.keys() - set(known)), f"a case says {sorted(case.keys() - set(known))}"
    return case


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def flat(x: Tensor) -> Tensor:
    """[B, h w, C] of [B, C, h, w]."""
    return x.flatten(2).transpose(1, 2)


def near(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    error = (actual.detach().reshape(expected.shape) - expected).abs().max().item()
    assert error <= tolerance, f"{what}: off by {error:.2e}, allowed {tolerance:.0e}"


KNOWN_CASE = ("channels", "feat_hw", "query_hw", "local", "stride", "batch", "unfold3x3", "has_ties")


@pytest.mark.golden("ifa_query_*")
def test_cells_offsets_and_encodings_are_those_of_the_published_code(golden):
    said = understood(golden, "cases", "encodings", "ties")
    checked = set()
    for i, case in enumerate(said["cases"]):
        only(case, *KNOWN_CASE)
        given = below(golden.tensors, f"case{i}.")
        checked |= {f"case{i}.{key}" for key in given}
        feature = given["feat"].requires_grad_()
        assert feature.shape == (case["batch"], case["channels"], *case["feat_hw"])
        x = feature
        if case["unfold3x3"]:
            x = F.unfold(x, 3, padding=1).unflatten(2, x.shape[-2:])
        local = "sum" if case["local"] else "none"
        query = Implicit(1, 1, (1,), local=local, shift_stride=case["stride"])
        points = whole_grid(tuple(case["query_hw"]), CPU)
        size = tuple(case["feat_hw"])
        if not case["local"]:
            rows, columns = points.along(size)
            found = [(rows, columns, None)]
        else:
            found = query.neighbours(points, size)
        areas = []
        for k, (rows, columns, _) in enumerate(found):
            end = f".{k}" if case["local"] else ""
            picked = flat(pick(x, rows.cell, columns.cell))
            delta = torch.stack(torch.broadcast_tensors(rows.delta, columns.delta), -1)
            areas.append((rows.delta * columns.delta).abs().flatten() + 1e-9)
            if case["has_ties"]:  # the pick is the original's rounding: the cell is one of the two nearest
                assert delta.abs().max() <= 1 + 1e-6
                continue
            assert torch.equal(picked, given[f"q_feat{end}"]), f"case {i}{end}"
            near(delta.flatten(0, 1).expand_as(given[f"rel_coord{end}"]), given[f"rel_coord{end}"], 1e-5, f"case {i}")
        for k, area in enumerate(areas if case["local"] else []):
            near(area.expand_as(given[f"area.{k}"]), given[f"area.{k}"], 1e-5, f"case {i}: area {k}")
            near(
                found[k][2].flatten(),
                (given[f"area.{3 - k}"] / sum(given[f"area.{n}"] for n in range(4)))[0],
                1e-4,
                f"case {i}: weight {k}",
            )
        if "grad_q_feat" in given and not case["has_ties"]:
            (picked * given["grad_q_feat"]).sum().backward()
            near(feature.grad, given["grad_feat"], 1e-5, f"case {i}: gradient")

    for i, about in enumerate(said["encodings"]):
        only(about, "pos_dim", "learnable", "note")
        given = below(golden.tensors, f"enc{i}.")
        checked |= {f"enc{i}.{key}" for key in given}
        encoding = Fourier(about["pos_dim"], about["learnable"])
        assert list(encoding.state_dict()) == (["emb"] if about["learnable"] else [])
        if about["learnable"]:
            encoding.load_state_dict({"emb": given["emb"]})
        near(encoding.emb, given["emb"], 1e-5, "frequencies")
        delta = given["coord"].requires_grad_()
        out = encoding(delta, delta)
        near(out, given["out"], 1e-5, f"encoding {i}")
        (out * given["grad_out"]).sum().backward()
        scale = given["grad_coord"].abs().max().item()
        near(delta.grad, given["grad_coord"], 1e-5 * scale, f"encoding {i}: gradient")
        if about["learnable"]:
            near(encoding.emb.grad, given["grad_emb"], 1e-5 * given["grad_emb"].abs().max().item(), "gradient of E")

    for key, value in golden.tensors.items():
        if match := re.fullmatch(r"emb_default\.(\d+)", key):
            near(frequencies(int(match[1])), value, 1e-5, key)
        elif match := re.fullmatch(r"make_coord\.(\d+)x(\d+)", key):  # centres: offsets from the one cell of an axis
            y, x = (axis(int(n), 1).delta for n in match.groups())
            grid = torch.stack(torch.broadcast_tensors(y[:, None], x[None]), -1)
            near(grid.flatten(0, 1), value, 1e-6, key)
        else:
            assert key in checked, f"{key} is not checked"


KNOWN_CORE = ("num_classes", "num_layer", "ultra_pe", "pos_dim", "require_grad", "local", "stride", "sync_bn",
              "level_sizes", "query_size", "batch")  # fmt: skip
DEPTHS = {2: (512, 256, 256), 1: (512, 256), 0: (128, 128)}


def encoding_of(config: dict[str, Any]) -> dict[str, Any]:
    """Our options of the published code's."""
    if not config["ultra_pe"]:
        assert config["pos_dim"] == 2, "without an encoding there are two numbers"
        return {"encoding": "none"}
    return {"encoding": "trained" if config["require_grad"] else "fixed", "pos_dim": config["pos_dim"]}


@pytest.mark.golden("ifa_core_*")
def test_query_and_mlp_have_the_published_logits_and_gradients_in_evaluation_and_training(golden):
    said = understood(golden, "context_rows", *KNOWN_CORE)
    tensors, config = golden.tensors, golden.config
    only(config, *KNOWN_CORE)
    assert not config["sync_bn"]
    sizes = config["level_sizes"]
    widths = DEPTHS[config["num_layer"]]
    last = 3 * len(widths)
    query = Implicit(
        len(sizes), 256, widths,
        local="released" if config["local"] else "none", shift_stride=config["stride"], **encoding_of(config),
    )  # fmt: skip
    state = below(tensors, "param.")
    weight, bias = (state.pop(f"imnet.{last}.{name}") for name in ("weight", "bias"))
    levels = [tensors[f"in.level{i + 1}"].clone().requires_grad_() for i in range(len(sizes))]
    assert [list(x.shape) for x in levels] == [[config["batch"], 256, *size] for size in sizes]
    points = whole_grid(tuple(config["query_size"]), CPU)
    used = {"grad_logits"} | {key for key in tensors if key.startswith(("param.", "in."))}

    for i, x in enumerate(levels):
        key = f"mid.context{i + 1}"
        step = {"every 7th query row: [:, ::7]": 7, "all queries": 1}[said["context_rows"][key]]
        query.load_state_dict(state)
        near(flat(query.context(i, x, points))[:, ::step], tensors[key], 1e-4, key)
        used.add(key)

    for mode in ("eval", "train"):
        query.load_state_dict(state)
        query.train(mode == "train").zero_grad()
        for x in levels:
            x.grad = None
        logits = F.conv2d(query(levels, points), weight[..., None], bias)
        near(logits, tensors[f"{mode}.logits"], 1e-4, f"{mode}: logits")
        (logits * tensors["grad_logits"]).sum().backward()
        used.add(f"{mode}.logits")
        gradients = {f"{mode}.grad.level{i + 1}": x.grad for i, x in enumerate(levels)}
        encodings = {f"{mode}.gradparam.{name}": p.grad for name, p in query.named_parameters() if "emb" in name}
        # Where the query is a level's own grid, the offsets and with them E's gradient are 0, theirs up to rounding.
        for found in (gradients, encodings):
            scale = max((tensors[key].abs().max().item() for key in found), default=0)
            for key, gradient in found.items():
                near(gradient, tensors[key], 1e-4 * scale, key)
        used |= gradients.keys() | encodings.keys()
    after = below(tensors, "train.after.")
    for name, value in after.items():
        near(query.state_dict()[name], value, 1e-4, f"after training: {name}")
    used |= {f"train.after.{name}" for name in after}
    assert used == tensors.keys(), f"not checked: {sorted(tensors.keys() ^ used)}"


KNOWN_FPN = ("num_classes", "pos_dim", "ultra_pe", "no_aspp", "require_grad", "num_layer", "sizes", "batch",
             "ohem_thresh", "ohem_min_kept")  # fmt: skip


@pytest.mark.golden("ifa_fpn_*")
def test_the_decoder_has_the_published_levels_logits_loss_and_gradients(golden, close):
    understood(golden, *KNOWN_FPN)
    tensors, config = golden.tensors, golden.config
    only(config, *KNOWN_FPN, "ignore_index", "note")
    maps = [tensors[f"in.c{i + 2}"].clone().requires_grad_() for i in range(4)]
    assert [list(x.shape[-2:]) for x in maps] == config["sizes"]
    decoder = IFA(
        [x.shape[1] for x in maps], (4, 8, 16, 32), config["num_classes"],
        depth=config["num_layer"], aspp=not config["no_aspp"], **encoding_of(config),
    )  # fmt: skip
    last = f"ifa.imnet.{3 * len(DEPTHS[config['num_layer']])}"
    state = below(tensors, "param.")
    weight, bias = (state.pop(f"{last}.{name}") for name in ("weight", "bias"))
    decoder.load_state_dict(state)
    decoder.eval()

    middle = dict(zip(("enc1", "enc2", "enc3", "head"), decoder.levels(maps), strict=True))
    for name, value in middle.items():
        theirs = tensors[f"mid.{name}"]
        near(value, theirs, 1e-4, name)
        # A ReLU's input of a few 1e-8 is 0 in one rounding and not in another, and with it a whole pixel's gradient.
        side = (value.detach() > 1e-6) | (theirs > 0)
        decoder.get_submodule(name).register_forward_hook(lambda _, __, out, side=side: out * side)
    logits = F.conv2d(decoder(maps).feature, weight[..., None], bias)
    near(logits, tensors["eval.logits"], 1e-4, "logits")

    assert config["ignore_index"] == IGNORE
    batch = Batch(image=logits, label=tensors["label"].long(), names=("",) * config["batch"])
    plain = CrossEntropy(align_corners=True)(Output(logits=logits), batch)
    hard = CrossEntropy(
        align_corners=True, ohem_threshold=config["ohem_thresh"], ohem_min_kept=config["ohem_min_kept"]
    )(Output(logits=logits), batch)
    near(plain, tensors["loss.ce"], 1e-5, "cross entropy")
    near(hard, tensors["loss.ohem"], 1e-5, "OHEM")
    hard.backward()
    for i, x in enumerate(maps):
        close(x.grad, tensors[f"eval.grad.c{i + 2}"], 1e-3, f"gradient of c{i + 2}")
    used = {f"mid.{name}" for name in middle} | {f"eval.grad.c{i + 2}" for i in range(4)}
    used |= {"eval.logits", "label", "loss.ce", "loss.ohem"}
    assert used == {key for key in tensors if not key.startswith(("param.", "in."))}


KNOWN_LOSS = ("batch", "classes", "h", "w", "thresh", "min_kept", "aux_weight", "ignore_fraction")


@pytest.mark.golden("ifa_ohem_*")
def test_ohem_is_that_of_the_published_code(golden):
    for i, case in enumerate(understood(golden, "cases")["cases"]):
        only(case, *KNOWN_LOSS)
        given = below(golden.tensors, f"case{i}.")
        assert given.keys() <= {"logits", "aux_logits", "label", "loss", "plain_ce", "kept", "grad_logits", "grad_aux"}
        assert given["logits"].shape == (case["batch"], case["classes"], case["h"], case["w"])
        label = given["label"].long()
        assert (label == IGNORE).float().mean().item() == pytest.approx(case["ignore_fraction"], abs=0.06)
        logits, aux = (given[name].clone().requires_grad_() for name in ("logits", "aux_logits"))
        # With min_kept 0 the published code selects nothing: that is cross entropy without OHEM.
        chosen = {"ohem_threshold": case["thresh"], "ohem_min_kept": case["min_kept"]} if case["min_kept"] else {}
        terms = {
            "main": CrossEntropy("logits", 1.0, **chosen),
            "aux": CrossEntropy("aux", case["aux_weight"], **chosen),
        }
        output = Output(logits=logits, extra={"aux": aux})
        batch = Batch(image=logits, label=label, names=("",) * case["batch"])
        near(CrossEntropy()(output, batch), given["plain_ce"], 1e-5, f"case {i}: cross entropy")
        found = Criterion(terms)(output, batch).total
        near(found, given["loss"], 1e-5, f"case {i}: loss")
        found.backward()
        near(logits.grad, given["grad_logits"], 1e-5, f"case {i}: gradient")
        assert (logits.grad != 0).any(1).sum() == given["kept"], "pixels that are kept"
        if "grad_aux" in given:
            near(aux.grad, given["grad_aux"], 1e-5, f"case {i}: gradient of the auxiliary logits")
