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
import inspect
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

MANIFEST = "manifest.json"
# transformers reads the index only where the first of these is missing; the second is a head's.
WEIGHTS = ("model.safetensors", "head.safetensors")
WEIGHTS_INDEX = "model.safetensors.index.json"
GENERATION = "generation_config.json"  # As transformers calls it; beside a head's config.json.
LONGEST_TEXT = 512  # Tokens of a text, where neither tokenizer nor model has a limit.
NEW_TOKENS = 64  # Most tokens of a generated answer, where its author says nothing.
NAMED = 5  # Tensors that a message names.
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
            f"transformers' {auto.__name__} has no class for model type {parsed.model_type}, so there is "
            f"no {kind} of it. Use an architecture that has one."
        ) from error
    classes = mapped if isinstance(mapped, tuple) else (mapped,)
    named = [c for c in classes if c.__name__ in (parsed.architectures or ())]
    return (named or classes)[0], parsed


def assemble(
    config: Mapping[str, Any],
    kind: str,
    tensors: Mapping[str, Tensor],
    generation: Mapping[str, Any] | None = None,
) -> Any:
    """A task model in evaluation mode whose fp32 tensors share memory with `tensors`.

    Args:
        config: The task model's configuration, as in its config.json.
        kind: The kind of model.
        tensors: Backbone and head by their names in checkpoints, with or without prefix.
        generation: A generator's settings, as in its generation_config.json, where it has one.

    Raises:
        TaskError: A tensor that the model needs is missing or has another shape.
    """
    model, wrong = load_model(config, kind, tensors)
    if wrong:
        named = ", ".join(list(wrong.values())[:NAMED])
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise TaskError(
            f"{type(model).__name__}: expected every tensor of the model in its shape, found "
            f"{named}{more} missing or misshapen. Save base, expert and head from one model; "
            "an architecture whose tensors transformers renames while it loads them cannot be merged."
        )
    if model.can_generate():
        with _quiet_transformers():
            model.generation_config = greedy_settings(config, generation)
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and hasattr(module, "set_attention_type"):
            # BigBird goes over to full attention at its first short text, and would stay with it.
            module.register_forward_pre_hook(_use_own_attention)
    read = model.config.get_text_config()
    if not model.can_generate() and getattr(read, "pad_token_id", None) is None:
        # GPT-like classifiers then read the last token, whatever it is, and refuse a batch. An id that
        # no token has says the same of a batch.
        read.pad_token_id = -1
    return model


def load_model(
    config: Mapping[str, Any], kind: str, tensors: Mapping[str, Tensor]
) -> tuple[Any, dict[str, str]]:
    """A task model as `assemble` gives it, and which of its tensors are missing or misshapen.

    They are by name what messages call them, and hold what transformers starts them from.
    """
    cls, parsed = model_class(config, kind)
    with _quiet_transformers():
        model, info = cls.from_pretrained(
            None,
            config=parsed,
            state_dict=dict(tensors),
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    wrong = {key: key for key in sorted(info["missing_keys"])}
    return model, wrong | {key[0]: str(key) for key in sorted(info["mismatched_keys"], key=str)}


def _use_own_attention(module: Any, _: Any) -> None:
    module.set_attention_type(module.config.attention_type)


def greedy_settings(
    config: Mapping[str, Any], generation: Mapping[str, Any] | None
) -> GenerationConfig:
    """An author's generation settings, as transformers reads them, with the one greedy answer.

    Args:
        config: The model's config.json; older models have their settings there.
        generation: Its generation_config.json, where it has one.

    Raises:
        TaskError: transformers refuses them.
    """
    try:
        settings = (
            GenerationConfig.from_model_config(dict(config))
            if generation is None
            else GenerationConfig.from_dict(dict(generation))
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise TaskError(
            f"{GENERATION}: expected settings that transformers can use, found: {error}. Correct the "
            "file, or save it anew with model.generation_config.save_pretrained."
        ) from error
    # Only one answer is wanted, the likeliest token by token, and always the same.
    settings.do_sample, settings.num_beams, settings.num_return_sequences = False, 1, 1
    settings.return_dict_in_generate = settings.output_scores = settings.output_logits = False
    for other_search in (
        *("penalty_alpha", "dola_layers", "constraints", "force_words_ids", "num_beam_groups"),
        *("diversity_penalty", "use_mtp", "prompt_lookup_num_tokens", "assistant_early_exit"),
        "max_time",
    ):
        setattr(settings, other_search, None)
    return settings


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keeps back what transformers says about settings and weights that are as they have to be."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a merged model's backbone, sharded or not, or of a head, mapped from the files."""
    files = [path for name in WEIGHTS if (path := Path(directory) / name).is_file()]
    if not files and (index := Path(directory) / WEIGHTS_INDEX).is_file():
        names = json.loads(index.read_text())["weight_map"].values()
        files = [index.with_name(name) for name in sorted(set(names))]
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def read_generation(directory: Path) -> dict[str, Any] | None:
    """A generation_config.json, or None where there is none.

    Raises:
        TaskError: It is no JSON object.
    """
    path = Path(directory) / GENERATION
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise TaskError(f"{path}: expected JSON, found: {error}. Save it again.") from error
    if not isinstance(settings, dict):
        raise TaskError(f"{path}: expected a JSON object, found {settings!r:.40}. Save it again.")
    return settings


def read_processor(directory: Path, kind: str) -> Any:
    """The tokenizer or image processor of a folder; nothing is fetched, and none of its code is run.

    Raises:
        TaskError: transformers cannot read it.
    """
    reads_images = AutoModelForImageClassification in AUTO_CLASSES[kind]
    auto: Any = AutoImageProcessor if reads_images else AutoTokenizer
    how = {"backend": "pil"} if reads_images else {}
    try:
        return auto.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, **how
        )
    except Exception as error:  # tokenizers raises Exception itself where a file is broken
        what = "an image processor" if reads_images else "a tokenizer"
        raise TaskError(
            f"{directory}: expected {what} that transformers can read, found {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}. Save it with save_pretrained, beside the model."
        ) from error


Row = dict[str, Any]  # One input's token ids and what goes with them, or its pixel values.
# Gives what the model says to some rows together in one batch, a tensor for each row.
Answer = Callable[[Sequence[Row]], Tensor | Sequence[Tensor]]
# How rows may stand in one batch: padded on a side, or only if they are of equal length, or alone.
PADDINGS = ("right", "left", "equal", "alone")
# Generation settings that do not look at the tokens so far. With any other one, such as a penalty on
# repetition, padding would be among these tokens.
BLIND_SETTINGS = frozenset(
    {
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "num_beams"),
        *("max_length", "max_new_tokens", "use_cache", "suppress_tokens", "begin_suppress_tokens"),
        *("num_return_sequences", "early_stopping", "length_penalty", "transformers_version"),
        *("return_dict_in_generate", "output_scores", "output_logits"),
    }
)


class _Lookups(TorchFunctionMode):
    """Notes, while it is open, which rows of which embedding are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        if function is torch.nn.functional.embedding and len(args) >= 2:
            self.seen.append((args[0], args[1]))
        return function(*args, **(kwargs or {}))


class Encoder:
    """The one way from inputs to a model's batches: what reads them, how long they are, what pads them.

    An input's answer must not depend on the batch it is in. Models differ in what they make of padding,
    so the model itself is asked (`prove`) before rows of unlike length come together.

    Args:
        directory: Folder with the tokenizer or image processor.
        kind: The kind of model.
        model: The task model, or a bare backbone; it is asked, and not kept.
        processor: What `read_processor` gave for this folder, where that is at hand.

    Attributes:
        processor: The tokenizer or image processor.
        limit: Most tokens of an input.
        joined: Whether the answer of a generator goes on where its input ends, in the same row.
        settings: How a generator's author has it write, greedily.

    Raises:
        TaskError: No readable tokenizer or image processor, or a tokenizer without vocabulary.
    """

    def __init__(self, directory: Path, kind: str, model: Any, processor: Any = None) -> None:
        self.reads_images = AutoModelForImageClassification in AUTO_CLASSES[kind]
        self.writes_text = AutoModelForCausalLM in AUTO_CLASSES[kind]
        self.joined = self.writes_text and not model.config.is_encoder_decoder
        self.processor: Any = read_processor(directory, kind) if processor is None else processor
        self.settings: Any = model.generation_config if self.writes_text else None
        # Texts that go on need their padding in front of them; else it is usual behind.
        self.paddings = (
            sorted(PADDINGS, key=lambda way: way != "left") if self.joined else [*PADDINGS]
        )
        self._proven = range(0)  # Lengths between which padding was tried.
        self._ends: tuple[int, ...] = ()
        if not self.reads_images:
            self._read_text(directory, model)

    def _read_text(self, directory: Path, model: Any) -> None:
        config = model.config.get_text_config()
        self._takes = set(inspect.signature(model.forward).parameters)
        if self.writes_text:  # as transformers' own pipeline leaves them out
            self._takes.discard("token_type_ids")
        words = _word_table(model)
        self._words = 0 if words is None else len(words)  # 0 where any number may be looked up
        self._check_vocabulary(directory)
        if model.config.is_encoder_decoder and not self.writes_text:
            self._ends = _several(config.eos_token_id)
        # GPT-like classifiers look for the configuration's padding, whatever the tokenizer's is.
        padding = getattr(config, "pad_token_id", None)
        padding = padding if padding in range(self._words) else self.processor.pad_token_id
        self.padding = 0 if padding is None else int(padding)
        self.limit = LONGEST_TEXT
        positions, self._answer_positions = self._positions(model, words)
        self.limit = LONGEST_TEXT if positions is None else positions
        if self.joined:
            new, total = self.settings.max_new_tokens, self.settings.max_length
            if positions is not None:
                self.limit -= min(new or NEW_TOKENS, NEW_TOKENS, positions // 2)
            if new is None and total is not None:
                self.limit = min(self.limit, total - 1)
        self.limit = max(1, min(self.limit, int(self.processor.model_max_length)))

    def _check_vocabulary(self, directory: Path) -> None:
        """A tokenizer that transformers made up, since files of it are missing, is refused."""
        known = self.processor.vocab_size - len(set(self.processor.all_special_tokens))
        if known <= self._words // 10:
            raise TaskError(
                f"{directory}: expected a tokenizer with about as many tokens as the model knows "
                f"({self._words}), found {known}. Its vocabulary is missing: put all files that the "
                "tokenizer's save_pretrained writes beside the model."
            )

    @property
    def end_token(self) -> int | None:
        """What ends a generator's answer; its tokenizer's, unless its author stops at others."""
        ends = _several(self.settings.eos_token_id)
        own: int | None = self.processor.eos_token_id
        return ends[0] if ends and own not in ends else own

    @torch.no_grad()
    def _positions(self, model: Any, words: Tensor | None) -> tuple[int | None, int | None]:
        """Most tokens of an input, and of what a decoder reads; None where the model has no limit.

        A table of positions is an embedding in which the tokens of a text look up one row after the
        other; RoBERTa's begin behind those of its padding. Other models say what they were made for.
        """
        stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        batch = {n: t.to(model.device) for n, t in self.collate(self.encode(["1 2 3 4 5"])).items()}
        lengths = [batch["input_ids"].shape[1]]
        if self.writes_text and not self.joined:
            batch["decoder_input_ids"] = batch["input_ids"].repeat(1, 2)
            lengths.append(2 * lengths[0])
        with _Lookups() as lookups:
            try:
                model(**batch)
            except (RuntimeError, ValueError, IndexError):
                return stated, stated  # The first real input will tell what is wrong.
        found: dict[int, int] = {}
        for indices, table in lookups.seen:
            places = indices.flatten()
            if table is words or places.numel() != indices.shape[-1]:
                continue
            for length in lengths:
                steps = places[:length].diff()
                if len(steps) == length - 1 > 1 and bool((steps == 1).all()):
                    found[length] = len(table) - int(places[0])
        room = [min(filter(None, (found.get(n), stated)), default=None) for n in lengths]
        return room[0], room[-1]

    def encode(self, inputs: Sequence[Any]) -> list[Row]:
        """Token ids or pixel values of each input, as if it were alone.

        Args:
            inputs: Texts, pairs of texts, or encoded images.

        Raises:
            TaskError: An input that is no image, or whose tokens the model cannot read.
        """
        if self.reads_images:
            images = [self.processor([decode_image(v)], return_tensors="pt") for v in inputs]
            return [{"pixel_values": image["pixel_values"][0]} for image in images]
        parts = [_parts(value) for value in inputs]
        rows: list[Row] = [{} for _ in parts]
        for count in (1, 2):
            places = [i for i, texts in enumerate(parts) if len(texts) == count]
            if not places:
                continue
            columns = [list(column) for column in zip(*(parts[i] for i in places), strict=True)]
            encoded = self.processor(*columns, truncation=True, max_length=self.limit)
            for number, place in enumerate(places):
                rows[place] = {n: encoded[n][number] for n in encoded if n in self._takes}
        for row, value in zip(rows, inputs, strict=True):
            ids = row["input_ids"]
            if not ids or max(ids) >= self._words > 0:
                raise TaskError(
                    f"Expected an input with tokens that the model knows, found {value!r:.100}: its "
                    f"tokenizer gives {f'token {max(ids)} of {self._words}' if ids else 'no token'}."
                )
        return rows

    def answer_tokens(self, row: Row) -> int:
        """Most tokens of a generator's answer to a row."""
        length = len(row["input_ids"]) if self.joined else 0
        most, total = self.settings.max_new_tokens, self.settings.max_length
        if most is None:
            # The first token of a decoder of its own is given, and counted.
            most = NEW_TOKENS if total is None else total - (length if self.joined else 1)
        room = self._answer_positions
        return max(1, most if room is None else min(most, room - length))

    def answer_key(self, row: Row) -> tuple[int, int]:
        """What generator's rows of one batch have to agree in: the tokens of an answer, and its start.

        The start counts where a setting looks at the tokens so far, and so at padding.
        """
        usual = GenerationConfig._get_default_generation_params()  # noqa: SLF001 - has no public name
        for name, value in self.settings.to_diff_dict().items():
            seen = self.joined or name.startswith("encoder_")
            if seen and name not in BLIND_SETTINGS and value != usual.get(name):
                return self.answer_tokens(row), len(row["input_ids"])
        return self.answer_tokens(row), 0

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """One batch, [batch, tokens] or [batch, channels, height, width]."""
        if self.reads_images:
            return {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}
        fill = {"input_ids": self.padding, "token_type_ids": self.processor.pad_token_type_id}
        batch = {n: self.pad([row[n] for row in rows], fill.get(n, 0)) for n in rows[0]}
        if "attention_mask" in self._takes and "attention_mask" not in batch:
            batch["attention_mask"] = self.pad([[1] * len(row["input_ids"]) for row in rows], 0)
        return batch

    def pad(self, values: Sequence[Sequence[Any]], fill: int) -> Tensor:
        """Lists as one tensor, the shorter ones filled up on the side that the model's rows are."""
        width = max(len(value) for value in values)
        if self.paddings[0] == "left":
            return torch.tensor([[fill] * (width - len(value)) + list(value) for value in values])
        return torch.tensor([list(value) + [fill] * (width - len(value)) for value in values])

    def groups(
        self, rows: Sequence[Row], key: Callable[[Row], Any] = lambda _: None
    ) -> list[list[int]]:
        """Indices of rows that may stand in one batch, and that agree in `key`."""
        if self.paddings[0] == "alone":
            return [[index] for index in range(len(rows))]
        found: dict[Any, list[int]] = {}
        for index, row in enumerate(rows):
            if self.reads_images:
                kept: Any = row["pixel_values"].shape
            else:
                # Models with a decoder answer at the last of these tokens, and refuse unlike numbers.
                ends = sum(row["input_ids"].count(token) for token in self._ends)
                kept = (ends, len(row["input_ids"]) if self.paddings[0] == "equal" else None)
            found.setdefault((kept, key(row)), []).append(index)
        return list(found.values())

    @torch.no_grad()
    def prove(self, rows: Sequence[Row], answer: Answer) -> None:
        """Finds the way in which these rows may come together without a change in what is answered.

        A few of them, from the shortest to the longest, are asked alone and together. What was tried is
        not tried again.

        Raises:
            TaskError: The model cannot answer a row alone.
        """
        order = sorted(rows, key=lambda row: len(row.get("input_ids", ())))
        if self.reads_images or len(rows) < 2 or self.paddings[0] == "alone":
            return
        lengths = [len(row["input_ids"]) for row in (order[0], order[-1])]
        if all(length in self._proven for length in lengths):
            return
        chosen = [order[i] for i in sorted({part * (len(order) - 1) // 3 for part in range(4)})]
        with self.asking(chosen):
            alone = [answer([row])[0] for row in chosen]
        while not self._agree(chosen, alone, answer):
            self.paddings.pop(0)
        known = [*lengths, *([self._proven.start, self._proven.stop - 1] if self._proven else [])]
        self._proven = range(min(known), max(known) + 1)

    @contextmanager
    def asking(self, rows: Sequence[Row]) -> Iterator[None]:
        """Says, where a model cannot answer, how long these inputs are.

        Raises:
            TaskError: It cannot.
        """
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            lengths = ", ".join(sorted({str(len(row.get("input_ids", ()))) for row in rows}))
            raise TaskError(
                f"The model cannot answer inputs of {lengths} tokens ({str(error)[:200]}). Give it "
                "others, and see whether transformers alone answers these."
            ) from error

    def _agree(self, chosen: Sequence[Row], alone: Sequence[Tensor], answer: Answer) -> bool:
        """Whether rows in one batch are answered as they are alone, within what fp32 rounds."""
        if self.paddings[0] == "alone":
            return True
        for group in self.groups(chosen):
            places = group if len(group) > 1 else group * 2
            rows = [chosen[place] for place in places]
            try:
                with self.asking(rows):
                    together = answer(rows)
            except TaskError:
                return False
            for place, found in zip(places, together, strict=True):
                if not _equal_but_rounded(found, alone[place]):
                    return False
        return True

    def batches(
        self,
        rows: Sequence[Row],
        size: int = BATCH,
        key: Callable[[Row], Any] = lambda _: None,
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Indices and batch, rows of like length together so that little is padded.

        More than BATCH come together only as long as BATCH of the longest texts have more tokens.
        """
        lengths = [len(row.get("input_ids", ())) for row in rows]
        most = BATCH * LONGEST_TEXT
        for group in self.groups(rows, key):
            order = sorted(group, key=lengths.__getitem__)
            start = 0
            while start < len(order):
                stop = min(start + size, len(order))
                while stop - start > BATCH and (stop - start) * lengths[order[stop - 1]] > most:
                    stop -= 1
                yield order[start:stop], self.collate([rows[i] for i in order[start:stop]])
                start = stop


def _parts(value: Any) -> tuple[str, ...]:
    """The text of an input, or its two; a second one that is None is none."""
    parts = value if isinstance(value, tuple) else (value,)
    return parts[:1] if len(parts) == 2 and parts[1] is None else parts


def _equal_but_rounded(found: Tensor, expected: Tensor) -> bool:
    """Whether two answers differ by no more than another order of the same sums does."""
    share = max(1e-4, 16 * torch.finfo(expected.dtype).eps)
    found, expected = found.float(), expected.float()
    room = share * float(expected[expected.isfinite()].abs().amax())
    return torch.allclose(found, expected, share, room, equal_nan=True)


def _several(ids: int | Sequence[int] | None) -> tuple[int, ...]:
    """Token ids of a configuration, where one may stand for itself."""
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(ids)


def _word_table(model: Any) -> Tensor | None:
    """The embedding of a model's tokens; a few models have none, or several."""
    try:
        return getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None


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
        with _quiet_transformers():
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
            tensors = {**backbone, **read_weights(folder)}
            self.models[folder.name] = assemble(config, kind, tensors, read_generation(folder))
        _move_together(list(self.models.values()), self.device)
        processor = read_processor(directory / "model", kind)
        self.encoders = {
            task: Encoder(directory / "model", kind, model, processor)
            for task, model in self.models.items()
        }

    def answer(self, task: str, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """One answer per input: label and scores, or text.

        Raises:
            TaskError: No such task, or inputs of the wrong type.
        """
        if task not in self.models:
            raise TaskError(f"Unknown task {task!r}. This model answers: {', '.join(self.models)}.")
        model, encoder = self.models[task], self.encoders[task]
        values = list(inputs) if encoder.reads_images else [_text(value) for value in inputs]
        if encoder.writes_text:
            texts = generate(model, encoder, values, self.device)
            return [{"task": task, "text": text} for text in texts]
        labels = label_names(model.config.to_dict())
        rows = class_scores(model, encoder, values, self.device).softmax(-1).tolist()
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
        if wrong := [task for task, _ in requests if not isinstance(task, str)]:
            raise TaskError(f"Expected the name of a task, found {wrong[0]!r:.100}.")
        answers: list[dict[str, Any]] = [{}] * len(requests)
        for task in dict.fromkeys(task for task, _ in requests):
            places = [i for i, (name, _) in enumerate(requests) if name == task]
            for place, answer in zip(
                places, self.answer(task, [requests[i][1] for i in places]), strict=True
            ):
                answers[place] = answer
        return answers


def _text(value: Any) -> str | tuple[str, ...]:
    """A text, or a pair of texts as a tuple, from any form in which a request may have it."""
    if isinstance(value, Mapping):
        value = (value.get("text"), value.get("text_pair"))
    if isinstance(value, list | tuple | np.ndarray):
        texts = tuple(text for text in value if text is not None)
        value = texts[0] if len(texts) == 1 else texts
    parts = value if isinstance(value, tuple) else (value,)
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        raise TaskError(f"Expected a text or a pair of texts as input, found {value!r:.100}.")
    for part in parts:
        try:
            part.encode()
        except UnicodeEncodeError as error:
            raise TaskError(
                f"Expected text in Unicode as input, found half of a character (a lone surrogate) at "
                f"place {error.start} of {part!r:.100}. Decode the text with errors='replace'."
            ) from error
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
    tasks, inputs = model_input["task"], model_input["inputs"]
    tasks = [tasks] if isinstance(tasks, str) else tasks
    inputs = [inputs] if isinstance(inputs, str | bytes) else inputs
    for name, values in (("task", tasks), ("inputs", inputs)):
        if not isinstance(values, list | tuple | np.ndarray):
            raise TaskError(f"Expected a list as {name}, found {values!r:.100}.")
    tasks = list(tasks)
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
