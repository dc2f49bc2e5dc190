"""Predict: ``python -m seglab.predict ckpt=… source=FILE|FOLDER output=FOLDER``. Needs the checkpoint alone.

Which files are below the output is the predictor's business (:mod:`seglab.predictors`): class maps with the source's
tree, or a table. ``report.json`` says which checkpoint and options made them, and names the images that could not be
predicted (:mod:`seglab.predictors.folder`).
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seglab import cli
from seglab import options as known
from seglab.checks import height_width, within
from seglab.errors import ConfigError, DataError, UserError
from seglab.predictors.folder import Entry, PredictionFolder

if TYPE_CHECKING:
    from rich.console import Console

    from seglab.predictors.base import Predictor

MOST_UNEXPECTED = 3
"""So many unexpected errors before anything is predicted end the run: the mistake is not in the images."""


class PartialPrediction(UserError):
    """Some images could not be predicted; the others are."""

    exit_code = 3


@dataclass
class Outcome:
    """How far a prediction has come."""

    images: int
    done: int
    """Predicted, now or before."""
    failed: dict[str, str] = field(default_factory=dict)
    """Image, and why it was not predicted."""

    def listed(self, most: int = 10) -> str:
        """The reasons, one under another; the report has them all."""
        more = [f"and {len(self.failed) - most} more"] if len(self.failed) > most else []
        return "".join(f"\n  {reason}" for reason in [*list(self.failed.values())[:most], *more])


def predict(cfg: DictConfig) -> None:
    """One prediction as Hydra composed it."""
    predict_images(cli.to_containers(cfg))


def predict_images(options: Mapping[str, Any]) -> None:
    """Predict every image of the source.

    Args:
        options: the resolved ``conf/predict.yaml`` as plain containers.

    Raises:
        ConfigError: an option out of range; raw ids that the data set does not have; an output folder that holds
            predictions of something else, or cannot be written.
        DataError: no source, no image in it, or none that can be predicted.
        DiskFull: no space for the rest.
        PartialPrediction: some images could not be predicted.
    """
    check(options)
    listed = find_images(Path(options["source"]))

    from seglab import loading
    from seglab.predictors.base import chosen

    predictor = loading.predictor(options)
    raw = loading.raw_ids(predictor.description) if options["labels_out"] == "raw" else None
    writer = predictor.writer(Path(options["output"]), chosen(options["write"], predictor.kinds), raw)
    folder = PredictionFolder(options["output"], writer)
    root, images = without_predictions(*listed, writer.places)
    with stopping():
        progress = predict_below(root, images, predictor, folder, options)
    conclude(progress, folder, options)


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that cannot be meant, before anything is read."""
    from seglab.inference import LARGEST_VIEW

    known.check(options, known.PREDICT)
    if options["max_pixels"] is not None:
        within("max_pixels", options["max_pixels"], 1)
    if options["size"] is not None:
        height_width("size", options["size"], LARGEST_VIEW)
    if options["write"] is not None and not options["write"]:
        raise ConfigError("write=[] — expected null for all kinds of files, or the names of some")


def predict_below(
    root: Path, images: Sequence[str], predictor: Predictor, folder: PredictionFolder, options: Mapping[str, Any]
) -> Outcome:
    """Predict the images below ``root`` that are not predicted yet, and keep the folder's record."""
    from seglab.runs.signals import Stopped, outcome

    console = plain_console()
    refinement = predictor.refinement
    further = refinement.networks() if refinement is not None else {}
    chosen = {**options["predictor"], **({"networks": further} if further else {})}
    made_by = {**predictor.identity(), "predictor": chosen, "labels_out": options["labels_out"]}
    asked: dict[str, Any] = {"source": os.path.abspath(options["source"]), "write": folder.writer.kinds}
    empty = {"images": len(images), "done": 0, "failed": {}}
    entries, said = folder.begin(made_by, root, images, options["overwrite"], {**asked, **empty})
    for line in said:
        console.print(printable(line))
    todo = [each for each in entries if options["overwrite"] or not folder.writer.done(each.name)]
    progress = Outcome(len(entries), len(entries) - len(todo))
    if refinement is not None:
        todo = whole_sequences(todo, entries, refinement.forgets)
        progress.done = len(entries) - len(todo)
    if progress.done:
        console.print(f"{progress.done} of {progress.images} images are predicted already (overwrite=true redoes them)")
    try:
        with closing(track(todo, console)) as tracked:
            predict_all(tracked, predictor, folder, options, progress)
    except BaseException as error:
        status = outcome(error)[0]
        if isinstance(error, Stopped):
            console.print(f"{status}: {again(options)} predicts the rest")
        with suppress(OSError, UserError):  # the reason that we leave for is said
            folder.finish({**asked, **asdict(progress), "status": status})
        raise
    status = "done" if not progress.failed else "partial" if progress.done else "failed"
    folder.finish({**asked, **asdict(progress), "status": status}, [each.name for each in entries])
    return progress


def whole_sequences(todo: Iterable[Entry], entries: Sequence[Entry], forgets: bool = True) -> list[Entry]:
    """All frames, in order, of the sequences of which some are to be predicted: each needs those before it.

    Args:
        forgets: False where a sequence needs those before it as well.
    """
    from seglab.data.listing import natural

    begun = {each.sequence for each in todo}
    if begun and not forgets:
        begun = {each.sequence for each in entries}
    # A folder between two frames of the folder that it lies in would end their sequence.
    frames = (each for each in entries if each.sequence in begun)
    return sorted(frames, key=lambda each: (natural(each.sequence), natural(each.name)))


def conclude(progress: Outcome, folder: PredictionFolder, options: Mapping[str, Any]) -> None:
    """Say how it ended.

    Raises:
        DataError: no image could be predicted.
        PartialPrediction: some could not.
    """
    done = f"{progress.done} of {progress.images} images are predicted below {folder.path}"
    plain_console().print(printable(done))
    if progress.failed and not progress.done:
        raise DataError(f"no image could be predicted:{progress.listed()}")
    if progress.failed:
        raise PartialPrediction(
            f"{len(progress.failed)} of {progress.images} images could not be predicted and were left out — "
            f"{folder.path / 'report.json'} names them; {again(options)} tries them again:{progress.listed()}"
        )


def plain_console() -> Console:
    """A console that prints what it is given."""
    from rich.console import Console

    return Console(soft_wrap=True, markup=False, highlight=False)


def predict_all(
    entries: Iterable[Entry],
    predictor: Predictor,
    folder: PredictionFolder,
    options: Mapping[str, Any],
    progress: Outcome,
) -> None:
    """Predict image by image; one that fails, for whatever reason, is named and does not end the rest.

    Raises:
        DiskFull: no space for the rest.
        Unwritable: nothing can be written any more.
        Exception: an error that is not the images': what the first one raised, where none could be predicted.
    """
    from seglab.predictors.base import out_of_memory
    from seglab.runs import atomic

    unexpected: Exception | None = None
    count = 0
    for entry in entries:
        try:
            predict_one(entry, predictor, folder, options["max_pixels"])
            progress.done += 1
            continue
        except atomic.DiskFull as error:
            raise atomic.DiskFull(
                f"{error}; {progress.done} of {progress.images} images done, {again(options)} predicts the rest"
            ) from error
        except atomic.Unwritable:
            raise
        except UserError as error:
            reason = str(error)
        except Exception as error:
            reason = brief(error)
            if out_of_memory(error):
                reason = f"not enough memory ({reason}) — {predictor.lighter()}"
            elif not predictor.works():
                raise
            else:
                unexpected = unexpected or error
                count += 1
        named = reason if reason.startswith(str(entry.image)) else f"{entry.image}: {reason}"
        progress.failed[str(entry.image)] = named
        if progress.done:
            unexpected = None  # it keeps the arrays of its frames alive
        elif unexpected is not None and count >= MOST_UNEXPECTED:
            raise unexpected
    if unexpected is not None and not progress.done:
        raise unexpected


def predict_one(entry: Entry, predictor: Predictor, folder: PredictionFolder, limit: int | None) -> None:
    """Read, predict and write one image of at most ``limit`` pixels.

    Raises:
        DataError: it cannot be read, is too large, or its files cannot be written.
    """
    from seglab.data.io import MAX_PIXELS, read_image
    from seglab.runs import atomic

    image = read_image(str(entry.image), limit or MAX_PIXELS, limit="max_pixels")
    if limit is None:
        predictor.check((image.shape[0], image.shape[1]))
    prediction = predictor(image, entry.sequence)
    try:
        folder.writer.add(entry.name, image, prediction)
    except atomic.DiskFull:
        raise
    except (OSError, UserError) as error:
        folder.probe()  # a name that no file can have, or a folder where nothing can be written any more?
        why = getattr(error if isinstance(error, OSError) else error.__cause__, "strerror", None) or error
        raise DataError(f"{entry.image}: its prediction ({entry.name}) cannot be written ({why})") from error


@contextmanager
def stopping() -> Iterator[None]:
    """A signal ends the block through its ``finally`` clauses, with the signal's exit code."""
    import signal

    from seglab.runs.signals import REASONS, leave

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, leave) for number in REASONS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def find_images(source: Path) -> tuple[Path, list[str]]:
    """A folder and its images' paths below it, sorted.

    Raises:
        DataError: no such file or folder, or no image in it.
    """
    from seglab.data.io import IMAGE_SUFFIXES
    from seglab.data.listing import scan

    if os.path.isfile(source):
        return source.parent, [source.name]
    if not os.path.isdir(source):
        raise DataError(f"{source}: no such file or folder — expected an image or a folder of images; check source=")
    found = sorted(path for paths in scan(str(source), "", IMAGE_SUFFIXES).values() for path in paths)
    if not found:
        raise no_image(source)
    return source, found


def without_predictions(root: Path, images: list[str], places: Sequence[Path]) -> tuple[Path, list[str]]:
    """The images that are not below one of the places where predictions are written.

    Raises:
        DataError: there is none left.
    """
    real, written = Path(os.path.realpath(root)), [Path(os.path.realpath(place)) for place in places]
    found = [path for path in images if not any((real / path).is_relative_to(place) for place in written)]
    if not found:
        raise no_image(root)
    return root, found


def no_image(source: Path) -> DataError:
    """The error to raise where there is nothing to predict."""
    from seglab.data.io import IMAGE_SUFFIXES

    return DataError(f"{source}: no image in it — expected files ending in {', '.join(IMAGE_SUFFIXES)}; check source=")


def again(options: Mapping[str, Any]) -> str:
    """What goes on with a prediction that was stopped."""
    return "the same command without overwrite=true" if options["overwrite"] else "the same command"


def brief(error: Exception) -> str:
    """An unexpected error in a line, with the place that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = next(iter(str(error).splitlines()), "")[:200]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"


def printable(text: str) -> str:
    """Text that any terminal takes: a file's name may be no text in any encoding."""
    return text.encode("utf-8", "backslashreplace").decode()


def track(entries: Sequence[Entry], console: Any) -> Generator[Entry]:
    """The entries, under a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("predict"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        row = bar.add_task("", total=len(entries))
        for entry in entries:
            bar.update(row, description=printable(entry.name))
            yield entry
            bar.advance(row)


def main() -> None:
    """Entry point."""
    cli.run(predict, "predict")


if __name__ == "__main__":
    main()
