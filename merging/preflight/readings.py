"""Whether an expert reads its inputs, texts or images, as the base does: by what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from merging.experts.rows import Input
from merging.preflight.author import Author
from merging.preflight.mismatch import Mismatch
from merging.preflight.ours import Ours
from merging.preflight.specimens import shown, size

TEXTS = 500  # Texts that are read both ways, the longest among them.
IMAGES = 8
# What tokenizers differ in, whatever an expert's texts are: case, accents, spaces, digits, scripts.
PROBE = "An Ünïcode PROBE,  two spaces\tand “marks”: 1234.5 東京 Жизнь 😀 it's\nok"
TOKENS = (
    "The merged model reads texts with the base's tokenizer: fine-tune the expert with that one, or "
    "make the expert's own the tokenizer of another family's base."
)
CUT = (
    "The merged model cuts texts where the base's tokenizer does: set the same model_max_length in the "
    "tokenizer_config.json of both folders, or leave longer texts out of the table."
)
PIXELS = (
    "The merged model prepares images as the base does: fine-tune the expert with the base's image "
    "processor, or make the expert's own the processor of another family's base."
)


def compare_readings(author: Author, ours: Ours, inputs: Sequence[Input]) -> Iterator[Mismatch]:
    """The first example of which the two make different inputs, and words with different numbers."""
    if ours.alone.kind.reads_images:
        yield from _images(author, ours, inputs)
    else:
        yield from list(_vocabulary(author, ours)) or _texts(author, ours, inputs)


def _images(author: Author, ours: Ours, inputs: Sequence[Input]) -> Iterator[Mismatch]:
    for value in inputs[:IMAGES]:
        expected = ours.encoder.encode([value])[0]["pixel_values"]
        found = author.encode(value)["pixel_values"][0]
        if expected.shape != found.shape:
            what = f"{list(found.shape)} for {shown(value)}"
            yield Mismatch("pixel values", f"shape {list(expected.shape)}", what, PIXELS)
            return
        difference = float((expected - found).abs().max())
        if difference > 1e-5:  # less than a thousandth of one of 256 shades
            a, b = (p.to_dict() for p in (ours.encoder.processor, author.processor))
            keys = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k) and not k.startswith("_")]
            what = (
                f"other ones by up to {difference:.3g} for {shown(value)}: {', '.join(keys)} differ"
            )
            yield Mismatch("pixel values", "those of the base's image processor", what, PIXELS)
            return


def _vocabulary(author: Author, ours: Ours) -> Iterator[Mismatch]:
    base, own = (p.get_vocab() for p in (ours.encoder.processor, author.processor))
    moved = sorted((i, word) for word, i in own.items() if base.get(word, i) != i)
    if moved:
        number, word = moved[0]
        found = f"{len(moved)} words with another number, first {word!r} as {number}"
        yield Mismatch("tokenizer", f"{word!r} as {base[word]}, as in the base's", found, TOKENS)


def _texts(author: Author, ours: Ours, inputs: Sequence[Input]) -> Iterator[Mismatch]:
    longest = max(inputs, key=size)
    words = longest if isinstance(longest, str) else longest[0]
    for value in (longest, *inputs[:TEXTS], PROBE, str(words).upper()):
        if (mismatch := _text(author, ours, value)) is not None:
            yield mismatch
            return


def _text(author: Author, ours: Ours, value: Input) -> Mismatch | None:
    expected = list(ours.encoder.encode([value])[0]["input_ids"])
    found = author.encode(value)["input_ids"][0].tolist()
    if expected == found:
        return None
    if len(expected) != len(found) and max(len(expected), len(found)) >= ours.encoder.limit:
        what = f"{len(found)} of {shown(value)}"
        return Mismatch("token ids", f"{len(expected)} tokens of a long text", what, CUT)
    pairs = enumerate(zip_longest(expected, found))
    place, (ours_id, own_id) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    a = ours.encoder.processor.convert_ids_to_tokens(ours_id) if ours_id is not None else "the end"
    b = author.processor.convert_ids_to_tokens(own_id) if own_id is not None else "the end"
    where = f"{b!r} ({own_id}) at token {place} of {shown(value)}"
    return Mismatch("token ids", f"{a!r} ({ours_id}), as the base's tokenizer gives", where, TOKENS)
