"""Pictures in: read from a file, an array or PIL without trusting them, and made to fit a frame."""

import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from vidjax.errors import MediaError

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_SIDE = 16_384
MAX_PIXELS = 100_000_000


def read_image(source: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture as 8-bit RGB.

    `source` is the path of a local PNG, JPEG, WebP, BMP, TIFF or GIF file (of several frames the first), a
    PIL image, or an array: uint8 or floating point in [0, 1], of shape [H, W, 3]. The format is told from the
    contents. EXIF rotation is applied, transparency laid over white, 16-bit grey scaled to 8 bits, CMYK
    converted without a colour profile. A file beyond MAX_SIDE or MAX_PIXELS is refused before it is decoded.

    Raises MediaError where there is no such picture or it is damaged.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _pixels(source, "the image")
    if isinstance(source, str | os.PathLike):
        return _read_file(check_readable(source))
    if hasattr(source, "__array__"):
        return _from_array(np.asarray(source))
    raise MediaError(f"An image is a path, an array or a PIL image, not {type(source).__name__}.")


def fit_image(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int, part: tuple[int, int, int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Scales `image` (Lanczos) to cover height x width, keeping its aspect, and crops around the centre.

    `part` (first row and column, rows and columns) is all that is computed of it.
    """
    from PIL import Image

    if height < 1 or width < 1:
        raise MediaError(f"An image cannot be fitted to {height}x{width}: both must be at least 1.")
    H, W, _ = image.shape
    scale = max(height / H, width / W)
    x, y = max(0.0, (W - width / scale) / 2), max(0.0, (H - height / scale) / 2)
    box = (x, y, W - x, H - y)
    if part is not None:
        top, left, rows, columns = part
        # Pixels around the box are looked at, so that parts are those of the whole.
        box = (x + left / scale, y + top / scale, x + (left + columns) / scale, y + (top + rows) / scale)
        # A rounding error beyond the picture would be refused.
        box = (box[0], box[1], min(box[2], W), min(box[3], H))
        height, width = rows, columns
    fitted = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.array(fitted)


def pad_image(image: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Scales `image` (Lanczos) to fit into height x width whole, keeping its aspect, in the middle of a plain ground.

    The ground has the colour of the picture's border: the median, by channel.
    """
    from PIL import Image

    if height < 1 or width < 1:
        raise MediaError(f"An image cannot be fitted to {height}x{width}: both must be at least 1.")
    H, W, _ = image.shape
    scale = min(height / H, width / W)
    h, w = (min(max(round(n * scale), 1), most) for n, most in ((H, height), (W, width)))
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    padded = np.empty((height, width, 3), np.uint8)
    padded[:] = np.median(border, axis=0)
    top, left = (height - h) // 2, (width - w) // 2
    padded[top : top + h, left : left + w] = Image.fromarray(image).resize((w, h), Image.Resampling.LANCZOS)
    return padded


def check_readable(path: str | os.PathLike) -> Path:
    """Returns `path` as a Path; raises MediaError if it is not a regular, readable file or is empty."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise MediaError(f"There is no file {os.fspath(path)!r} (only local files are read).") from None
    name = repr(os.fspath(path))
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{name} is a folder, where a file is needed.")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(f"{name} is not a regular file.")
    if status.st_size == 0:
        raise MediaError(f"{name} is empty (0 bytes).")
    if not os.access(path, os.R_OK):
        raise MediaError(f"{name} may not be read: permission denied.")
    return Path(path)


def _read_file(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    from PIL import Image, UnidentifiedImageError

    name = repr(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns about is either refused below or harmless
        try:
            with Image.open(path, formats=FORMATS) as image:
                return _pixels(image, name)
        except MediaError:
            raise
        except UnidentifiedImageError:
            raise MediaError(f"{name} is not a picture, or its header is damaged; {_FORMATS} are read.") from None
        except Image.DecompressionBombError:
            raise MediaError(f"{name} {_TOO_LARGE}") from None
        except Exception as error:  # each of Pillow's decoders has its own way to fail
            reason = " ".join(str(error).split()) or type(error).__name__
            raise MediaError(f"{name} is damaged or cut short: {reason}.") from error


def _pixels(image: "Image.Image", name: str) -> UInt8[np.ndarray, "H W 3"]:
    from PIL import Image, ImageOps

    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise MediaError(f"{name} is {width}x{height}; it {_TOO_LARGE}")
    if min(width, height) < 1:
        raise MediaError(f"{name} has no pixels.")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32) / 257  # 65535 -> 255
        return np.repeat(np.round(grey).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise MediaError(f"{name} has 32-bit values of unknown range: save it with 8 or 16 bits.")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _from_array(array: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise MediaError(f"An image array has shape [H, W, 3], not {list(array.shape)}.")
    if array.dtype == np.uint8:
        return np.array(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise MediaError(f"An image array is uint8, or floating point in [0, 1], not {array.dtype}.")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise MediaError(f"A floating-point image lies in [0, 1]; this one reaches from {low:g} to {high:g}.")
    return np.round(array.astype(np.float32) * 255).astype(np.uint8)


_FORMATS = ", ".join(FORMATS[:-1]) + " and " + FORMATS[-1]
_TOO_LARGE = f"is larger than {MAX_SIDE} pixels on a side or {MAX_PIXELS // 10**6} megapixels in all."
