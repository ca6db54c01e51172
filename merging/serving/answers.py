"""What a task model answers to many inputs: class logits, or text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .encoder import BATCH, Encoder, Row
from .loading import quiet_transformers

ACCELERATOR_BATCH = 256  # Short texts in one pass of a classifier on an accelerator, at most.


@torch.inference_mode()
def class_scores(
    model: Any, encoder: Encoder, inputs: Sequence[Any], device: torch.device
) -> Tensor:
    """Class logits of every input, fp32 [inputs, classes], in the inputs' order."""
    scores = torch.empty(len(inputs), model.config.num_labels)

    def answer(rows: Sequence[Row]) -> Tensor:
        batch = {name: t.to(device) for name, t in encoder.collate(rows).items()}
        return model(**batch).logits

    # Of images no more than one batch is held at a time.
    step = BATCH if encoder.reads_images else max(1, len(inputs))
    size = BATCH if device.type == "cpu" else ACCELERATOR_BATCH
    for start in range(0, len(inputs), step):
        rows = encoder.encode(inputs[start : start + step])
        encoder.prove(rows, answer)
        for indices, batch in encoder.batches(rows, size):
            with encoder.asking([rows[index] for index in indices]):
                logits = model(**{name: t.to(device) for name, t in batch.items()}).logits
            scores[[start + index for index in indices]] = logits.float().cpu()
    return scores


@torch.inference_mode()
def generate(
    model: Any, encoder: Encoder, inputs: Sequence[Any], device: torch.device
) -> list[str]:
    """The greedy answer to every input, as its author's settings have it, in the inputs' order."""
    answers = [""] * len(inputs)
    rows = encoder.encode(inputs)

    def write(batch: Mapping[str, Tensor], tokens: int, **more: Any) -> Any:
        if encoder.settings.pad_token_id is None:
            more["pad_token_id"] = encoder.padding
        with quiet_transformers():
            return model.generate(
                **{name: t.to(device) for name, t in batch.items()},
                max_new_tokens=tokens,
                tokenizer=encoder.processor,
                **more,
            )

    def answer(some: Sequence[Row]) -> Tensor:
        wanted = {"min_new_tokens": 2, "return_dict_in_generate": True, "output_logits": True}
        return torch.stack(write(encoder.collate(some), 2, **wanted).logits, 1)

    encoder.prove(rows, answer)
    for indices, batch in encoder.batches(rows, key=encoder.answer_key):
        with encoder.asking([rows[index] for index in indices]):
            tokens = write(batch, encoder.answer_tokens(rows[indices[0]]))
        if encoder.joined:
            tokens = tokens[:, batch["input_ids"].shape[1] :]
        texts = encoder.processor.batch_decode(tokens, skip_special_tokens=True)
        for index, text in zip(indices, texts, strict=True):
            answers[index] = text.strip()
    return answers
