"""Predict: ``python -m seglab.predict ckpt=… source=FILE|FOLDER output=FOLDER``. Needs the checkpoint alone.

Below the output, each with the source's tree: ``index/`` (PNG of class ids), ``colour/`` (PNG in the palette) and
``overlay/`` (JPEG of the image under its classes, with a legend). ``report.json`` names what could not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab import cli
from seglab import options as known
from seglab.checks import one_of
from seglab.errors import ConfigError, DataError, UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from seglab.data.spec import DatasetSpec

KINDS = {"index": ".png", "colour": ".png", "overlay": ".jpg"}


class PartialPrediction(UserError):
    """Some images could not be read; the others are predicted."""

    exit_code = 3


@dataclass(frozen=True)
class Task:
    """One image and where its prediction goes."""

    image: Path
    name: str
    """Path below each kind's folder, without suffix."""

    def target(self, output: Path, kind: str) -> Path:
        """The file of a kind."""
        return output / kind / f"{self.name}{KINDS[kind]}"


def predict(cfg: DictConfig) -> None:
    """One prediction as Hydra composed it."""
    predict_images(cli.plain(cfg))


def predict_images(options: Mapping[str, Any]) -> None:
    """Predict every image of the source.

    Args:
        options: the resolved ``conf/predict.yaml`` as plain containers.

    Raises:
        ConfigError: an option out of range; raw ids that the data set does not have.
        DataError: no source, no image in it, or none that can be read.
        PartialPrediction: some images could not be read.
    """
    known.check(options, known.PREDICT)
    check_options(options)
    output = Path(options["output"])
    tasks = find_images(Path(options["source"]), skip=output)

    from rich.console import Console

    from seglab import atomic
    from seglab.data.io import MAX_PIXELS, read_image

    console = Console(soft_wrap=True)
    todo = [
        t for t in tasks if options["overwrite"] or not all(t.target(output, k).is_file() for k in options["write"])
    ]
    if len(todo) < len(tasks):
        console.print(
            f"{len(tasks) - len(todo)} of {len(tasks)} images are predicted already (overwrite=true redoes them)"
        )
    failed: dict[str, str] = {}
    if todo:
        how = (options["device"], options["protocol"], options["evaluation"], options["trust"])
        network = Network(options["ckpt"], *how, options["allow_nonfinite"])
        raw = raw_ids(network.config, network.spec) if options["labels_out"] == "raw" else None
        for task in track(todo, console):
            try:
                image = read_image(str(task.image), options["max_pixels"] or MAX_PIXELS)
            except DataError as error:
                failed[str(task.image)] = str(error)
                continue
            write(task, image, network(image), network.spec, output, options["write"], raw)
    atomic.write_json(
        output / "report.json", {"images": len(tasks), "done": len(tasks) - len(failed), "failed": failed}
    )
    console.print(f"{len(tasks) - len(failed)} of {len(tasks)} images are predicted below {output}")
    if failed:
        listed = "\n".join(f"  {reason}" for reason in failed.values())
        if len(failed) == len(tasks):
            raise DataError(f"no image could be read:\n{listed}")
        raise PartialPrediction(
            f"{len(failed)} of {len(tasks)} images could not be read and were left out — {output / 'report.json'} "
            f"names them; the same command predicts them once they are restored:\n{listed}"
        )


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what cannot be meant, before anything is read."""
    kinds = options["write"]
    if not isinstance(kinds, list) or not kinds or not set(kinds) <= KINDS.keys():
        raise ConfigError(f"write={kinds} — expected one or more of {', '.join(KINDS)}, e.g. write=[index,overlay]")
    one_of("labels_out", options["labels_out"], ("train", "raw"))
    one_of("protocol", options["protocol"], ("stored", "plain"))


def find_images(source: Path, skip: Path) -> list[Task]:
    """The source's images, sorted; predictions below ``skip`` (the output) are none of them.

    Raises:
        DataError: no such file or folder, or no image in it.
    """
    from seglab.data.io import IMAGE_SUFFIXES
    from seglab.data.listing import scan

    if source.is_file():
        return [Task(source, source.stem)]
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder — expected an image or a folder of images; check source=")
    found = scan(str(source), "", IMAGE_SUFFIXES)
    tasks = []
    for key, paths in sorted(found.items()):
        for path in sorted(paths):
            # Images that differ in their suffix alone keep it.
            tasks.append(Task(source / path, key if len(paths) == 1 else path))
    written = [skip.resolve() / kind for kind in KINDS]
    tasks = [task for task in tasks if not any(task.image.resolve().is_relative_to(folder) for folder in written)]
    if not tasks:
        raise DataError(
            f"{source}: no image in it — expected files ending in {', '.join(IMAGE_SUFFIXES)}; check source="
        )
    return tasks


class Network:
    """Image [H, W, 3] uint8 -> class ids [H, W] uint8 of its own size, as the protocol says."""

    def __init__(
        self,
        ckpt: str,
        device: str,
        protocol: str,
        changes: Mapping[str, Any],
        trusted: bool = False,
        allow_nonfinite: bool = False,
    ) -> None:
        from seglab import build, trust
        from seglab.inference import Protocol

        self.device = choose_device(device)
        self.model = build.load(ckpt, self.device, trusted, allow_nonfinite)
        assert self.model.spec is not None
        assert self.model.description is not None  # of a loaded network
        self.spec = self.model.spec
        self.config: Mapping[str, Any] = self.model.description.config
        self.protocol = Protocol.of(self.config["evaluation"] if protocol == "stored" else {}, changes)
        node = {**self.config["augment"], "extra": []}  # used in training only, and of any package
        trust.check({"augment": node}, ("augment",), str(self.model.description.path))
        with build.of_file(self.model.description):
            augment = build.instantiate(node, "augment")
        self.normalise: Callable[[np.ndarray], torch.Tensor] = augment.normalise

    def __call__(self, image: np.ndarray) -> np.ndarray:
        import numpy as np
        import torch

        from seglab.inference import infer
        from seglab.ops.resize import resize_argmax

        size = (image.shape[0], image.shape[1])
        with torch.inference_mode():
            shown = self.normalise(image)[None].to(self.device)
            scores = infer(lambda view: self.model(view).logits, shown, self.protocol, size)
            return resize_argmax(scores, size)[0].cpu().numpy().astype(np.uint8)


def choose_device(name: str) -> torch.device:
    """The named device, or with ``auto`` the fastest; ConfigError where it is not there."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in there.items() if usable)
    if not there.get(name.split(":")[0], False):
        usable = ", ".join(kind for kind, usable in there.items() if usable)
        raise ConfigError(f"device={name} — expected auto or one that is here: {usable}")
    return torch.device(name)


def raw_ids(config: Mapping[str, Any], spec: DatasetSpec) -> np.ndarray:
    """[K] id in the data set's files of each class (Cityscapes' server wants these).

    Raises:
        ConfigError: the data set stores train ids, or several of its ids are one class.
    """
    import numpy as np

    from seglab import build, trust
    from seglab.types import IGNORE

    dataset = config["data"]["dataset"]
    if "label_map" in dataset:
        label_map = dataset["label_map"]
    else:  # the data set's own; its files are not needed
        partial = {**dataset, "_partial_": True}
        trust.check({"data": partial}, ("data",), "the checkpoint")
        label_map = build.instantiate(partial, "data.dataset", root=None).spec.label_map
    back: dict[int, list[int]] = {}
    for raw, train in (label_map or {}).items():
        back.setdefault(int(train), []).append(int(raw))
    back.pop(IGNORE, None)
    if sorted(back) != list(range(spec.num_classes)) or any(len(ids) > 1 for ids in back.values()):
        raise ConfigError(
            f"labels_out=raw: {spec.name} has no label map that can be turned around — expected one stored id per "
            "class; use labels_out=train"
        )
    return np.array([back[k][0] for k in range(spec.num_classes)])


def write(
    task: Task,
    image: np.ndarray,
    ids: np.ndarray,
    spec: DatasetSpec,
    output: Path,
    kinds: Sequence[str],
    raw: np.ndarray | None,
) -> None:
    """Write the files of one image, each whole or not at all."""
    import numpy as np

    from seglab import visualize

    for kind in kinds:
        if kind == "index":
            stored = ids if raw is None else raw[ids].astype(np.uint8 if raw.max() < 256 else np.uint16)
            visualize.save(stored, task.target(output, kind))
        elif kind == "colour":
            visualize.save(visualize.colour_map(ids, spec.palette), task.target(output, kind))
        else:
            shown = visualize.overlay_with_legend(image, ids, spec.classes, spec.palette)
            visualize.save(shown, task.target(output, kind))


def track(tasks: Sequence[Task], console: Any) -> Any:
    """The tasks, under a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("predict"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("", total=len(tasks))
        for task in tasks:
            bar.update(row, description=task.name)
            yield task
            bar.advance(row)


def main() -> None:
    """Entry point."""
    cli.run(predict, "predict")


if __name__ == "__main__":
    main()
