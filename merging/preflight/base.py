"""Whether a folder or prefix is a base that experts can be merged into.

A base is judged by itself, so that its faults are never put down to an expert: by the names of its
files before they are fetched, by their content once they are here, and by being loaded and asked
before it is uploaded.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from merging.errors import InvalidInput
from merging.experts.checkpoint import Checkpoint
from merging.experts.configuration import backbone_class
from merging.jsonfile import refuse_pointers
from merging.kinds import ModelKind
from merging.models.folder import COMPANIONS
from merging.preflight.author import OFFLINE, brings_processor
from merging.preflight.claims import refuse_claim
from merging.preflight.quiet import quietly
from merging.preflight.remarks import weights_aside
from merging.serving import Encoder, TaskError, model_class

SAVE = "Give the folder that `save_pretrained` of the model and of its tokenizer or image processor wrote."
LOADS = "Try it with from_pretrained on this folder alone, and save it again with save_pretrained."


def check_base_names(files: Collection[str], kind: ModelKind, where: str) -> None:
    """Whether a base's files are a checkpoint that can read inputs, by their names alone.

    Without files of its own transformers would make up a tokenizer that knows no word, and say nothing.

    Raises:
        InvalidInput: Weights, configuration, or tokenizer or image processor are missing.
    """
    has_weights = any(name.endswith(".safetensors") for name in files)
    if "config.json" not in files or not has_weights or not brings_processor(files, kind):
        reader = "those of an image processor" if kind.reads_images else "those of a tokenizer"
        raise InvalidInput(
            where=where,
            expected=f"a checkpoint: config.json, safetensors, and {reader}",
            found=", ".join(sorted(files)) or "nothing of the kind",
            remedy=SAVE,
        )


def open_base(directory: Path, kind: ModelKind) -> Checkpoint:
    """A base whose configuration and headers are sound and whose files are there.

    Raises:
        InvalidInput: They are not, or transformers has no task model for it.
    """
    refuse_pointers(directory, COMPANIONS)
    base = Checkpoint.open(directory)
    if base.wrapper:
        raise _faulty(directory, "the model's own names", f"{base.wrapper} before each", LOADS)
    try:
        model_class(base.config, kind)
    except TaskError as error:
        remedy = (
            "Choose a base of another architecture, or the kind that it has in the family file."
        )
        raise _faulty(directory, f"a base for a {kind}", str(error), remedy) from error
    return base


def try_base(directory: Path, kind: ModelKind) -> tuple[str, ...]:
    """Loads a base as its author's library does and asks it something, once.

    Returns:
        Sentences worth knowing of it.

    Raises:
        InvalidInput: It cannot be opened or loaded, lacks tensors, or answers with NaN.
    """
    base = open_base(directory, kind)
    for name in base.tensors:  # attention on a CPU makes zeros of NaN, so answers do not show it
        if not bool(torch.isfinite(base.read(name)).all()):
            raise _faulty(directory, "finite numbers", f"NaN or infinity in {name}", LOADS)
    cls = _class_of(base, kind)
    try:
        with quietly():
            refuse_claim(cls, base.parsed, base)
            model, info = cls.from_pretrained(
                directory,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **OFFLINE,
            )
            encoder = Encoder(directory, kind, model.eval())
            answer = _answer(model, encoder)
            missing = sorted(info["missing_keys"])
            # A pooler, say, belongs to what experts bring; hidden states do not depend on it.
            _move(model, missing)
            if missing and not torch.equal(_answer(model, encoder), answer):
                raise ValueError(f"{len(missing)} tensors are missing, {missing[0]} first")
    except Exception as error:
        # Libraries raise anything for files that they were not written for.
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        expected = f"a {cls.__name__} that transformers loads and that answers"
        raise _faulty(directory, expected, found, LOADS) from error
    if not bool(torch.isfinite(answer).all()):
        raise _faulty(directory, "finite answers", "NaN or infinity", LOADS)
    return tuple(weights_aside(base))


def _class_of(base: Checkpoint, kind: ModelKind) -> Any:
    """The class that the base was saved from, where transformers has it; what it lacks is missing.

    A generator has to be whole as one, whatever it was saved from.
    """
    if not kind.has_head:
        return model_class(base.config, kind)[0]
    for name in base.parsed.architectures or ():
        cls: Any = getattr(transformers, name, None)
        known = isinstance(cls, type) and issubclass(cls, PreTrainedModel)
        if known and cls.config_class is type(base.parsed):
            return cls
    return backbone_class(base.directory, base.parsed)


@torch.no_grad()
def _move(model: Any, names: Collection[str]) -> None:
    """Gives some parameters and buffers of a model other values."""
    for name, tensor in model.state_dict().items():
        if name in names and tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor))


@torch.inference_mode()
def _answer(model: Any, encoder: Encoder) -> Tensor:
    """The first thing that a model gives for one input."""
    batch = encoder.collate(encoder.encode([_picture() if encoder.reads_images else "1 2 3 4 5"]))
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    return model(**batch)[0]


def _picture() -> bytes:
    shades = Image.linear_gradient("L").convert("RGB")
    file = io.BytesIO()
    shades.save(file, "PNG")
    return file.getvalue()


def _faulty(directory: Path, expected: str, found: str, remedy: str) -> InvalidInput:
    return InvalidInput(where=str(directory), expected=expected, found=found, remedy=remedy)
