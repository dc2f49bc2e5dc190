"""Weights of a backbone: read from a file, fetched through timm's hub or from a package, matched by name and shape.

A file may hold the whole network in timm's names, a ``features_only`` network, or a segmentation network around either:
names are compared without leading ``module.``, ``task.``, ``model.``, ``backbone.``, ``_orig_mod.`` and without the
difference between ``layers.0`` and ``layers_0`` that ``features_only`` makes. What a file has in excess (its classifier
head, for one) is left out and said in the log; what the network has and the file does not is an error.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import timm
from torch import Tensor, nn

from seglab import weightfile
from seglab.backbones import packages
from seglab.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)

PREFIXES = ("module.", "task.", "model.", "backbone.", "_orig_mod.")
CONNECT_SECONDS = 10.0
SOURCES = ("hub", "package")


def pretrained(name: str, source: str | Literal[True]) -> tuple[Path, dict[str, Tensor]]:
    """The published weights of a timm network: the file that they are in, and its tensors.

    Args:
        source: ``hub``, ``package`` (:mod:`seglab.backbones.packages`), or True: the hub, and where it cannot be
            reached the package, if there is one.

    Raises:
        ConfigError: another source.
        CheckpointError: they cannot be had there; says what to install or to set.
    """
    if source not in (True, *SOURCES):
        raise ConfigError(f"backbone.pretrained={source} — expected true, false or one of {', '.join(SOURCES)}")
    if source != "package":
        try:
            path = fetch(name)
            return path, read(path, "delete it: the hub's cache is filled anew")
        except CheckpointError as error:
            if source == "hub" or packages.package_of(name) is None:
                raise
            unreachable = error
    try:
        path = packages.locate(name)
    except CheckpointError as error:
        raise error if source == "package" else CheckpointError(f"{error} ({unreachable})") from error
    return path, packages.renamed(read(path, packages.mend(name)), name, path)


def fill(model: nn.Module, state: dict[str, Tensor], path: str | Path, name: str, options: Mapping[str, Any]) -> None:
    """Load what a file holds into a ``features_only`` network.

    Args:
        state: :func:`read` of the file.
        path: of the file, to be named.

    Raises:
        CheckpointError: tensors missing or of another shape; lists them by module.
    """
    own = model.state_dict()
    found, missing = match(own, state)
    if missing:
        # Other names or another image size: timm knows how to translate both for the networks it has.
        found, missing = match(own, translate(state, name, options))
    if missing:
        raise CheckpointError(
            f"{path} does not fit backbone {name}: missing or of another shape are {by_module(missing)}; the file has "
            f"{by_module(state)} — set backbone.name to the file's network, or backbone.weights=null"
        )
    model.load_state_dict(found)
    taken = {canonical(key) for key in own}
    excess = [key for key in state if canonical(key) not in taken]
    log.info("%s: %d tensors loaded%s", path, len(found), f"; left out {by_module(excess)}" if excess else "")


def read(path: str | Path, mend: str = "backbone.weights") -> dict[str, Tensor]:
    """The tensors in a file by name; of a segmentation network, those of its backbone.

    Args:
        mend: what an error says last: the key that names the file, or how to get it anew.

    Raises:
        CheckpointError: no such file, or one that does not hold tensors. Nothing in it is executed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file — expected a .safetensors or .pth file: set backbone.weights")
    try:
        tensors = (
            weightfile.read_safetensors(path)
            if path.suffix == ".safetensors"
            else weightfile.state_of(weightfile.read(path))
        )
    except CheckpointError as error:
        raise CheckpointError(f"{error} ({mend})") from error
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors — expected a state dict ({mend})")
    inner = {key: value for key, value in tensors.items() if "backbone" in outer_names(key)}
    return {strip(key): value for key, value in (inner or tensors).items()}


def outer_names(key: str) -> list[str]:
    """The leading parts of a parameter's name that belong to what wraps a network, not to the network."""
    parts = key.split(".")
    wrapped = [f"{part}." in PREFIXES for part in parts]
    return parts[: wrapped.index(False) if False in wrapped else len(parts)]


def strip(key: str) -> str:
    """A parameter's name inside its network: ``module.backbone.model.layer1.0.bn1.bias`` -> ``layer1.0.bn1.bias``."""
    return ".".join(key.split(".")[len(outer_names(key)) :])


def canonical(key: str) -> str:
    """The form in which names are compared."""
    return strip(key).replace(".", "_")


def match(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a file under the network's own names, and the names for which there is none of that shape."""
    by_name = {canonical(key): value for key, value in state.items()}
    found: dict[str, Tensor] = {}
    missing = []
    for key, value in own.items():
        candidate = by_name.get(canonical(key))
        if candidate is not None and candidate.shape == value.shape:
            found[key] = candidate
        elif key.endswith("num_batches_tracked"):  # absent from old files, and only counts
            found[key] = value
        else:
            missing.append(key)
    return found, missing


def translate(state: dict[str, Tensor], name: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """A file's tensors in timm's names and for this image size, where timm has a translation for the network."""
    whole = timm.create_model(name, **{key: value for key, value in options.items() if key != "out_indices"})
    translation = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    if translation is None:
        return state
    try:
        return {key: value for key, value in translation(dict(state), whole).items() if isinstance(value, Tensor)}
    except (KeyError, AttributeError, RuntimeError, ValueError, IndexError, TypeError):
        return state  # a foreign file: the message about what is missing says more than this exception


def by_module(keys: Iterable[str]) -> str:
    """Names grouped by their first part: ``layer1 (12: layer1.0.conv1.weight, ...), fc (2: fc.weight, ...)``."""
    groups = defaultdict(list)
    for key in keys:
        groups[strip(key).split(".")[0]].append(strip(key))
    return ", ".join(f"{part} ({len(keys)}: {keys[0]}{', ...' if keys[1:] else ''})" for part, keys in groups.items())


def fetch(name: str) -> Path:
    """Path of timm's weights for a network: from the hub's cache on this machine, else downloaded.

    Raises:
        CheckpointError: timm has none for it, or they are not in the cache and the hub cannot be reached.
    """
    import huggingface_hub

    source = timm.get_pretrained_cfg(name)
    if source is None or not source.hf_hub_id:
        raise CheckpointError(
            f"timm has no weights for {name} on the hub — set backbone.weights=FILE or backbone.pretrained=false"
        )
    repository, _, revision = source.hf_hub_id.partition("@")
    names = [source.hf_hub_filename] if source.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    for file in names:
        cached = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    address = huggingface_hub.hf_hub_url(repository, names[0], revision=revision or None)
    if not reachable(address):
        raise CheckpointError(
            f"offline: the weights of {name} are not in this machine's cache and {address} cannot be reached — put the "
            "file here and set backbone.weights=FILE, or backbone.pretrained=false"
        )
    for file in names:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision or None))
        except huggingface_hub.errors.EntryNotFoundError:
            continue
        except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise CheckpointError(
                f"the weights of {name} could not be downloaded from {address} ({reason}) — put the file here and set "
                "backbone.weights=FILE, or backbone.pretrained=false"
            ) from error
    raise CheckpointError(
        f"{repository} has none of {', '.join(names)} — set backbone.weights=FILE or backbone.pretrained=false"
    )


def reachable(address: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Whether a server answers, decided within ``seconds``: the hub's own client tries for most of a minute."""
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false"):
        return False
    answers = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError:  # an answer, if not a kind one
            pass
        except OSError:
            return
        answers.append(True)

    # Looking a name up knows no time limit, so the question is asked aside and, if need be, left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(answers)
