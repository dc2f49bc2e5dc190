"""``hs3_plan.json``: which clusters of classes each layer learns, and the curves that they were chosen from.

::

    {format, seglab, dataset, classes: names, reference: m_L(K), tan_theta, none_fits, final: {curve},
     layers: [{name, k, clusters, tan_theta, curve, merges}], probe: {checkpoint, step, split, images, …}}

``curve`` holds m(k) for k = 2 … K, ``merges`` the nested clusters (:mod:`seglab.hierarchy.clusters`). Training reads
``classes`` and each layer's ``name`` and ``clusters`` alone, so that a plan may be written by hand; with the curves and
merges another angle can be chosen from the same file. A layer without clusters (``k`` 0) is not supervised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seglab import checks
from seglab.errors import ConfigError
from seglab.hierarchy import clusters as hierarchy
from seglab.hierarchy.clusters import Clusters
from seglab.runs import atomic

FILE = "hs3_plan.json"
FORMAT = 1
KEY = "regularizer.plan"
"""The key that chooses the file."""
MAKE = "python -m seglab.hs3 run=PROBE_RUN"
NONE_FITS = ("coarsest", "drop")
"""What becomes of a layer that reaches the target with no number of clusters: two clusters, or no supervision."""
CHOICES = ("plan", "random")
OPTIONS: dict[str, Any] = {
    "plan": str | None, "layers": list[str] | None, "tan_theta": float | Mapping[str, float] | None,
    "none_fits": str | None, "clusters": str,
}  # fmt: skip
"""The keys of the node ``regularizer``."""

Angles = float | Mapping[str, float]
"""tan(theta), of all layers or by the layer's name."""


@dataclass(frozen=True)
class Layer:
    """A supervised layer, as a plan has it."""

    name: str
    clusters: Clusters
    """Each class in one of them; empty: the layer is not supervised."""
    tan_theta: float | None = None
    curve: tuple[float, ...] | None = None
    merges: tuple[tuple[int, int], ...] | None = None

    def record(self) -> dict[str, Any]:
        """As plain data."""
        about = {"name": self.name, "k": len(self.clusters), "tan_theta": self.tan_theta, "clusters": self.clusters}
        curves = {"curve": list(self.curve)} if self.curve is not None else {}
        merges = {"merges": [list(pair) for pair in self.merges]} if self.merges is not None else {}
        return {**about, **curves, **merges}


@dataclass(frozen=True)
class Plan:
    """What ``hs3_plan.json`` says."""

    classes: tuple[str, ...]
    layers: tuple[Layer, ...]
    reference: float | None = None
    """m_L(K): mIoU of the last layer on all classes."""
    final: tuple[float, ...] | None = None
    """The last layer's curve."""
    none_fits: str = "coarsest"
    about: Mapping[str, Any] | None = None
    """Where the curves come from."""

    def record(self) -> dict[str, Any]:
        """As plain data, without the program's version."""
        return {
            "format": FORMAT,
            "classes": list(self.classes),
            "reference": self.reference,
            "none_fits": self.none_fits,
            "final": None if self.final is None else {"curve": list(self.final)},
            "layers": [layer.record() for layer in self.layers],
            "probe": dict(self.about or {}),
        }

    def layer(self, name: str, where: str) -> Layer:
        """A layer by its name.

        Raises:
            ConfigError: there is none.
        """
        names = {layer.name: layer for layer in self.layers}
        if name not in names:
            raise ConfigError(
                f"{where}: the layer {name} is not in the plan, which has {', '.join(names) or 'none'} — expected one "
                f"of these, or a plan from a probe with that layer ({MAKE})"
            )
        return names[name]


def angle_of(name: str, angles: Angles | None, known: Sequence[str], key: str) -> float | None:
    """tan(theta) of a layer; None where nothing is said of it.

    Raises:
        ConfigError: an angle of a layer that is not there, or no finite number.
    """
    if isinstance(angles, Mapping):
        if unknown := [each for each in angles if each not in known]:
            raise ConfigError(f"{key} names the layer {unknown[0]} — expected some of {', '.join(known)}")
        angle = angles.get(name)
    else:
        angle = angles
    return None if angle is None else checks.within(key, float(angle), -1e6, 1e6)


def chosen(
    curve: Sequence[float], merges: Sequence[tuple[int, int]], reference: float, angle: float, none_fits: str
) -> Clusters:
    """The clusters that an angle gives a layer; none where it is left out."""
    classes = len(curve) + 1
    k = hierarchy.select(curve, reference, angle)
    if k is None:
        return [] if none_fits == "drop" else hierarchy.clusters_after(merges, classes, 2)
    return hierarchy.clusters_after(merges, classes, k)


def read(path: str | Path) -> Plan:
    """A plan from a file, or from a folder that holds ``hs3_plan.json``.

    Raises:
        ConfigError: no such file, no plan, or clusters that do not hold every class once.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    mend = f"set {KEY}=FILE, as {MAKE} writes it"
    try:
        stored = json.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"{KEY}={path}: {file} cannot be read ({error.strerror}) — {mend}") from error
    except ValueError as error:
        raise ConfigError(f"{KEY}={path}: {file} is no JSON ({error}) — {mend}") from error
    try:
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']}, this seglab reads {FORMAT}")
        return parsed(stored)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{KEY}={path}: {file} is no plan ({reason(error)}) — {mend}") from error


def reason(error: Exception) -> str:
    """What is wrong with a file's content."""
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def parsed(stored: Mapping[str, Any]) -> Plan:
    """A plan from plain data.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is none.
    """
    names = tuple(map(str, stored["classes"]))
    if len(names) < 2:
        raise ValueError(f"{len(names)} classes; two or more can be told apart")
    layers = []
    for each in stored["layers"]:
        made = [[int(k) for k in cluster] for cluster in each["clusters"]]
        check_clusters(str(each["name"]), made, len(names))
        numbers, merges = each.get("curve"), each.get("merges")
        curve = None if numbers is None else tuple(map(float, numbers))
        pairs = None if merges is None else tuple((int(a), int(b)) for a, b in merges)
        if curve is not None and len(curve) != len(names) - 1:
            raise ValueError(f"{each['name']}: a curve of {len(curve)} values; {len(names) - 1} are 2 to K clusters")
        if pairs is not None:
            hierarchy.clusters_after(pairs, len(names), 2)
        angle = each.get("tan_theta")
        layers.append(Layer(str(each["name"]), made, None if angle is None else float(angle), curve, pairs))
    if len({layer.name for layer in layers}) != len(layers):
        raise ValueError("a layer is there twice")
    reference, final = stored.get("reference"), stored.get("final")
    return Plan(
        names,
        tuple(layers),
        None if reference is None else float(reference),
        None if final is None else tuple(map(float, final["curve"])),
        str(stored.get("none_fits", "coarsest")),
        dict(stored.get("probe") or {}),
    )


def check_clusters(name: str, clusters: Clusters, classes: int) -> None:
    """Raises ValueError: they do not hold each of K classes once, or there is only one of them."""
    members = sorted(k for cluster in clusters for k in cluster)
    if clusters and (members != list(range(classes)) or not all(clusters)):
        raise ValueError(f"{name}: the clusters hold the classes {members}; expected each of 0 to {classes - 1} once")
    if len(clusters) == 1:
        raise ValueError(f"{name}: one cluster of all classes, which asks for nothing; expected two or more, or none")


def write(plan: Plan, path: Path, version: str) -> None:
    """Write a plan as JSON, whole or not at all."""
    atomic.write_json(path, atomic.jsonable({**plan.record(), "seglab": version}))


def tasks(node: Mapping[str, Any], layers: Sequence[str] | None, last_whole: bool, seed: int) -> list[dict[str, Any]]:
    """What each supervised layer learns: ``[{layer, clusters}]``; clusters null: all classes, each by itself.

    It is what ``${layer_tasks:…}`` in a configuration stands for, so that a checkpoint holds it and needs no plan.

    Args:
        node: ``regularizer``: ``plan`` (a file; null: every layer learns all classes), ``tan_theta`` (null: the plan's
            own choice; else a choice from its curves), ``none_fits`` (null: as the plan says) and ``clusters``.
        layers: names of the layers; None: those of the plan.
        last_whole: the last of them learns all classes, whatever the plan says.
        seed: of random clusters.

    Raises:
        ConfigError: an option out of range, a plan that cannot be read, has no such layer, or no curves for an angle.
    """
    for name, value in node.items():
        if name not in OPTIONS:
            raise ConfigError(f"nothing reads the key regularizer.{name} — expected one of {', '.join(OPTIONS)}")
        checks.kind(f"regularizer.{name}", value, OPTIONS[name])
    if layers is not None and len(set(layers)) != len(layers):
        raise ConfigError(f"the layers {', '.join(layers)} — expected each of them once: set regularizer.layers")
    which = checks.one_of("regularizer.clusters", node.get("clusters", "plan"), CHOICES)
    if (none_fits := node.get("none_fits")) is not None:
        checks.one_of("regularizer.none_fits", none_fits, NONE_FITS)
    angles = node.get("tan_theta")
    path = node.get("plan")
    if path is None:
        if angles is not None or which != "plan":
            key = "tan_theta" if angles is not None else "clusters"
            raise ConfigError(f"regularizer.{key} chooses from a plan, and there is none — set {KEY}=FILE ({MAKE})")
        if layers is None:
            raise ConfigError(
                f"neither a plan nor layers — set {KEY}=FILE ({MAKE}), or regularizer.layers=[backbone.2,…]"
            )
        return [{"layer": name, "clusters": None} for name in layers]
    plan = read(path)
    known = [layer.name for layer in plan.layers]
    found: list[dict[str, Any]] = []
    names = known if layers is None else list(layers)
    for number, name in enumerate(names):
        if last_whole and number == len(names) - 1:
            found.append({"layer": name, "clusters": None})
            continue
        layer = plan.layer(name, f"{KEY}={path}")
        made = again(plan, layer, angle_of(name, angles, known, "regularizer.tan_theta"), none_fits)
        if which == "random":
            made = hierarchy.shuffled(made, (seed, number)) if made else made
        if made:
            found.append({"layer": name, "clusters": made})
    return found


def again(plan: Plan, layer: Layer, angle: float | None, none_fits: str | None) -> Clusters:
    """A layer's clusters: those of the plan, or what another angle or rule chooses from its curve.

    Raises:
        ConfigError: the plan has no curve.
    """
    if angle is None and none_fits is None:
        return layer.clusters
    angle = layer.tan_theta if angle is None else angle
    if layer.curve is None or layer.merges is None or plan.reference is None or angle is None:
        key = "none_fits" if angle is None else "tan_theta"
        raise ConfigError(
            f"regularizer.{key} chooses from curves, and the plan has none of the layer {layer.name} — set "
            f"regularizer.{key}=null for the clusters as they are, or make the plan with {MAKE}"
        )
    return chosen(layer.curve, layer.merges, plan.reference, angle, none_fits or plan.none_fits)
