from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from seglab.data import io
from seglab.errors import DataError

IDS = np.array([[0, 1, 2], [3, 1, 255]], np.uint8)
RGB = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10


def png(path, array, mode=None):
    Image.fromarray(array, mode).save(path)
    return str(path)


def test_palette_labels_give_indices_and_not_colours(tmp_path):
    image = Image.fromarray(IDS).convert("P")
    image.putdata(IDS.ravel().tolist())
    image.putpalette([7, 200, 30] * 256)
    image.save(tmp_path / "p.png")
    assert Image.open(tmp_path / "p.png").mode == "P"
    assert np.array_equal(io.read_label(str(tmp_path / "p.png")), IDS)


def test_grey_labels_are_read_as_stored(tmp_path):
    assert np.array_equal(io.read_label(png(tmp_path / "l.png", IDS)), IDS)


@pytest.mark.parametrize("bits", [2, 4])
def test_ids_of_grey_pngs_with_few_bits_are_not_stretched(tmp_path, bits):
    # Pillow does not write such files: a PNG by hand.
    import struct
    import zlib

    ids = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
    rows = [b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:].ravel()).tobytes() for row in ids]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 4, 2, bits, 0, 0, 0, 0)
    path = tmp_path / "few.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + chunk(b"IEND", b"")
    )
    assert np.array_equal(io.read_label(str(path)), ids)


def test_16_bit_labels_keep_ids_above_255(tmp_path):
    ids = np.array([[300, 1], [26001, 65535]], np.uint16)
    assert np.array_equal(io.read_label(png(tmp_path / "i16.png", ids)), ids)
    ids = np.array([[70000, -1]], np.int32)
    assert np.array_equal(io.read_label(png(tmp_path / "i32.tif", ids)), ids)


def test_one_bit_labels_are_0_and_1(tmp_path):
    Image.fromarray(IDS > 1).save(tmp_path / "one.png")
    assert io.read_label(str(tmp_path / "one.png")).tolist() == [[0, 0, 1], [1, 0, 1]]


def test_a_colour_coded_label_needs_a_table(tmp_path):
    path = png(tmp_path / "rgb.png", np.array([[[0, 0, 0], [128, 64, 128]]], np.uint8))
    with pytest.raises(DataError, match=r"rgb\.png.*mode RGB"):
        io.read_label(path)
    assert io.read_label(path, {(0, 0, 0): 255, (128, 64, 128): 0}).tolist() == [[255, 0]]
    with pytest.raises(DataError, match=r"rgb\.png.*\(128, 64, 128\)"):
        io.read_label(path, {(0, 0, 0): 255})


def test_a_jpeg_label_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"l\.jpg.*JPEG"):
        io.read_label(png(tmp_path / "l.jpg", IDS))


def test_every_kind_of_image_becomes_rgb(tmp_path, caplog):
    shown = Image.fromarray(RGB)
    for mode in ("L", "LA", "RGBA", "P", "CMYK", "1"):
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        shown.convert(mode).save(path)
        array = io.read_image(str(path))
        assert array.shape == (2, 4, 3)
        assert array.dtype == np.uint8
        assert np.array_equal(array, io.read_image(str(path)))
    assert np.array_equal(io.read_image(str(tmp_path / "RGBA.png")), RGB)


def test_a_conversion_is_announced_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(io, "_announced", set())
    for i in range(3):
        Image.fromarray(RGB).convert("RGBA").save(tmp_path / f"{i}.png")
        io.read_image(str(tmp_path / f"{i}.png"))
    assert caplog.text.count("RGBA images are converted") == 1
    assert "0.png" in caplog.text


def test_16_bit_grey_images_keep_their_high_byte(tmp_path):
    values = np.array([[0, 255, 256], [4660, 65280, 65535]], np.uint16)
    grey = io.read_image(png(tmp_path / "deep.png", values))[..., 0]
    assert grey.tolist() == [[0, 0, 1], [18, 255, 255]]


def rotated(path, orientation):
    exif = Image.Exif()
    exif[io.ORIENTATION] = orientation
    Image.fromarray(np.kron(RGB, np.ones((16, 16, 1), np.uint8))).save(path, exif=exif, quality=95)
    return str(path)


def test_exif_rotation_is_not_applied_unless_asked_for(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(io, "_announced", set())
    for orientation in range(1, 9):
        path = rotated(tmp_path / f"{orientation}.jpg", orientation)
        assert io.read_image(path).shape == (32, 64, 3)
        from PIL import ImageOps

        upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
        assert np.array_equal(io.read_image(path, exif="apply"), upright)
        assert io.read_header(path).orientation == orientation
    assert "EXIF rotation is ignored" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("zero.png", b"", "empty"),
        ("page.jpg", b"\n<!DOCTYPE html><html>404</html>", "web page"),
        ("pointer.png", b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        ("text.png", b"hello world", "starts with b'hello"),
    ],
)
def test_a_file_that_is_no_image_is_named_with_what_it_is(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    for read in (io.read_image, io.read_label, io.read_header):
        with pytest.raises(DataError, match=says) as caught:
            read(str(tmp_path / name))
        assert name in str(caught.value)


def test_a_directory_or_a_missing_file_is_named(tmp_path):
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(DataError, match=r"dir\.png.*directory"):
        io.read_image(str(tmp_path / "dir.png"))
    with pytest.raises(DataError, match=r"gone\.png.*no such file"):
        io.read_image(str(tmp_path / "gone.png"))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_file_is_refused_and_not_half_grey(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(whole)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"cut\.{suffix}"):
        io.read_image(str(cut))


def test_an_image_above_the_pixel_limit_is_refused_before_it_is_decoded(tmp_path):
    path = png(tmp_path / "big.png", np.zeros((50, 40), np.uint8))
    with pytest.raises(DataError, match=r"big\.png.*40x50.*max_pixels"):
        io.read_image(path, max_pixels=1999)
    assert io.read_image(path, max_pixels=2000).shape == (50, 40, 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("pixels", [1999, 500])  # Pillow refuses twice its own limit by itself
def test_the_pixel_limit_is_said_with_the_key_of_the_command(tmp_path, monkeypatch, pixels):
    path = png(tmp_path / "big.png", np.zeros((50, 40), np.uint8))
    monkeypatch.setattr(io.Image, "MAX_IMAGE_PIXELS", pixels)
    for limit, said in (({}, "data.dataset.max_pixels"), ({"limit": "max_pixels"}, "set max_pixels")):
        with pytest.raises(DataError, match=rf"big\.png: .* — at most {pixels} .*{said}$"):
            io.read_image(path, pixels, **limit)


def test_unicode_spaces_and_newlines_in_names_are_no_obstacle(tmp_path):
    path = tmp_path / "straße 1\nß .png"
    assert np.array_equal(io.read_label(png(path, IDS)), IDS)


@pytest.mark.parametrize("read", [io.read_image, io.read_label, io.read_header])
def test_a_pipe_is_refused_and_not_waited_at(read, pipe):
    with pytest.raises(DataError, match=r"pipe\.jpg.*it is a pipe"):
        read(str(pipe))


def test_a_link_to_itself_is_named(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(DataError, match=r"loop\.png.*symbolic links"):
        io.read_image(str(tmp_path / "loop.png"))


def test_ids_beside_an_opaque_alpha_are_read_as_stored(tmp_path):
    alpha = np.full_like(IDS, 255)
    path = png(tmp_path / "la.png", np.dstack([IDS, alpha]), "LA")
    assert Image.open(path).mode == "LA"
    assert np.array_equal(io.read_label(path), IDS)


def test_ids_under_a_transparent_alpha_are_refused_by_their_share(tmp_path):
    alpha = np.array([[255, 255, 0], [255, 128, 255]], np.uint8)
    with pytest.raises(DataError, match=r"la\.png.*33\.3% of its pixels transparent.*without alpha") as caught:
        io.read_label(png(tmp_path / "la.png", np.dstack([IDS, alpha]), "LA"))
    assert "labels_are_colours" not in str(caught.value)


def test_colours_are_suggested_for_colours_only(tmp_path):
    with pytest.raises(DataError, match="mode F") as caught:
        io.read_label(png(tmp_path / "f.tif", IDS.astype(np.float32)))
    assert "labels_are_colours" not in str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (33, 50), (64, 65)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_has_the_bytes_that_pillow_decodes(size, subsampling, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for options in ({}, {"progressive": True}, {"quality": 20}, {"quality": 98}, {"restart_marker_blocks": 2}):
        path = tmp_path / "a.jpg"
        Image.fromarray(noise).save(path, subsampling=subsampling, **options)
        header = io.read_header(str(path))
        for scale in header.scales:
            image = Image.open(path)
            image.draft("RGB", (size[1] // scale, size[0] // scale))
            assert np.array_equal(io._jpeg(str(path), header, scale), np.asarray(image))
            assert np.array_equal(io._any_image(str(path), io.MAX_PIXELS, "", scale), np.asarray(image))
        assert np.array_equal(io.read_image(str(path)), np.asarray(Image.open(path)))


def test_real_jpegs_have_the_bytes_that_pillow_decodes(samples):
    paths = [path for path in sorted(samples.rglob("*.jpg")) if Image.open(path).mode == "RGB"]
    assert paths
    for path in paths:
        decoded = io._jpeg(str(path), io.read_header(str(path)), 1)
        assert np.array_equal(decoded, np.asarray(Image.open(path))), path


def test_only_a_jpeg_with_its_end_is_decoded_without_pillow(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name, mode in {"whole.jpg": "RGB", "grey.jpg": "L", "four.jpg": "CMYK", "image.png": "RGB"}.items():
        Image.fromarray(noise).convert(mode).save(tmp_path / name)
    (tmp_path / "longer.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes() + b"\0\0\0")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-2])
    for path in sorted(tmp_path.iterdir()):
        decoded = io._jpeg(str(path), io.read_header(str(path)), 1)
        assert (decoded is not None) == (path.name == "whole.jpg"), path.name
    expected = np.asarray(Image.open(tmp_path / "whole.jpg"))
    assert np.array_equal(io.read_image(str(tmp_path / "longer.jpg")), expected)


def test_a_jpeg_whose_pixels_are_not_what_its_header_says_is_left_to_pillow(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path)
    header = io.read_header(str(path))
    assert io._jpeg(str(path), header._replace(height=header.height + 1), 1) is None
    path.unlink()
    assert io._jpeg(str(path), header, 1) is None
    with pytest.raises(DataError, match=r"a\.jpg: no such file"):
        io.read_image(str(path), header=header)
