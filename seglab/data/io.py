"""The only place that opens images and labels.

Pillow, because it returns palette indices where OpenCV expands them to colours, refuses a truncated JPEG where OpenCV
returns a half-grey image, and leaves the pixels where the labels were drawn instead of rotating them by EXIF. A JPEG
that Pillow has opened and that has its end is decoded by OpenCV: the same bytes in less time.
Every failure is a DataError with the file's name.
"""

from __future__ import annotations

import logging
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from seglab.errors import DataError

MAX_PIXELS = 89_478_485
"""Largest image read unless configured otherwise (Pillow's own warning level)."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

ORIENTATION = 0x0112
"""EXIF tag of the camera's orientation; 1 is upright, 5..8 swap height and width."""

TURNED = 5
"""Orientations from here on swap height and width."""

JPEG_SCALES = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""A JPEG is decoded at 1/scale of its size from the low frequencies of its 8x8 blocks, without the other pixels."""

END_OF_JPEG = b"\xff\xd9"

LABEL_MODES = {"L", "P", "1", "I", "I;16", "I;16B", "I;16L", "I;16N"}
WANTED = "one channel of class ids (L, P, I;16, I or 1) is expected"

# Pillow stretches grey PNGs of 2 and 4 bits to 0..255; ids need that undone.
STRETCH = {"L;2": 85, "L;4": 17}

_log = logging.getLogger(__name__)


class Header(NamedTuple):
    """What a file says about itself before its pixels are decoded."""

    height: int
    width: int
    mode: str
    orientation: int
    format: str | None
    """As Pillow calls it."""

    @property
    def scales(self) -> tuple[int, ...]:
        """What ``read_image`` can divide the size by, ascending."""
        reduced = JPEG_SCALES if self.format == "JPEG" else ()
        return (1, *(scale for scale in reduced if 1 < scale <= min(self.height, self.width)))


def read_header(path: str, max_pixels: int = MAX_PIXELS, limit: str = "data.dataset.max_pixels") -> Header:
    """Size, mode, EXIF orientation and format of an image file; ``limit`` is the key that sets ``max_pixels``."""
    with _open(path, max_pixels, limit) as image:
        return Header(image.height, image.width, image.mode, _orientation(image), image.format)


def read_image(
    path: str,
    max_pixels: int = MAX_PIXELS,
    exif: str = "ignore",
    limit: str = "data.dataset.max_pixels",
    scale: int = 1,
    header: Header | None = None,
) -> np.ndarray:
    """[H, W, 3] uint8 RGB of the stored pixels; [ceil(H / scale), ceil(W / scale), 3] for one of the header's scales.

    Grey is repeated, alpha dropped, CMYK converted by Pillow's plain formula, and of 16-bit grey the high byte kept;
    each kind is announced once. ``exif="apply"`` turns the image upright (``orient`` does the same to its label).
    ``limit`` is the key of the command that sets ``max_pixels``, ``header`` the file's where it is read already.
    """
    header = header or read_header(path, max_pixels, limit)
    if header.orientation != 1 and exif == "ignore":
        _announce("EXIF rotation is ignored: labels are drawn on stored pixels", path)
    array = _jpeg(path, header, scale)
    if array is None:
        array = _any_image(path, max_pixels, limit, scale)
    return orient(array, header.orientation) if exif == "apply" else array


def _jpeg(path: str, header: Header, scale: int) -> np.ndarray | None:
    """[h, w, 3] uint8 of a JPEG in RGB, the same bytes as Pillow's; None where Pillow must decode or complain itself.

    Both decode by libjpeg, which replaces what is damaged and raises nothing; at the end of a file without end marker
    Pillow raises and OpenCV does not.
    """
    if header.format != "JPEG" or header.mode != "RGB":
        return None
    try:
        data = np.fromfile(path, np.uint8)
        if data[-2:].tobytes() != END_OF_JPEG:
            return None
        array = cv2.imdecode(data, JPEG_SCALES[scale] | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):
        return None
    if array is None or array.shape != (math.ceil(header.height / scale), math.ceil(header.width / scale), 3):
        return None
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB, dst=array)


def _any_image(path: str, max_pixels: int, limit: str, scale: int) -> np.ndarray:
    """[H, W, 3] uint8 by Pillow, as it is stored."""
    with _open(path, max_pixels, limit) as image:
        mode = image.mode
        if scale > 1:
            image.draft(mode, (image.width // scale, image.height // scale))
        if mode == "F":
            raise DataError(f"{path}: image of floating point values — 8-bit RGB or grey is read — convert it")
        if mode.startswith("I"):
            _announce("16-bit grey images are reduced to their high byte", path)
            values = np.asarray(image)
            if values.size and not 0 <= values.min() <= values.max() <= 0xFFFF:
                span = f"{values.min()}..{values.max()}"
                raise DataError(f"{path}: 32-bit image with values {span} — 8 or 16 bits are read — convert it")
            grey = (values.astype(np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if mode != "RGB":
            dropped = ", without their alpha" if "A" in mode else ""
            _announce(f"{mode} images are converted to RGB{dropped}", path)
            image = image.convert("RGB")
        return np.asarray(image)


def read_label(
    path: str, colours: Mapping[tuple[int, int, int], int] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """[H, W] stored ids: uint8, uint16 or int32, never converted.

    A colour-coded label is read through ``colours`` (exact match); without that table it is refused. Of grey with alpha
    (LA) the grey channel is read where alpha is opaque everywhere; otherwise it is refused.
    """
    with _open(path, max_pixels) as image:
        if image.format == "JPEG":
            raise DataError(
                f"{path}: label stored as JPEG, which changes ids — a PNG is expected — export the labels again"
            )
        if image.mode in LABEL_MODES:
            tiles = getattr(image, "tile", None)  # gone once the pixels are loaded
            raw_mode = tiles[0][3] if tiles else None
            array = np.asarray(image)
            if array.dtype == bool:
                return array.astype(np.uint8)
            array = array.astype(array.dtype.newbyteorder("="), copy=False)
            return array // STRETCH[raw_mode] if raw_mode in STRETCH else array
        if image.mode == "LA":
            ids, alpha = np.moveaxis(np.asarray(image), -1, 0)
            if (alpha == 255).all():
                return ids
            raise DataError(
                f"{path}: label of mode LA, {(alpha < 255).mean():.1%} of its pixels transparent — {WANTED}: whether"
                " those are void is not said — export the labels again without alpha"
            )
        if image.mode not in {"RGB", "RGBA"}:
            raise DataError(f"{path}: label of mode {image.mode} — {WANTED} — export the labels again as 8-bit grey")
        if colours is None:
            raise DataError(
                f"{path}: label of mode {image.mode} — {WANTED}"
                " — take the file with ids, or for data=folder set data.dataset.labels_are_colours=true"
            )
        return _ids_of_colours(np.asarray(image)[..., :3], colours, path)


def read_depth(path: str, per_metre: float = 1000, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """[H, W] float32 metres of a 16-bit grey image of ``1 / per_metre`` metres, 0 where unknown."""
    with _open(path, max_pixels) as image:
        if not image.mode.startswith("I"):
            raise DataError(
                f"{path}: depth of mode {image.mode} — one channel of 16 bits is expected, 1/{per_metre:g} metres"
                " — take the files of depths, not of their display"
            )
        return np.asarray(image).astype(np.float32) / np.float32(per_metre)


def orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """``array`` [H, W, ...] turned upright from EXIF ``orientation`` 1..8."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def _ids_of_colours(rgb: np.ndarray, colours: Mapping[tuple[int, int, int], int], path: str) -> np.ndarray:
    shift = np.array([1 << 16, 1 << 8, 1], dtype=np.int32)
    codes, where = np.unique(rgb.astype(np.int32) @ shift, return_inverse=True)
    seen = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in codes]
    unknown = [colour for colour in seen if colour not in colours]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} colours that belong to no class, such as {unknown[0]} — the class file has"
            f" {len(colours)} — add it there, or export the labels without smoothing"
        )
    return np.array([colours[colour] for colour in seen], dtype=np.uint8)[where].reshape(rgb.shape[:2])


@contextmanager
def _open(path: str, max_pixels: int, limit: str = "data.dataset.max_pixels") -> Iterator[Image.Image]:
    """An image file opened for the body of a ``with``; whatever goes wrong there becomes a DataError naming it."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow's limit may not undercut the configured one.
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError("no regular file")  # a pipe would be waited at for ever
        with Image.open(path) as image:
            if image.width * image.height > max_pixels:
                raise DataError(
                    f"{path}: {image.width}x{image.height} pixels — at most {max_pixels} are read — set {limit}"
                )
            yield image
    except (DataError, KeyboardInterrupt):
        raise
    except Image.DecompressionBombError as error:  # of twice Pillow's own limit, before the size can be asked for
        raise DataError(f"{path}: {error} — at most {max_pixels} pixels are read — set {limit}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file — restore it, or prepare the dataset again") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes.
        raise DataError(
            f"{path}: cannot be read ({_guess(path) or error}) — an image file is expected — restore it"
        ) from error


def _orientation(image: Image.Image) -> int:
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ORIENTATION, 1) != 1:
        raise DataError(f"{image.filename!s}: TIFF with an orientation tag, which Pillow applies — save it upright")
    if "exif" not in image.info:  # asking would decode a whole PNG in search of EXIF behind its pixels
        return 1
    value = image.getexif().get(ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _guess(path: str) -> str | None:
    """What a file that is no image seems to be, or None."""
    if os.path.isdir(path):
        return "it is a directory"
    if os.path.exists(path) and not os.path.isfile(path):
        return "it is a pipe, socket or device"
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        return error.strerror
    if not head:
        return "the file is empty"
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it holds a web page, probably a failed download"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull`"
    known = (b"\xff\xd8\xff", b"\x89png", b"bm", b"gif8", b"ii*\x00", b"mm\x00*", b"riff")
    return None if start.startswith(known) else "it starts with " + repr(head[:8])


_announced: set[str] = set()


def _announce(what: str, path: str) -> None:
    """Log a conversion once per kind and process."""
    if what not in _announced:
        _announced.add(what)
        _log.warning("%s; first: %s", what, path)
