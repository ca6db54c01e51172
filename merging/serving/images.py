"""Images as transformers' own loader decodes them, within bounds."""

from __future__ import annotations

import base64
import binascii
import io

from PIL import Image, ImageOps, UnidentifiedImageError

from .loading import TaskError

MOST_PIXELS = 50_000_000  # Of an image, so that decoding one takes a bounded memory.
# Others are left out, since Pillow hands some of them to programs outside.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")


def decode_image(value: bytes | str) -> Image.Image:
    """An RGB image from encoded bytes or base64 text; never from a path.

    Raises:
        TaskError: It is neither.
    """
    try:
        return load_image(
            base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
        )
    except (binascii.Error, TypeError, ValueError) as error:
        raise TaskError(
            f"An input is not an image that can be read: {error}. Send PNG or JPEG bytes, in base64 "
            "over HTTP."
        ) from error


def load_image(data: bytes) -> Image.Image:
    """An RGB image, with the pixels that `transformers.image_utils.load_image` gives.

    Raises:
        ValueError: It is damaged or too large, or RGB cannot hold it.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > MOST_PIXELS:  # Until here only the header was read.
            raise ValueError(
                f"it has {image.width:,} by {image.height:,} pixels, {MOST_PIXELS:,} are the most"
            )
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):  # Pillow would clip it to white or black.
            raise ValueError("it has more than 8 bits a channel, save it with 8")
        return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(IMAGE_FORMATS)}") from error
    except ValueError:
        raise
    except Exception as error:  # Decoders raise whatever a damaged file leads them to.
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error
