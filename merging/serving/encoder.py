"""From inputs to batches of tokens or pixels, such that no input's answer depends on the others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoTokenizer,
    GenerationConfig,
)

from .images import decode_image
from .loading import AUTO_CLASSES, TaskError

LONGEST_TEXT = 512  # Tokens of a text, where neither tokenizer nor model has a limit.
NEW_TOKENS = 64  # Most tokens of a generated answer, where its author says nothing.
BATCH = 32  # Inputs in one forward pass.
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
        stated = None if stated == -1 else stated  # XLNet's way to say that it has no limit.
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
