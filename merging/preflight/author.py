"""An expert as its author's library loads it: transformers alone, or PEFT on the base.

What is here goes by the folder and by nothing of this project's own reading of it, or it could prove
nothing. Only safetensors are read, nothing is fetched, and no code runs that a folder brings.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
)

from merging.experts.expert import Expert
from merging.experts.rows import Input
from merging.kinds import ModelKind
from merging.preflight.quiet import quietly
from merging.serving import auto_class, decode_image, parse_config

OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
# Size of the change of every number that shows how far a model carries the rounding of its numbers:
# four times the rounding of fp32.
SHAKEN = 2.0**-22
LARGEST = 10**9  # Tokenizers without a limit have one like this.


class Author:
    """An expert's model and what reads its inputs, loaded by transformers or PEFT.

    Anything may be raised by what these libraries make of a folder.

    Attributes:
        model: The task model, fp32, in evaluation mode.
        processor: The tokenizer or image processor that the expert brings, else the base's.
        unexpected: Tensors in the folder that the model's class does not use.
        positions: Most tokens that the model has room for; None where its tokenizer has to say.
    """

    def __init__(self, base: Path, expert: Expert, kind: ModelKind) -> None:
        folder = expert.files.directory
        self.kind = kind
        self.positions: int | None = None
        self.unexpected: tuple[str, ...] = ()
        with quietly():
            names = [path.name for path in folder.iterdir()]
            self.processor = load_processor(folder if brings_processor(names, kind) else base, kind)
            if expert.files.is_adapter:
                self.model = self._adapter(base, folder, expert)
            else:
                self.model = self._checkpoint(folder, expert.files.checkpoint.wrapper)
        self.model.eval()

    def _checkpoint(self, folder: Path, wrapper: str) -> Any:
        config = AutoConfig.from_pretrained(folder, **OFFLINE)
        model, info = auto_class(config, self.kind).from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            # Names behind a wrapper are the one thing that authors have to tell transformers.
            key_mapping={f"^{re.escape(wrapper)}": ""} if wrapper else None,
            **OFFLINE,
        )
        self.unexpected = tuple(sorted(info["unexpected_keys"]))
        return model

    def _adapter(self, base: Path, folder: Path, expert: Expert) -> Any:
        from peft import PeftModel

        config = parse_config(expert.head.config)
        model = auto_class(config, self.kind).from_pretrained(
            base, config=config, dtype=torch.float32, use_safetensors=True, **OFFLINE
        )
        return PeftModel.from_pretrained(model, str(folder))

    @torch.inference_mode()
    def logits(self, value: Input, target: list[int]) -> Tensor:
        """Answers to one input alone: fp32 [1, classes], or [tokens of the target, vocabulary].

        Args:
            value: A text, a pair, or an encoded image.
            target: Token ids of the answer that a generator is given; else empty.
        """
        inputs = self.encode(value)
        if self.kind.has_head:
            return self.model(**inputs).logits
        if self.model.config.is_encoder_decoder:
            return self.model(**inputs, labels=torch.tensor([target])).logits[0]
        tokens = torch.cat([inputs["input_ids"], torch.tensor([target])], 1)
        return self.model(input_ids=tokens).logits[0, -len(target) - 1 : -1]

    @torch.inference_mode()
    def answer(self, value: Input, new_tokens: int) -> tuple[str, float]:
        """The greedy answer, and by how little its closest choice between two tokens was made."""
        inputs = self.encode(value)
        with quietly():
            out = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=new_tokens,
                return_dict_in_generate=True,
                output_scores=True,
                tokenizer=self.processor,
            )
        tokens = out.sequences[0]
        if not self.model.config.is_encoder_decoder:
            tokens = tokens[inputs["input_ids"].shape[1] :]
        best = torch.stack(out.scores).squeeze(1).topk(2).values
        closest = (best[:, 0] - best[:, 1]).nan_to_num(posinf=float("inf")).min()
        return self.processor.decode(tokens, skip_special_tokens=True).strip(), float(closest)

    def encode(self, value: Input) -> dict[str, Tensor]:
        """A batch of one input, at most as long as the tokenizer says that texts may be."""
        if self.kind.reads_images:
            images = [decode_image(value)]  # type: ignore[arg-type]
            return {"pixel_values": self.processor(images, return_tensors="pt")["pixel_values"]}
        texts = value if isinstance(value, tuple) else (value,)
        longest = min(int(self.processor.model_max_length), self.positions or LARGEST)
        # As lists, as Trainer's examples come: of a pair whose second text is empty it makes a pair.
        columns = ([text] for text in texts)
        encoded = self.processor(*columns, truncation=True, max_length=longest, return_tensors="pt")
        # Trainer, too, leaves out what the model does not take.
        model = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        taken = inspect.signature(model.forward).parameters
        unwanted = set() if self.kind.has_head else {"token_type_ids"}
        return {n: t for n, t in encoded.items() if n in taken and n not in unwanted}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by their names in the task model, an adapter merged into them by PEFT.

        Afterwards an adapter's model is another one: ask it for answers before.
        """
        if hasattr(self.model, "merge_and_unload"):
            self.model = self.model.merge_and_unload()
        return self.model.state_dict()

    @torch.no_grad()
    def shake(self) -> None:
        """Changes every number of the model by about the rounding of fp32, up or down by chance."""
        generator = torch.Generator().manual_seed(0)
        for parameter in self.model.parameters():
            signs = torch.randint(0, 2, parameter.shape, generator=generator, dtype=torch.int8)
            parameter.mul_(1 + SHAKEN * (2 * signs - 1).to(parameter.dtype))


def load_processor(folder: Path, kind: ModelKind) -> Any:
    """The tokenizer or image processor of a folder."""
    if kind.reads_images:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", **OFFLINE)
    return AutoTokenizer.from_pretrained(folder, **OFFLINE)


def brings_processor(names: Iterable[str], kind: ModelKind) -> bool:
    """Whether files of a tokenizer or image processor are among those of a folder, by their names."""
    texts, images = ("tokenizer*", "vocab.*", "merges.txt", "*.model"), ("*processor_config.json",)
    patterns = images if kind.reads_images else texts
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
