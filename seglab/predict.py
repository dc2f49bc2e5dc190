"""Predict: ``python -m seglab.predict ckpt=… source=FILE|FOLDER output=FOLDER``. Needs the checkpoint alone.

The source is an image, a folder of images, a video or a folder of videos. Which files are below the output is the
predictor's business (:mod:`seglab.predictors`): class maps with the source's tree, a video, or a table. ``report.json``
says which checkpoint and options made them, and names the images that could not be predicted
(:mod:`seglab.predictors.folder`).
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from seglab import cli
from seglab import options as known
from seglab.checks import height_width, within
from seglab.errors import ConfigError, DataError, UserError
from seglab.predictors.folder import Entry, PredictionFolder

if TYPE_CHECKING:
    from rich.console import Console

    from seglab.data.video import Frame, VideoReader
    from seglab.predictors.base import Predictor

MOST_UNEXPECTED = 3
"""So many unexpected errors before anything is predicted end the run: the mistake is not in the images."""


class PartialPrediction(UserError):
    """Some images, or frames of a video, could not be predicted; the others are."""

    exit_code = 3


class Found(NamedTuple):
    """What is to be predicted."""

    root: Path
    paths: list[str]
    """Below the root, sorted."""
    videos: bool
    """Whether they are videos, and not images."""

    @property
    def kind(self) -> str:
        """What they are called."""
        return "video" if self.videos else "image"


class Tracked(NamedTuple):
    """An image or video whose turn it is."""

    entry: Entry
    frames: Callable[[VideoReader], Iterator[Frame]]
    """The frames of a video, under a progress bar of their own."""


@dataclass
class Outcome:
    """How far a prediction has come."""

    images: int
    done: int
    """Predicted, now or before."""
    failed: dict[str, str] = field(default_factory=dict)
    """Image, and why it was not predicted, or not to its end."""
    partial: int = 0
    """Of those that failed: videos of which the frames before are predicted."""

    @property
    def some(self) -> bool:
        """Whether anything is predicted."""
        return bool(self.done or self.partial)

    def listed(self, most: int = 10) -> str:
        """The reasons, one under another; the report has them all."""
        more = [f"and {len(self.failed) - most} more"] if len(self.failed) > most else []
        return "".join(f"\n  {reason}" for reason in [*list(self.failed.values())[:most], *more])


def predict(cfg: DictConfig) -> None:
    """One prediction as Hydra composed it."""
    predict_images(cli.to_containers(cfg))


def predict_images(options: Mapping[str, Any]) -> None:
    """Predict every image or video of the source.

    Args:
        options: the resolved ``conf/predict.yaml`` as plain containers.

    Raises:
        ConfigError: an option out of range; videos without PyAV; raw ids that the data set does not have; an output
            folder that holds predictions of something else, or cannot be written.
        DataError: no source, no image or video in it, or none that can be predicted.
        DiskFull: no space for the rest.
        PartialPrediction: some images, or frames of videos, could not be predicted.
    """
    check(options)
    source, output = Path(options["source"]), Path(options["output"])
    there = find(source)

    from seglab import loading
    from seglab.data import video
    from seglab.predictors.base import chosen

    if not there[False]:
        video.library()
    predictor = loading.predictor(options)
    raw = loading.raw_ids(predictor.description) if options["labels_out"] == "raw" else None
    kinds = chosen(options["write"], predictor.kinds)
    writer = predictor.writer(output, kinds, raw)
    found = chosen_of(source, there, writer.places)
    if found.videos:
        writer = predictor.video_writer(output, kinds, raw)
    folder = PredictionFolder(options["output"], writer)
    with stopping():
        progress = predict_below(found, predictor, folder, options)
    conclude(progress, folder, options, found.kind)


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


def predict_below(found: Found, predictor: Predictor, folder: PredictionFolder, options: Mapping[str, Any]) -> Outcome:
    """Predict what is not predicted yet, and keep the folder's record."""
    from seglab.runs.signals import Stopped, outcome

    console = plain_console()
    refinement = predictor.refinement
    further = refinement.networks() if refinement is not None else {}
    chosen = {**options["predictor"], **({"networks": further} if further else {})}
    made_by = {**predictor.identity(), "predictor": chosen, "labels_out": options["labels_out"]}
    asked: dict[str, Any] = {"source": os.path.abspath(options["source"]), "write": folder.writer.kinds}
    empty = asdict(Outcome(len(found.paths), 0))
    entries, said = folder.begin(made_by, found.root, found.paths, options["overwrite"], {**asked, **empty})
    for line in said:
        console.print(printable(line))
    todo = [each for each in entries if options["overwrite"] or not folder.writer.done(each.name)]
    progress = Outcome(len(entries), len(entries) - len(todo))
    if refinement is not None and not (found.videos and refinement.forgets):  # a video is a sequence by itself
        todo = whole_sequences(todo, entries, refinement.forgets)
        progress.done = len(entries) - len(todo)
    if progress.done:
        already = f"{progress.done} of {progress.images} {found.kind}s are predicted already"
        console.print(f"{already} (overwrite=true redoes them)")
    try:
        with closing(track(todo, console)) as tracked:
            predict_all(tracked, predictor, folder, options, progress, predict_video if found.videos else predict_one)
    except BaseException as error:
        status = outcome(error)[0]
        if isinstance(error, Stopped):
            console.print(f"{status}: {again(options)} predicts the rest")
        with suppress(OSError, UserError):  # the reason that we leave for is said
            folder.finish({**asked, **asdict(progress), "status": status})
        raise
    status = "done" if not progress.failed else "partial" if progress.some else "failed"
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


def conclude(progress: Outcome, folder: PredictionFolder, options: Mapping[str, Any], kind: str) -> None:
    """Say how it ended; ``kind`` is what was predicted: image or video.

    Raises:
        DataError: none could be predicted.
        PartialPrediction: some could not, or not to their end.
    """
    done = f"{progress.done} of {progress.images} {kind}s are predicted below {folder.path}"
    plain_console().print(printable(done))
    if progress.failed and not progress.some:
        raise DataError(f"no {kind} could be predicted:{progress.listed()}")
    if progress.failed:
        begun = f" ({progress.partial} of them up to a frame)" if progress.partial else ""
        raise PartialPrediction(
            f"{len(progress.failed)} of {progress.images} {kind}s could not be predicted{begun} and were left out — "
            f"{folder.path / 'report.json'} names them; {again(options)} tries them again:{progress.listed()}"
        )


def plain_console() -> Console:
    """A console that prints what it is given."""
    from rich.console import Console

    return Console(soft_wrap=True, markup=False, highlight=False)


def predict_all(
    entries: Iterable[Tracked],
    predictor: Predictor,
    folder: PredictionFolder,
    options: Mapping[str, Any],
    progress: Outcome,
    one: Callable[[Tracked, Predictor, PredictionFolder, int | None], None],
) -> None:
    """Predict image by image; one that fails, for whatever reason, is named and does not end the rest.

    Args:
        one: predicts one of them.

    Raises:
        DiskFull: no space for the rest.
        Unwritable: nothing can be written any more.
        Exception: an error that is not the images': what the first one raised, where none could be predicted.
    """
    from seglab.data.video import BrokenVideo
    from seglab.predictors.base import out_of_memory
    from seglab.runs import atomic

    unexpected: Exception | None = None
    count = 0
    for tracked in entries:
        entry = tracked.entry
        try:
            one(tracked, predictor, folder, options["max_pixels"])
            progress.done += 1
            continue
        except atomic.DiskFull as error:
            raise atomic.DiskFull(
                f"{error}; {progress.done} of {progress.images} images done, {again(options)} predicts the rest"
            ) from error
        except atomic.Unwritable:
            raise
        except BrokenVideo as error:
            reason = str(error)
            progress.partial += 1
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
        if progress.some:
            unexpected = None  # it keeps the arrays of its frames alive
        elif unexpected is not None and count >= MOST_UNEXPECTED:
            raise unexpected
    if unexpected is not None and not progress.some:
        raise unexpected


def predict_one(tracked: Tracked, predictor: Predictor, folder: PredictionFolder, limit: int | None) -> None:
    """Read, predict and write one image of at most ``limit`` pixels.

    Raises:
        DataError: it cannot be read, is too large, or its files cannot be written.
    """
    from seglab.data.io import MAX_PIXELS, read_image
    from seglab.runs import atomic

    entry = tracked.entry
    image = read_image(str(entry.image), limit or MAX_PIXELS, limit="max_pixels")
    if limit is None:
        predictor.check((image.shape[0], image.shape[1]))
    prediction = predictor(image, entry.sequence)
    try:
        folder.writer.add(entry.name, image, prediction)
    except atomic.DiskFull:
        raise
    except (OSError, UserError) as error:
        raise not_written(error, entry, folder) from error


def predict_video(tracked: Tracked, predictor: Predictor, folder: PredictionFolder, limit: int | None) -> None:
    """Read, predict and write the frames of a video, each of at most ``limit`` pixels, one after another.

    Raises:
        BrokenVideo: it ends too early; the frames before are written.
        DataError: it cannot be read, is too large, or its files cannot be written.
    """
    from seglab.data.io import MAX_PIXELS
    from seglab.data.video import VideoReader
    from seglab.runs import atomic

    entry = tracked.entry
    with VideoReader(entry.image, limit or MAX_PIXELS) as video:
        if limit is None:
            predictor.check(video.size)
        predictions = ((frame, predictor(frame.image, str(entry.image))) for frame in tracked.frames(video))
        try:
            folder.writer.add(entry.name, video, predictions)
        except atomic.DiskFull:
            raise
        except (OSError, atomic.Unwritable) as error:
            raise not_written(error, entry, folder) from error


def not_written(error: Exception, entry: Entry, folder: PredictionFolder) -> DataError:
    """The error to raise where files of one entry cannot be written.

    Raises:
        Unwritable: it is not the name: nothing can be written there any more.
    """
    folder.probe()
    why = getattr(error if isinstance(error, OSError) else error.__cause__, "strerror", None) or error
    return DataError(f"{entry.image}: its prediction ({entry.name}) cannot be written ({why})")


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


def find(source: Path) -> dict[bool, list[str]]:
    """What can be predicted, as paths below the source's folder, sorted: the images (False) and the videos (True).

    Raises:
        DataError: no such file or folder, or neither in it.
    """
    from seglab.data.io import IMAGE_SUFFIXES
    from seglab.data.listing import scan
    from seglab.data.video import VIDEO_SUFFIXES

    if os.path.isfile(source):
        video = source.name.lower().endswith(VIDEO_SUFFIXES)
        return {video: [source.name], not video: []}
    if not os.path.isdir(source):
        raise DataError(
            f"{source}: no such file or folder — expected an image, a video or a folder of either; check source="
        )
    kinds = {False: IMAGE_SUFFIXES, True: VIDEO_SUFFIXES}
    found = {
        video: sorted(path for paths in scan(str(source), "", suffixes).values() for path in paths)
        for video, suffixes in kinds.items()
    }
    if not any(found.values()):
        raise nothing(source)
    return found


def chosen_of(source: Path, found: Mapping[bool, list[str]], places: Sequence[Path]) -> Found:
    """The images that are not below one of the places where predictions are written; the videos, where there is none.

    Raises:
        DataError: there is nothing left.
    """
    root = source.parent if os.path.isfile(source) else source
    real, written = Path(os.path.realpath(root)), [Path(os.path.realpath(place)) for place in places]
    left = {
        video: [path for path in paths if not any((real / path).is_relative_to(place) for place in written)]
        for video, paths in found.items()
    }
    if not any(left.values()):
        raise nothing(root)
    if left[False] and left[True]:
        said = f"{root} holds images, which are predicted, and {len(left[True])} videos, which are not"
        plain_console().print(printable(f"{said}: name one of these, or a folder without images, as source="))
    videos = not left[False]
    return Found(root, left[videos], videos)


def nothing(source: Path) -> DataError:
    """The error to raise where there is nothing to predict."""
    from seglab.data.io import IMAGE_SUFFIXES
    from seglab.data.video import VIDEO_SUFFIXES

    return DataError(
        f"{source}: no image in it and no video — expected files ending in {', '.join(IMAGE_SUFFIXES)}, or in "
        f"{', '.join(VIDEO_SUFFIXES)}; check source="
    )


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


def track(entries: Sequence[Entry], console: Any) -> Generator[Tracked]:
    """The entries, under a progress bar; below it one of the frames of a video."""
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

        def frames(video: VideoReader) -> Iterator[Frame]:
            inner = bar.add_task("frames", total=video.expected)
            try:
                for frame in video:
                    yield frame
                    bar.advance(inner)
            finally:
                bar.remove_task(inner)

        for entry in entries:
            bar.update(row, description=printable(entry.name))
            yield Tracked(entry, frames)
            bar.advance(row)


def main() -> None:
    """Entry point."""
    cli.run(predict, "predict")


if __name__ == "__main__":
    main()
