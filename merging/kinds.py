"""The kinds of models that can be merged, and what is peculiar to each."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class ModelKind(StrEnum):
    """A kind of model; as text, in family files and manifests, it is its name.

    Which class of transformers a kind is stands in `merging.serving`: a copy of that package has to find
    it from the name in a merged model's manifest alone.

    Attributes:
        input_column: The column of an examples table that holds what the model is asked.
        target_column: The column that holds the right answer.
        pair_column: The column of a pair's second text, where a kind may be asked pairs.
        reads_images: Whether an image processor reads its inputs; else a tokenizer does.
        has_head: Whether a head of each task's own gives one of several labels, by which the model is
            judged; else the whole model is merged, writes text, and is judged by that.
    """

    input_column: str
    target_column: str
    pair_column: str | None
    reads_images: bool
    has_head: bool

    TEXT_CLASSIFIER = "text-classifier", "text", "label", "text_pair", False, True
    IMAGE_CLASSIFIER = "image-classifier", "image", "label", None, True, True
    GENERATOR = "generator", "input", "target", None, False, False

    def __new__(
        cls,
        name: str,
        input_column: str,
        target_column: str,
        pair_column: str | None,
        reads_images: bool,
        has_head: bool,
    ) -> Self:
        """A string with the attributes above."""
        kind = str.__new__(cls, name)
        kind._value_ = name
        kind.input_column, kind.target_column = input_column, target_column
        kind.pair_column = pair_column
        kind.reads_images, kind.has_head = reads_images, has_head
        return kind
