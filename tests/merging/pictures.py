"""Images as people have them, in the bytes of a file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def encoded(mode: str = "L", file_format: str = "PNG", size: int = 8, **options: Any) -> bytes:
    """A picture of random pixels, transparent ones among them where the mode has such."""
    random = np.random.default_rng(size)
    if mode in ("I", "F", "I;16"):
        deep = random.integers(0, 60_000, (size, size))
        numbers = {"I": np.int32, "F": np.float32, "I;16": np.uint16}
        image = Image.fromarray(deep.astype(numbers[mode]))
    else:
        whole = Image.fromarray(random.integers(0, 256, (size, size, 4), dtype=np.uint8))
        image = whole.convert("RGB" if mode in ("CMYK", "P", "1") else mode).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises more."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(100))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", content)
        + chunk(b"IEND", b"")
    )
