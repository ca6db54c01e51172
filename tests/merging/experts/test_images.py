"""Images are decoded as transformers does, or it is said why not."""

from __future__ import annotations

import base64
import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import image_utils

from merging.experts.images import ImageLook, look_at_image
from merging.serving import MOST_PIXELS, TaskError, decode_image
from tests.merging.pictures import encoded, png_that_claims

TURNED = Image.Exif()
TURNED[0x0112] = 6  # The camera was held upright.
FRAMES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]

PICTURES = {
    "grey": encoded("L"),
    "one bit": encoded("1"),
    "palette": encoded("P"),
    "palette with a transparent colour": encoded("P", transparency=0),
    "grey with alpha": encoded("LA"),
    "alpha": encoded("RGBA"),
    "alpha WebP": encoded("RGBA", "WEBP", lossless=True),
    "CMYK": encoded("CMYK", "JPEG"),
    "YCbCr TIFF": encoded("RGB", "TIFF"),
    "turned JPEG": encoded("RGB", "JPEG", exif=TURNED),
    "turned PNG": encoded("RGB", "PNG", exif=TURNED),
    "animated GIF": encoded("RGB", "GIF", save_all=True, append_images=FRAMES),
    "animated WebP": encoded("RGB", "WEBP", save_all=True, append_images=FRAMES),
    "several pictures in a JPEG": encoded("RGB", "MPO", save_all=True, append_images=FRAMES),
    "JPEG 2000": encoded("RGB", "JPEG2000"),
    "AVIF": encoded("RGB", "AVIF"),
    "BMP": encoded("RGB", "BMP"),
    "PPM": encoded("RGB", "PPM"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_are_those_of_transformers(name):
    theirs = image_utils.load_image(base64.b64encode(PICTURES[name]).decode())
    ours = decode_image(PICTURES[name])
    assert (ours.mode, ours.size) == (theirs.mode, theirs.size)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert decode_image(base64.b64encode(PICTURES[name]).decode()) == ours


def test_a_photograph_stands_as_it_was_taken():
    image = Image.new("RGB", (4, 2))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=TURNED)
    assert decode_image(buffer.getvalue()).size == (2, 4)


@pytest.mark.parametrize(
    ("name", "unusual"),
    [
        ("alpha", "transparent parts"),
        ("grey with alpha", "transparent parts"),
        ("palette with a transparent colour", "transparent parts"),
        ("animated GIF", "several frames"),
        ("several pictures in a JPEG", "several frames"),
        ("CMYK", ""),
        ("turned JPEG", ""),
    ],
)
def test_what_the_model_does_not_see_is_said(name, unusual):
    assert look_at_image(PICTURES[name]) == ImageLook(unusual=unusual)


def test_an_alpha_channel_that_hides_nothing_is_nothing_unusual():
    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(buffer, "PNG")
    assert look_at_image(buffer.getvalue()) == ImageLook()


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (encoded("I;16", "PNG"), "more than 8 bits a channel"),
        (encoded("I;16", "TIFF"), "more than 8 bits a channel"),
        (encoded("I", "TIFF"), "more than 8 bits a channel"),
        (encoded("F", "TIFF"), "more than 8 bits a channel"),
        (encoded("RGB", "JPEG", size=64)[:-200], "damaged (OSError: image file is truncated"),
        (encoded("RGB", "PNG", size=64)[:-200], "damaged"),
        (encoded("RGB", "EPS"), "none of PNG"),
        (b"<svg/>", "none of PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"", "none of PNG"),
        (png_that_claims(20_000, 20_000), ""),
        (png_that_claims(10_000, 5_001), f"10,000 by 5,001 pixels, {MOST_PIXELS:,} are the most"),
        (png_that_claims(64, 64), "damaged"),
    ],
)
def test_what_cannot_be_decoded_is_refused_in_words(data, fault):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        look = look_at_image(data)
        assert look.fault
        assert fault in look.fault
        with pytest.raises(TaskError, match="is not an image that can be read"):
            decode_image(data)


@pytest.mark.parametrize("value", ["images/cat.png", "https://example.org/cat.png", 3, None])
def test_an_image_is_never_fetched(value):
    with pytest.raises(TaskError, match="is not an image"):
        decode_image(value)


@settings(max_examples=150)
@given(st.sampled_from(sorted(PICTURES)), st.data())
def test_a_damaged_image_is_decoded_or_refused(name, data):
    content = bytearray(PICTURES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        look = look_at_image(bytes(content[: data.draw(st.integers(1, len(content)))]))
    assert isinstance(look, ImageLook)
