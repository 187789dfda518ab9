"""Pictures in: by what they hold, never by their name; what cannot be read is refused in one line."""

import io
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vidjax import image as image_module
from vidjax.image import fit_image, read_image

FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"]


def noise(height, width) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def encoded(format, image=None) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(noise(40, 40))).save(buffer, format=format)
    return buffer.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_read_image_by_contents(tmp_path, format):
    """A wrong suffix is common and harmless; the colours must be right in every format."""
    (tmp_path / "a.dat").write_bytes(encoded(format, Image.new("RGB", (40, 24), (200, 120, 40))))
    image = read_image(tmp_path / "a.dat")
    assert (image.shape, image.dtype) == ((24, 40, 3), np.uint8)
    assert np.abs(image.astype(int) - [200, 120, 40]).max() <= 4


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("part", [0.005, 0.3, 0.8])
def test_read_image_refuses_a_truncated_file(tmp_path, format, part, refused):
    """Half a picture would be filled up with grey and animated."""
    data = encoded(format)
    (tmp_path / "a.png").write_bytes(data[: int(part * len(data))])
    refused("damaged|not a picture", read_image, tmp_path / "a.png")


def test_read_image_refuses_what_is_no_picture(tmp_path, refused):
    """Each fault has its own line, so that the user knows what to mend."""
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "svg.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (tmp_path / "html.png").write_text("<!doctype html><html></html>")
    (tmp_path / "ico.png").write_bytes(encoded("ICO"))
    refused("no file", read_image, tmp_path / "none.png")
    refused("no file", read_image, "https://example.com/a.png")
    refused("folder", read_image, tmp_path)
    refused("empty", read_image, tmp_path / "empty.png")
    for name in ("svg.png", "html.png", "ico.png"):
        refused("not a picture", read_image, tmp_path / name)
    refused("path, an array or a PIL image", read_image, 3)
    refused("32-bit", read_image, Image.new("F", (4, 4)))


@pytest.mark.parametrize(("width", "height"), [(16385, 1), (1, 16385), (12000, 12000), (60000, 60000)])
def test_read_image_refuses_a_huge_picture_on_its_header(tmp_path, width, height, refused):
    """A few bytes can claim gigabytes. No pixels follow this header: decoding would say 'damaged'."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    refused("larger than 16384", read_image, tmp_path / "a.png")


def test_read_image_limit_admits_what_is_below(tmp_path, monkeypatch, refused):
    """The limit counts width x height and lets a picture of exactly that size through."""
    monkeypatch.setattr(image_module, "MAX_PIXELS", 1600)
    assert read_image(Image.new("RGB", (40, 40))).shape == (40, 40, 3)
    refused("41x40", read_image, Image.new("RGB", (41, 40)))


def test_read_image_kinds_of_pixels():
    """Pillow's plain conversion clips 16-bit grey to white and may mix up palettes and inks."""
    grey16 = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    np.testing.assert_array_equal(read_image(io_round_trip(grey16, "PNG"))[0, :, 0], [0, 100, 255])
    np.testing.assert_array_equal(read_image(io_round_trip(grey16, "TIFF"))[0, :, 2], [0, 100, 255])
    assert read_image(Image.new("L", (2, 2), 90))[0, 0].tolist() == [90, 90, 90]
    assert read_image(Image.new("1", (2, 2), 1))[0, 0].tolist() == [255, 255, 255]
    cyan = io_round_trip(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG")
    assert np.abs(read_image(cyan)[8, 8].astype(int) - [0, 255, 255]).max() <= 3
    palette = Image.new("RGB", (2, 2), (200, 120, 40)).quantize(4)
    assert read_image(io_round_trip(palette, "PNG"))[0, 0].tolist() == [200, 120, 40]


def test_read_image_lays_transparency_over_white():
    """Clear red is white, half clear black is mid-grey; the same for a clear colour in a palette."""
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (0, 0, 0, 128))
    assert read_image(io_round_trip(rgba, "PNG"))[0].tolist() == [[255, 255, 255], [127, 127, 127]]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.info["transparency"] = 0
    assert read_image(io_round_trip(palette, "PNG"))[0].tolist() == [[255, 255, 255], [0, 0, 255]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_read_image_applies_rotation_once(format):
    """Phone pictures lie on their side otherwise. Orientation 6: the first row is the right column."""
    image = Image.new("RGB", (32, 16), "black")
    image.paste("white", (0, 0, 32, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format=format, exif=exif)
    shown = read_image(Image.open(buffer))
    assert shown.shape == (32, 16, 3)
    assert shown[:, 10:].min() > 240
    assert shown[:, :6].max() < 15


def test_read_image_takes_arrays(refused):
    """Arrays of another range or shape would be shown as noise; the result is a copy."""
    image = noise(4, 6)
    read = read_image(image)
    np.testing.assert_array_equal(read, image)
    assert not np.shares_memory(read, image)
    np.testing.assert_array_equal(read_image(image / 255), image)
    np.testing.assert_array_equal(read_image(jnp.asarray(image)), image)
    np.testing.assert_array_equal(read_image(Image.fromarray(image)), image)
    refused(r"\[0, 1\]", read_image, image / 127.5 - 1)
    refused(r"\[0, 1\]", read_image, np.full((2, 2, 3), np.nan))
    refused("uint8", read_image, image.astype(np.int32))
    refused(r"\[H, W, 3\]", read_image, image[..., 0])
    refused(r"\[H, W, 3\]", read_image, image[:0])


def io_round_trip(image, format) -> Image.Image:
    """The image as a file of that format brings it back, with the mode the decoder chooses."""
    return Image.open(io.BytesIO(encoded(format, image)))


def test_fit_image_covers_and_crops_the_centre(refused):
    """A stretched picture, a border or a crop off the centre would show in every frame made from it."""
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, 30:60] = 255  # the central square
    assert fit_image(image, 20, 20).min() > 200
    np.testing.assert_array_equal(fit_image(image.swapaxes(0, 1), 20, 20), fit_image(image, 20, 20).swapaxes(0, 1))
    circle = np.hypot(*np.mgrid[-32:32, -48:48]) < 16
    fitted = fit_image(np.repeat(circle[..., None], 3, -1).astype(np.uint8) * 255, 128, 128)[..., 0] > 127
    assert abs(int(fitted.any(0).sum()) - int(fitted.any(1).sum())) <= 1
    for height, width in [(480, 832), (1, 1), (7, 300)]:
        assert fit_image(noise(1, 64), height, width).shape == (height, width, 3)
    np.testing.assert_array_equal(fit_image(noise(8, 10), 8, 10), noise(8, 10))
    refused("at least 1", fit_image, noise(8, 8), 0, 8)
