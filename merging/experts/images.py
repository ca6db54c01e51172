"""What is wrong or unusual with an image of an examples table."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from merging.jsonfile import POINTER
from merging.serving import IMAGE_FORMATS, load_image


@dataclass(frozen=True)
class ImageLook:
    """An image that was decoded as learning, evaluation and serving will do it.

    Attributes:
        fault: Why it cannot be used; empty where it can.
        unusual: What of it the model does not see; empty where that is nothing.
    """

    fault: str = ""
    unusual: str = ""


def look_at_image(data: bytes) -> ImageLook:
    """Decodes an image as a whole, in the memory that its pixels take."""
    try:
        if data.startswith(POINTER):
            raise ValueError("it is a git-lfs pointer: run `git lfs pull` in its folder")
        load_image(data)
        return ImageLook(unusual=_unusual(data))
    except ValueError as error:
        return ImageLook(fault=str(error))


def _unusual(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if getattr(image, "is_animated", False):
                return "several frames"
            transparent = image.has_transparency_data
            alpha = image.convert("RGBA").getchannel("A").getextrema()[0] if transparent else 255
            return "transparent parts" if alpha != 255 else ""
    except Exception as error:
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error
