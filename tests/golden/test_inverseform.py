"""InverseForm's boundary maps, tiles, network, distances and losses against the published code's tensors."""

from __future__ import annotations

import zlib
from functools import partial

import numpy as np
import pytest
import torch

from seglab.losses import BoundaryAttention, BoundaryCrossEntropy, Criterion, CrossEntropy, InverseDistance
from seglab.losses.cross_entropy import histogram_factors
from seglab.losses.inverse import ACTIVATIONS, grid
from seglab.models.inverse_net import MLP, Convolutional, InverseNet, Transformations
from seglab.models.normalise import Normalise
from seglab.ops.boundaries import boundary_map, tiled
from seglab.ops.transformations import angle_of, euclidean, geodesic, nearest_rotation
from seglab.types import IGNORE, Batch, Output

KINDS = ("boundary", "distance", "fullnet", "geodesic", "joint")
SAID = ("source", "layout", "tolerance", "tensors", "sha256")
"""What every sidecar says of its tensors: prose, shapes and a checksum."""
NORMALISE = Normalise([0.0] * 3, [1.0] * 3)


class Opened:
    """A network as :class:`seglab.losses.Frozen` opens it."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.model = InverseNet(NORMALISE, net)


def understood(golden, *options):
    said = golden.understand(*SAID, *options)
    assert {name: list(tensor.shape) for name, tensor in golden.tensors.items()} == {
        name: about["shape"] for name, about in said["tensors"].items()
    }
    return said


def released(given, tile: int) -> MLP:
    net = MLP(tile)
    net.load_state_dict({key.removeprefix("param."): x for key, x in given.items() if key.startswith("param.")})
    return net


def batch_of(label) -> Batch:
    return Batch(image=torch.zeros(len(label), 3, 1, 1), label=label, names=("",) * len(label))


@pytest.mark.golden("inverseform_*")
def test_every_file_is_of_a_kind_that_is_checked(golden):
    assert golden.name.split("_")[1] in KINDS


ABSENT = {"single0.r3.edge.official", "ignore.r3.edge.official", "ignore.r3.edge.all_classes"}
"""Maps without any pixel of a class. The distance transform of an empty mask has no zero to measure from: from radius 3
on it marks pixels near the upper left corner. Here a class that is absent has no boundary."""


@pytest.mark.golden("inverseform_boundary_*")
def test_boundary_maps_are_those_of_the_distance_transforms(golden):
    said, given, checked = understood(golden, "cases", "degenerate"), golden.tensors, set()
    assert "constant 9x11 label of class 0 / class 1 / 255" in said["degenerate"]

    def check(key: str, label: torch.Tensor, radius: int, expected: torch.Tensor) -> None:
        found = boundary_map(label[None].long(), radius, first_class=int(key.endswith("official")))
        different = (found != expected.bool()).sum().item()
        assert different <= (2 if key in ABSENT else 0), key
        assert key not in ABSENT or not found.any()
        checked.add(key)

    for i, case in enumerate(said["cases"]):
        label, name = given[f"case{i}.label"], f"case{i}.edge"
        assert list(label.shape) == [case["h"], case["w"]]
        assert ((label == IGNORE).any().item(), label[label != IGNORE].max() < case["num_classes"]) == (
            case["ignore_block"],
            True,
        )
        for kind in ("official", "all_classes"):
            expected = given[f"{name}.{kind}"]
            assert int(expected.sum()) == case[f"{kind}_edge_pixels"]
            check(f"{name}.{kind}", label, case["radius"], expected)
        # The released one-hot has no channel for class 0.
        of_a_class = (label != IGNORE) & (label >= 1)
        assert torch.equal(given[f"case{i}.onehot.official_sum"].bool(), of_a_class)
        checked |= {f"case{i}.label", f"case{i}.onehot.official_sum"}
    for key in given.keys() - checked:
        name, radius, _, _ = key.split(".")
        constant = torch.full((9, 11), {"single0": 0, "single1": 1, "ignore": IGNORE}[name])
        check(key, constant, int(radius[1:]), given[key])
    assert checked == given.keys()


@pytest.mark.golden("inverseform_distance_*")
def test_tiles_estimates_distances_and_gradients_are_those_of_the_published_code(golden, close):
    said, given = (
        understood(
            golden, "variants", "tile", "tile_factor", "resized", "tiles_per_image", "batch", "input_hw", "hidden",
            "outputs"
        ),
        golden.tensors,
    )  # fmt: skip
    logits, true = given["edge_logits"], given["edge_target"]
    assert list(logits.shape) == [said["batch"], 1, *said["input_hw"]]
    rows, columns = said["tile_factor"], 2 * said["tile_factor"]
    assert [rows * said["tile"], columns * said["tile"]] == said["resized"]
    assert rows * columns == said["tiles_per_image"]
    assert grid((512, 1024), 224, said["tile_factor"]) == (rows, columns), "of images of the published shape"
    net = released(given, said["tile"])
    assert [layer.out_features for layer in net.fc[::2]] == [*said["hidden"], said["outputs"]]
    checked = {"edge_logits", "edge_target", *(key for key in given if key.startswith("param."))}

    def check(key: str, found: torch.Tensor, tolerance: float) -> None:
        close(found, given[key], tolerance, key)
        checked.add(key)

    tiles_of = partial(tiled, rows=rows, columns=columns, side=said["tile"])
    check("tiles.target", tiles_of(true.float()), 1e-6)
    model = Opened(net).model
    names = {"official": "official_log_softmax"}
    for activation, function in ACTIVATIONS.items():
        name = names.get(activation, activation)
        variable = logits.clone().requires_grad_()
        tiles = tiles_of(function(variable))
        if f"{name}.tiles.input" in given:
            check(f"{name}.tiles.input", tiles, 1e-6)
        estimate = model(torch.cat([tiles, tiles_of(true.float())], 1))
        check(f"{name}.coeffs", estimate.logits, 1e-4)
        loss = euclidean(estimate.logits).mean()
        check(f"{name}.loss", loss, 1e-5)
        (gradient,) = torch.autograd.grad(loss, variable)
        assert gradient.any() == (activation != "official")
        check(f"{name}.grad.edge_logits", gradient, 1e-4)
    assert checked == given.keys()


def joint_terms(activation: str, net: MLP, tiles: list[int], true: torch.Tensor) -> dict:
    """The published joint loss; its boundary maps are given and not made of the labels."""

    class Given:
        """Instead of what a term makes of the labels."""

        def true(self, label: torch.Tensor) -> torch.Tensor:
            return true.bool()

    entropy, distance = (
        type("Given" + kind.__name__, (Given, kind), {}) for kind in (BoundaryCrossEntropy, InverseDistance)
    )
    return {
        "seg": CrossEntropy(class_weight="histogram", average="image"),
        "bce": entropy(weight=0.3),
        "att": BoundaryAttention(weight=0.1),
        "inv": distance(lambda: Opened(net), weight=0.3, activation=activation, tiles=tiles),
    }


@pytest.mark.golden("inverseform_joint_*")
@pytest.mark.parametrize("activation", ["official", "sigmoid"])
def test_every_loss_their_sum_and_its_gradients_are_those_of_the_published_code(golden, close, activation):
    said, given = (
        understood(golden, "tile", "tile_factor", "batch", "num_classes", "weights",
                   "attention_threshold_on_raw_edge_logit"),
        golden.tensors,
    )  # fmt: skip
    name = {"official": "official_log_softmax"}.get(activation, activation)
    label, true = given["label"].long(), given["edge_target"]
    logits = given["seg_logits"].clone().requires_grad_()
    boundary = given["edge_logits"].clone().requires_grad_()
    assert list(logits.shape) == [said["batch"], said["num_classes"], *label.shape[1:]]
    close(histogram_factors(label, said["num_classes"]), given["class_weights"], 1e-6, "class_weights")
    terms = joint_terms(activation, released(given, said["tile"]), [said["tile_factor"], 2 * said["tile_factor"]], true)
    assert {term: terms[term].weight for term in terms} == dict(
        zip(("seg", "bce", "att", "inv"), (said["weights"][key] for key in ("seg", "edge", "att", "inv")), strict=True)
    )
    assert terms["att"].threshold == said["attention_threshold_on_raw_edge_logit"]
    output = Output(logits=logits, extra={"boundary": boundary})
    found = Criterion(terms)(output, batch_of(label))
    for term, value in found.parts.items():
        close(value, given[f"{name}.loss.{term}"], 1e-5, term)
    close(found.total, given[f"{name}.loss.total"], 1e-5, "total")
    of_logits, of_boundary = torch.autograd.grad(found.total, (logits, boundary), retain_graph=True)
    close(of_logits, given[f"{name}.grad.seg_logits"], 1e-5, "gradient of the logits")
    close(of_boundary, given[f"{name}.grad.edge_logits"], 1e-5, "gradient of the boundary logits")
    (alone,) = torch.autograd.grad(terms["bce"](output, batch_of(label)), boundary)
    close(alone, given["grad_bce_only.edge_logits"], 1e-5, "gradient of the cross entropy")


@pytest.mark.golden("inverseform_joint_*")
def test_where_no_pixel_is_sure_the_published_attention_is_nan_and_ours_is_0(golden):
    given = golden.tensors
    assert given["att_none_selected.loss"].isnan().all()
    unsure = Output(
        logits=given["seg_logits"].clone().requires_grad_(), extra={"boundary": -given["edge_logits"].abs()}
    )
    loss = BoundaryAttention()(unsure, batch_of(given["label"].long()))
    loss.backward()
    assert loss.item() == 0
    assert not unsure.logits.grad.any()


@pytest.mark.golden("inverseform_geodesic_*")
def test_the_geodesic_distance_is_the_formulas(golden, close):
    understood(golden)
    given = golden.tensors
    estimate, true = given["theta_hat"], given["theta"]
    rotation = nearest_rotation(torch.linalg.solve(true, estimate))
    close(rotation, given["projection"], 1e-9, "projection")
    close(angle_of(rotation), given["angle"], 1e-9, "angle")
    close(geodesic(estimate, true), given["geodesic"], 1e-9, "geodesic")
    close(euclidean((estimate - true).flatten(1)), given["euclidean"], 1e-9, "euclidean")


@pytest.mark.golden("inverseform_fullnet_*")
def test_the_released_network_has_the_published_size_and_estimates(golden, close):
    said, given = understood(golden, "recipe", "params", "small_variant_params", "base_seed"), golden.tensors
    assert "weights (2u-1)*sqrt(6/fan_in), biases (u-0.5)*0.1" in said["recipe"]
    with torch.device("meta"):
        assert sum(p.numel() for p in MLP().parameters()) == said["params"]
        small = MLP(112, transformations=Transformations(4))
        small.fc[-1] = torch.nn.Linear(32, 2)  # the unused one estimates two numbers
        assert sum(p.numel() for p in small.parameters()) == said["small_variant_params"]
        assert sum(p.numel() for p in Convolutional().parameters()) * 4 < 2e6, "ours, in bytes"
        net = MLP()
    state = {}
    for name, parameter in net.named_parameters():
        key = f"fc.{name.split('.')[1]}.{name.split('.')[2]}"
        draw = np.random.RandomState((said["base_seed"] + zlib.crc32(key.encode())) % 2**32)
        scale = np.sqrt(6 / parameter.shape[1]) if parameter.ndim == 2 else 0.05  # of numbers from -1 to 1
        rows = [2 * draw.random_sample(parameter[0].numel()) - 1 for _ in range(len(parameter))]  # one stream
        state[name] = torch.stack([torch.from_numpy((u * scale).astype(np.float32)) for u in rows]).view_as(parameter)
    net.load_state_dict(state, assign=True)
    tiles = torch.cat([given["input_tiles"], given["target_tiles"]], 1).float()
    hidden = tiles.flatten(1)
    with torch.no_grad():
        for key, layers in {"hidden1": net.fc[:2], "hidden2": net.fc[2:4], "coeffs": net.fc[4:]}.items():
            hidden = layers(hidden)
            close(hidden, given[key], 1e-3, key)
        close(InverseNet(NORMALISE, net)(tiles).logits, given["coeffs"], 1e-3, "coeffs")
    close(euclidean(hidden).mean(), given["loss"], 1e-3, "loss")
