"""Calibration examples as model inputs, and a model's logits at the places that have a target.

A classifier has one such place per example. A generator has one per token of the target text and of
the end mark; the prompt is not learned from. Input and target are joined as they are, without a
template, so examples contain whatever prompt format their expert was trained with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merging.errors import InvalidInput
from merging.experts.examples import Examples
from merging.kinds import ModelKind
from merging.learning.objectives import UNLABELLED
from merging.safefile import Spec, load_tensors, write_tensors
from merging.serving import Encoder, Row

Encoded = Row  # The inputs of one example and its "labels", one per place.


def encode_examples(
    encoder: Encoder, examples: Examples, *, images: Path | None = None
) -> list[Encoded]:
    """Inputs and labels of each example, not padded; a generator's examples all have targets.

    Args:
        encoder: Of the base's tokenizer or image processor and the task's model.
        examples: What is encoded.
        images: Folder to keep encoded images in; without it they are kept in memory.

    Raises:
        InvalidInput: The base's image processor gives images of different sizes.
    """
    if images is not None and examples.kind.reads_images:
        inputs = _mapped_images(encoder, examples, images)
    else:
        inputs = encoder.encode(examples.inputs)
    if examples.kind.has_head:
        return [
            {**one, "labels": [UNLABELLED if target is None else target]}
            for one, target in zip(inputs, examples.targets, strict=True)
        ]
    return [
        _joined(encoder, one, target) if encoder.joined else _apart(encoder, one, target)
        for one, target in zip(inputs, examples.targets, strict=True)
    ]


def _joined(encoder: Encoder, one: Encoded, target: Any) -> Encoded:
    """An input and its target in one row, the end mark behind them."""
    ends = encoder.end_token
    room = encoder.answer_tokens(one) - (ends is not None)
    tokens = encoder.processor(target, add_special_tokens=False)["input_ids"][:room]
    tokens = [*tokens, ends] if ends is not None else tokens
    example = {
        name: [*values, *(tokens if name == "input_ids" else values[-1:] * len(tokens))]
        for name, values in one.items()
    }
    example["labels"] = [UNLABELLED] * len(one["input_ids"]) + tokens
    return example


def _apart(encoder: Encoder, one: Encoded, target: Any) -> Encoded:
    """An input, and its target as the tokenizer writes targets: with its end mark, and its language."""
    ends, room = encoder.end_token, encoder.answer_tokens(one)
    tokens = encoder.processor(text_target=target, truncation=True, max_length=room)["input_ids"]
    if ends is not None and ends not in tokens:
        tokens = [*tokens[: room - 1], ends]
    return {**one, "labels": tokens}


def _mapped_images(encoder: Encoder, examples: Examples, folder: Path) -> list[Encoded]:
    """Pixel values, encoded once into a file and mapped: of many tasks they may not fit in memory."""
    content = f"{encoder.processor.to_json_string()}{examples.digest}"
    path = folder / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"
    if not path.exists():
        inputs = dict(zip(examples.keys, examples.inputs, strict=True))
        shape = encoder.encode(examples.inputs[:1])[0]["pixel_values"].shape

        def read(key: str) -> Tensor:
            pixels: Tensor = encoder.encode([inputs[key]])[0]["pixel_values"]
            if pixels.shape == shape:
                return pixels
            raise InvalidInput(
                where=f"image {key}",
                expected=f"the shape that another has after preprocessing, {list(shape)}",
                found=f"{list(pixels.shape)}",
                remedy="Let the base's preprocessor_config.json resize or crop to one size.",
            )

        spec = Spec(tuple(shape), torch.float32)
        write_tensors(path, dict.fromkeys(examples.keys, spec), read)
    tensors, _ = load_tensors(path)
    return [{"pixel_values": tensors[key]} for key in examples.keys]


def collate(
    encoder: Encoder, encoded: Sequence[Encoded], device: torch.device
) -> dict[str, Tensor]:
    """One batch with "labels", int64 [batch, places]; `encoder.groups` says what may be in it."""
    inputs = [{name: value for name, value in one.items() if name != "labels"} for one in encoded]
    batch = encoder.collate(inputs)
    batch["labels"] = encoder.pad([one["labels"] for one in encoded], UNLABELLED)
    return {name: send(tensor, device) for name, tensor in batch.items()}


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A host's tensor on a device, without waiting for what the device was given before."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def num_places(example: Encoded, kind: ModelKind) -> int:
    """How many rows of logits an example gives."""
    if kind.has_head:
        return 1
    return sum(label != UNLABELLED for label in example["labels"])


def answers(
    model: Any, encoder: Encoder, encoded: Sequence[Encoded], kind: ModelKind
) -> tuple[Tensor, Tensor]:
    """Logits [places, classes] and targets int64 [places] of examples, one after the other.

    They go through the model in one batch where that changes no answer, else in several.
    """
    device = next(model.parameters()).device
    groups = encoder.groups(encoded)
    parts: list[tuple[Tensor, Tensor]] = [(torch.empty(0), torch.empty(0))] * len(encoded)
    for group in groups:
        some = [encoded[index] for index in group]
        found = _answer(model, collate(encoder, some, device), kind)
        if len(groups) == 1:
            return found
        counts = [num_places(one, kind) for one in some]
        split = zip(*(tensor.split(counts) for tensor in found), strict=True)
        for index, part in zip(group, split, strict=True):
            parts[index] = part
    logits, targets = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(targets)


def _answer(model: Any, batch: dict[str, Tensor], kind: ModelKind) -> tuple[Tensor, Tensor]:
    labels = batch.pop("labels")
    if kind.has_head:
        return model(**batch).logits, labels[:, 0]
    if model.config.is_encoder_decoder:
        # The class itself shifts labels to decoder inputs; its own loss is not used.
        logits = model(**batch, labels=labels).logits
    else:
        logits = model(**batch).logits[:, :-1]
        labels = labels[:, 1:]
    wanted = labels != UNLABELLED
    return logits[wanted], labels[wanted]


def prove_batches(
    model: Any, encoder: Encoder, encoded: Sequence[Encoded], kind: ModelKind
) -> None:
    """Finds out by the model which of these examples may be in one batch.

    Raises:
        TaskError: The model cannot answer one of them alone.
    """

    def answer(some: Sequence[Encoded]) -> Sequence[Tensor]:
        logits, _ = _answer(model, collate(encoder, some, next(model.parameters()).device), kind)
        return logits.split([num_places(one, kind) for one in some])

    encoder.prove(encoded, answer)
