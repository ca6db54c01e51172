"""The merged model as one thing that answers: `{"task": ..., "inputs": [...]}`.

A copy of this file travels in `code/` of every merged model and MLflow loads the model through
`_load_pyfunc`, so it stands alone: nothing of this project is imported, and nothing is unpickled.
The same functions build the task models of learning and evaluation, so there is one answer to the
question how a backbone and a head become a model.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
)
from transformers.utils import logging as transformers_logging

MANIFEST = "manifest.json"
# transformers reads the index only where the first of these is missing; the second is a head's.
WEIGHTS = ("model.safetensors", "head.safetensors")
WEIGHTS_INDEX = "model.safetensors.index.json"
LONGEST_TEXT = 512  # Tokens of a text, where neither tokenizer nor configuration has a limit.
NEW_TOKENS = 64  # Most tokens of a generated answer.
BATCH = 32  # Inputs in one forward pass.
ACCELERATOR_BATCH = 256  # Short texts in one pass of a classifier on an accelerator, at most.
MOST_PIXELS = 50_000_000  # Of an image, so that decoding one takes a bounded memory.
# Others are left out, since Pillow hands some of them to programs outside.
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")
# The auto classes of each kind of model. A generator has a second one, for an encoder with a decoder.
# Whatever else differs by kind follows from them: what reads the inputs, and whether text is written.
AUTO_CLASSES: dict[str, tuple[Any, ...]] = {
    "text-classifier": (AutoModelForSequenceClassification,),
    "image-classifier": (AutoModelForImageClassification,),
    "generator": (AutoModelForCausalLM, AutoModelForSeq2SeqLM),
}


class TaskError(ValueError):
    """A request that this model cannot answer, or files that are not what was promoted."""


def parse_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """What transformers makes of a config.json, defaults filled in; it decodes what JSON cannot say."""
    with tempfile.TemporaryDirectory() as folder:
        values = {key: value for key, value in config.items() if key != "auto_map"}  # code
        (Path(folder) / "config.json").write_text(json.dumps(values))
        parsed = AutoConfig.from_pretrained(folder, local_files_only=True)
    parsed.name_or_path = ""
    return parsed


def model_class(config: Mapping[str, Any], kind: str) -> tuple[Any, PretrainedConfig]:
    """The transformers class of a task model, and its configuration parsed.

    Raises:
        TaskError: transformers has none for this architecture.
    """
    parsed = parse_config(config)
    auto: Any = AUTO_CLASSES[kind][-1 if parsed.is_encoder_decoder else 0]
    try:
        mapped = auto._model_mapping[type(parsed)]  # noqa: SLF001 - nothing public tells the class
    except KeyError as error:
        raise TaskError(
            f"transformers has no {kind} for model type {parsed.model_type}."
        ) from error
    classes = mapped if isinstance(mapped, tuple) else (mapped,)
    named = [c for c in classes if c.__name__ in (parsed.architectures or ())]
    return (named or classes)[0], parsed


def assemble(config: Mapping[str, Any], kind: str, tensors: Mapping[str, Tensor]) -> Any:
    """A task model in evaluation mode whose fp32 tensors share memory with `tensors`.

    Args:
        config: The task model's configuration, as in its config.json.
        kind: The kind of model.
        tensors: Backbone and head by their names in checkpoints, with or without prefix.

    Raises:
        TaskError: A tensor that the model needs is missing or has another shape.
    """
    cls, parsed = model_class(config, kind)
    quiet = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model, info = cls.from_pretrained(
            None,
            config=parsed,
            state_dict=dict(tensors),
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    finally:
        transformers_logging.set_verbosity(quiet)
    wrong = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if wrong:
        raise TaskError(
            f"{type(model).__name__}: expected every tensor of the model in its shape, found "
            f"{', '.join(wrong)} missing or misshapen. Save base, expert and head from one model."
        )
    if not model.can_generate() and getattr(parsed, "pad_token_id", None) is None:
        # GPT-like classifiers look for the end of a text.
        model.config.pad_token_id = getattr(parsed, "eos_token_id", None)
    return model


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a merged model's backbone, sharded or not, or of a head, mapped from the files."""
    files = [path for name in WEIGHTS if (path := Path(directory) / name).is_file()]
    if not files and (index := Path(directory) / WEIGHTS_INDEX).is_file():
        names = json.loads(index.read_text())["weight_map"].values()
        files = [index.with_name(name) for name in sorted(set(names))]
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


class Encoder:
    """Turns inputs into batches of a backbone's tensors: a tokenizer or an image processor."""

    def __init__(self, directory: Path, kind: str, config: Mapping[str, Any]) -> None:
        self.reads_images = AutoModelForImageClassification in AUTO_CLASSES[kind]
        self.writes_text = AutoModelForCausalLM in AUTO_CLASSES[kind]
        self.processor: Any
        self.new_tokens = 0
        if self.reads_images:
            self.processor = AutoImageProcessor.from_pretrained(directory, backend="pil")
            return
        self.processor = AutoTokenizer.from_pretrained(directory)
        if self.processor.pad_token is None:
            self.processor.pad_token = self.processor.eos_token
        # RoBERTa-like models keep two positions for padding.
        positions = config.get("max_position_embeddings") or config.get("n_positions")
        positions = int(positions) - 2 if positions else LONGEST_TEXT + NEW_TOKENS
        self.new_tokens = min(NEW_TOKENS, positions // 2)
        self.limit = min(int(self.processor.model_max_length), positions)
        if self.writes_text and not config.get("is_encoder_decoder"):
            self.processor.padding_side = "left"
            self.limit = min(self.limit, positions - self.new_tokens)

    def encode(self, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Token ids or pixel values of each input, not yet padded."""
        if not inputs:
            return []
        if self.reads_images:
            images = [decode_image(value) for value in inputs]
            pixels = self.processor(images, return_tensors="pt")["pixel_values"]
            return [{"pixel_values": p} for p in pixels]
        pairs = [value if isinstance(value, tuple) else (value, None) for value in inputs]
        texts = [text for text, _ in pairs]
        seconds = [second or "" for _, second in pairs] if any(s for _, s in pairs) else None
        encoded = self.processor(texts, seconds, truncation=True, max_length=self.limit)
        names = [n for n in encoded if n != "token_type_ids" or not self.writes_text]
        return [{name: encoded[name][i] for name in names} for i in range(len(texts))]

    def collate(
        self, rows: Sequence[dict[str, Any]], padding_side: str | None = None
    ) -> dict[str, Tensor]:
        """One batch, [batch, tokens] or [batch, channels, height, width]."""
        if self.reads_images:
            return {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}
        side = padding_side or self.processor.padding_side
        return dict(self.processor.pad(list(rows), return_tensors="pt", padding_side=side))

    def batches(
        self, rows: Sequence[dict[str, Any]], size: int = BATCH
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Indices and batch, rows of like length together so that little is padded.

        More than BATCH come together only as long as BATCH of the longest texts have more tokens.
        """
        lengths = [len(row.get("input_ids", ())) for row in rows]
        order = sorted(range(len(rows)), key=lengths.__getitem__)
        most = BATCH * LONGEST_TEXT
        start = 0
        while start < len(order):
            stop = min(start + size, len(order))
            while stop - start > BATCH and (stop - start) * lengths[order[stop - 1]] > most:
                stop -= 1
            yield order[start:stop], self.collate([rows[i] for i in order[start:stop]])
            start = stop

    def encoded_batches(
        self, inputs: Sequence[Any], size: int = BATCH
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """`batches` of inputs; of images no more than one batch is encoded at a time."""
        if not self.reads_images:
            yield from self.batches(self.encode(inputs), size)
            return
        for start in range(0, len(inputs), BATCH):
            some = inputs[start : start + BATCH]
            yield list(range(start, start + len(some))), self.collate(self.encode(some))


@torch.inference_mode()
def class_scores(
    model: Any, encoder: Encoder, inputs: Sequence[Any], device: torch.device
) -> Tensor:
    """Class logits of every input, fp32 [inputs, classes], in the inputs' order."""
    scores = torch.empty(len(inputs), model.config.num_labels)
    size = BATCH if device.type == "cpu" else ACCELERATOR_BATCH
    for indices, batch in encoder.encoded_batches(inputs, size):
        logits = model(**{name: t.to(device) for name, t in batch.items()}).logits
        scores[indices] = logits.float().cpu()
    return scores


@torch.inference_mode()
def generate(
    model: Any, encoder: Encoder, inputs: Sequence[Any], device: torch.device
) -> list[str]:
    """The greedy answer to every input, in the inputs' order."""
    answers = [""] * len(inputs)
    tokenizer = encoder.processor
    for indices, batch in encoder.encoded_batches(inputs):
        batch = {name: t.to(device) for name, t in batch.items()}
        tokens = model.generate(
            **batch,
            do_sample=False,
            num_beams=1,
            max_new_tokens=encoder.new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        if not model.config.is_encoder_decoder:
            tokens = tokens[:, batch["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
        for index, text in zip(indices, texts, strict=True):
            answers[index] = text.strip()
    return answers


def decode_image(value: bytes | str) -> Image.Image:
    """An RGB image from encoded bytes or base64 text; never from a path.

    Raises:
        TaskError: It is neither.
    """
    try:
        return load_image(
            base64.b64decode(value, validate=True) if isinstance(value, str) else bytes(value)
        )
    except (binascii.Error, TypeError, ValueError) as error:
        raise TaskError(
            f"An input is not an image that can be read: {error}. Send PNG or JPEG bytes, in base64 "
            "over HTTP."
        ) from error


def load_image(data: bytes) -> Image.Image:
    """An RGB image, with the pixels that `transformers.image_utils.load_image` gives.

    Raises:
        ValueError: It is damaged or too large, or RGB cannot hold it.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > MOST_PIXELS:  # Until here only the header was read.
            raise ValueError(
                f"it has {image.width:,} by {image.height:,} pixels, {MOST_PIXELS:,} are the most"
            )
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):  # Pillow would clip it to white or black.
            raise ValueError("it has more than 8 bits a channel, save it with 8")
        return upright.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(IMAGE_FORMATS)}") from error
    except ValueError:
        raise
    except Exception as error:  # Decoders raise whatever a damaged file leads them to.
        raise ValueError(f"it is damaged ({type(error).__name__}: {error})") from error


def label_names(config: Mapping[str, Any]) -> list[str]:
    """Label names by class index, from a configuration's id2label."""
    names = config.get("id2label") or {}
    return [str(names[key]) for key in sorted(names, key=int)]


class MergedModel:
    """A merged model directory: one backbone in memory, a head per task."""

    def __init__(self, directory: Path, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        manifest = verify_manifest(directory)
        kind = str(manifest["kind"])
        backbone = read_weights(directory / "model")
        self.models: dict[str, Any] = {}
        for folder in sorted(p for p in (directory / "heads").iterdir() if p.is_dir()):
            config = json.loads((folder / "config.json").read_text())
            model = assemble(config, kind, {**backbone, **read_weights(folder)})
            self.models[folder.name] = model
            self.encoder = Encoder(directory / "model", kind, config)
        _move_together(list(self.models.values()), self.device)

    def answer(self, task: str, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """One answer per input: label and scores, or text.

        Raises:
            TaskError: No such task, or inputs of the wrong type.
        """
        if task not in self.models:
            raise TaskError(f"Unknown task {task!r}. This model answers: {', '.join(self.models)}.")
        model = self.models[task]
        values = [self._input(value) for value in inputs]
        if self.encoder.writes_text:
            texts = generate(model, self.encoder, values, self.device)
            return [{"task": task, "text": text} for text in texts]
        labels = label_names(model.config.to_dict())
        rows = class_scores(model, self.encoder, values, self.device).softmax(-1).tolist()
        return [
            {
                "task": task,
                "label": labels[int(np.argmax(row))],
                "score": max(row),
                "scores": dict(zip(labels, row, strict=True)),
            }
            for row in rows
        ]

    def predict(self, model_input: Any, params: Any = None) -> list[dict[str, Any]]:  # noqa: ARG002
        """Answers a request as MLflow hands it over.

        Args:
            model_input: `{"task": name, "inputs": [...]}`, or a DataFrame with the columns `task`
                and `inputs` (or `text`, with `text_pair` if wanted), one row per input.
            params: Not used; MLflow passes it.

        Raises:
            TaskError: The request has another form, an unknown task or a wrong input.
        """
        requests = list(_requests(model_input))
        answers: list[dict[str, Any]] = [{}] * len(requests)
        for task in dict.fromkeys(task for task, _ in requests):
            places = [i for i, (name, _) in enumerate(requests) if name == task]
            for place, answer in zip(
                places, self.answer(task, [requests[i][1] for i in places]), strict=True
            ):
                answers[place] = answer
        return answers

    def _input(self, value: Any) -> Any:
        if self.encoder.reads_images:
            return value
        if isinstance(value, Mapping):
            value = (value.get("text"), value.get("text_pair"))
        if isinstance(value, list | tuple | np.ndarray):
            texts = tuple(text for text in value if text is not None)
            value = texts[0] if len(texts) == 1 else texts
        parts = value if isinstance(value, tuple) else (value,)
        if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
            raise TaskError(f"Expected a text or a pair of texts as input, found {value!r:.100}.")
        return value


def _move_together(models: Sequence[Any], device: torch.device) -> None:
    """Moves models to a device; what they share is moved once, and shared there as well."""
    moved: dict[tuple[int, torch.Size], tuple[Tensor, Tensor]] = {}

    def move(tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tensor.shape)
        if key not in moved:
            moved[key] = (tensor, tensor.to(device))  # the first is kept, so that its address is
        return moved[key][1]

    for model in models:
        model._apply(move)  # noqa: SLF001 - what .to() does, with a memory


def verify_manifest(directory: Path) -> dict[str, Any]:
    """The manifest, after every file it lists was found to have the recorded SHA-256.

    Raises:
        TaskError: No manifest, a missing or changed file, or one that the manifest does not list.
    """
    path = Path(directory) / MANIFEST
    if not path.is_file():
        raise TaskError(f"{path} is missing: this is not a whole merged model. Pull it again.")
    manifest: dict[str, Any] = json.loads(path.read_text())
    files: dict[str, str] = manifest["files"]
    for name, expected in files.items():
        if _sha256(Path(directory) / name) != expected:
            raise TaskError(
                f"{name}: expected SHA-256 {expected}, found another. The file was changed "
                "after the model was built; it will not be loaded. Restore it or roll back."
            )
    for folder in ("model", "heads"):
        for found in (Path(directory) / folder).rglob("*"):
            name = found.relative_to(directory).as_posix()
            if found.is_file() and name not in files:
                raise TaskError(f"{name} is not in the manifest; the model will not be loaded.")
    return manifest


def _sha256(path: Path) -> str:
    if not path.is_file():
        return "(missing)"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _requests(model_input: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(model_input, pd.DataFrame):
        yield from _rows(model_input)
        return
    if not isinstance(model_input, Mapping) or not {"task", "inputs"} <= set(model_input):
        raise TaskError('Expected {"task": name, "inputs": [...]}.')
    tasks = np.atleast_1d(np.asarray(model_input["task"])).tolist()
    inputs = model_input["inputs"]
    if isinstance(inputs, str | bytes):
        inputs = [inputs]
    if len(tasks) not in (1, len(inputs)):
        raise TaskError(f"Expected one task or one per input, found {len(tasks)}.")
    yield from zip(tasks * len(inputs) if len(tasks) == 1 else tasks, inputs, strict=True)


def _rows(table: pd.DataFrame) -> Iterable[tuple[str, Any]]:
    column = "inputs" if "inputs" in table.columns else "text"
    if not {"task", column} <= set(table.columns):
        raise TaskError(f"Expected columns task and inputs (or text), found {list(table.columns)}.")
    seconds = table["text_pair"] if "text_pair" in table.columns else [None] * len(table)
    for task, value, second in zip(table["task"], table[column], seconds, strict=True):
        many = isinstance(value, list | np.ndarray) and column == "inputs"
        for one in value if many else [value]:
            yield task, (one, second) if isinstance(second, str) else one


def _load_pyfunc(path: str) -> MergedModel:
    """What MLflow calls with the model's directory."""
    return MergedModel(Path(path))
